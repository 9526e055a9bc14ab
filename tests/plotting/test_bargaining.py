"""Pictures of bargaining problems: what is drawn is what was computed."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns

matplotlib = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
matplotlib.use("Agg")

from nashsolve import plotting  # noqa: E402

TABLE = ns.OutcomeBargainingProblem([[0, 0], [10, 0], [8, 4], [0, 6]], names=["ann", "bob"], disagreement=[1, 0.5])
BALL = ns.BargainingProblem(vectors=np.array([[3.0, 1, 0], [0.5, 2, 0], [-1, 0.5, 2]]), radius=1.0)


def labelled(ax):
    return {line.get_label(): line.get_xydata() for line in ax.lines if not line.get_label().startswith("_")}


def test_frontier_of_a_table():
    found = ns.compare(TABLE)
    ax = plotting.plot_frontier(TABLE, found.solutions)
    drawn = labelled(ax)
    np.testing.assert_allclose(drawn["frontier"], [[0, 6], [8, 4], [10, 0]])
    np.testing.assert_allclose(drawn["disagreement"], [[1, 0.5]])
    np.testing.assert_allclose(drawn["Nash"], [found["nash"].utilities])
    np.testing.assert_allclose(drawn["ideal point"], [found["kalai_smorodinsky"].details["ideal"]])
    level = drawn["level of the Nash product"] - [1, 0.5]
    np.testing.assert_allclose(level.prod(axis=1), found["nash"].gains.prod(), rtol=1e-9)
    assert ax.get_xlabel() == "utility of ann"


def test_frontier_options_and_other_families():
    nash = ns.solve(TABLE)
    bare = plotting.plot_frontier(TABLE, [nash], ideal=False, level_curve=False)
    assert set(labelled(bare)) == {"frontier", "disagreement", "Nash"}
    curve = ns.frontier(lambda u: (1 - u**2) ** 0.5, span=(0.0, 1.0))
    points = labelled(plotting.plot_frontier(curve, many=9))["frontier"]
    np.testing.assert_allclose(np.hypot(*points.T), 1.0, atol=1e-6)
    assert len(points) < len(labelled(plotting.plot_frontier(curve))["frontier"])
    ball = ns.BargainingProblem(vectors=np.eye(2), radius=2.0)
    points = labelled(plotting.plot_frontier(ball))["frontier"]
    np.testing.assert_allclose(np.hypot(*points.T), 2.0)
    single = ns.OutcomeBargainingProblem([[1, 2], [2, 1]], lotteries=False)
    assert "frontier" not in labelled(plotting.plot_frontier(single))
    ax = ns.solve(TABLE).plot_frontier()
    assert "Nash" in labelled(ax)


def test_weighted_level_curve_is_that_of_the_weighted_product():
    table = ns.OutcomeBargainingProblem(TABLE.payoffs, weights=[3, 1])
    nash = ns.solve(table)
    level = labelled(plotting.plot_frontier(table, [nash]))["level of the Nash product"]
    np.testing.assert_allclose(np.log(level) @ [3, 1], float(nash.log_nash_product), rtol=1e-9)


def test_simplex_shows_shares_of_the_gains():
    solutions = ns.compare(BALL, ["nash", "utilitarian"]).solutions
    drawn = labelled(plotting.plot_simplex(BALL, solutions))
    share = solutions["nash"].gains / solutions["nash"].gains.sum()
    corners = np.array([[0, 0], [1, 0], [0.5, 3**0.5 / 2]])
    np.testing.assert_allclose(drawn["Nash"], [share @ corners])
    moved = labelled(plotting.plot_simplex(BALL, solutions, relative=True))
    assert not np.allclose(moved["Nash"], drawn["Nash"])


def test_hemisphere_is_an_equal_area_map_around_the_first_agreement():
    solutions = ns.compare(BALL, ["nash", "utilitarian"]).solutions
    drawn = labelled(plotting.plot_hemisphere(BALL, solutions))
    np.testing.assert_allclose(drawn["Nash"], [[0, 0]], atol=1e-9)
    angle = np.arccos(np.clip(solutions["nash"].point @ solutions["utilitarian"].point, -1, 1))
    np.testing.assert_allclose(np.linalg.norm(drawn["utilitarian"]), 2 * np.sin(angle / 2), rtol=1e-6)


def test_gains_as_bars():
    solutions = ns.compare(BALL, ["nash", "egalitarian"]).solutions
    ax = plotting.plot_gains(solutions)
    heights = np.array([bar.get_height() for bar in ax.patches])
    np.testing.assert_allclose(heights[:3], solutions["nash"].gains)
    assert len({bar.get_hatch() for bar in ax.patches}) == 2


def test_convergence_and_sweep():
    ax = plotting.plot_convergence({"a": [np.inf, 1.0, 1e-3, 0.0], "b": [1.0, 1e-9]})
    assert np.isnan(ax.lines[0].get_ydata()[0]) and ax.lines[0].get_ydata()[3] > 0
    assert plotting.plot_convergence({"a": [1.0]}, ylabel="error").get_ylabel() == "error"
    pie = ns.split(1.0, names=["ann", "bob"])
    swept = ns.sweep(pie, "disagreement", [0.0, 0.4], player=0)
    ax = swept.plot()
    np.testing.assert_allclose(ax.lines[0].get_xydata(), np.column_stack([[0, 0.4], swept.utilities[:, 0]]))
    ax = ns.sweep(pie, "weights", [[1, 1], [3, 1]]).plot()
    np.testing.assert_allclose(ax.lines[0].get_xdata(), [0.5, 0.75])


def test_axioms_matrix():
    reports = [ns.axioms.check(TABLE, name, ["symmetry", "independence"]) for name in ("nash", "kalai_smorodinsky")]
    ax = plotting.plot_axioms(reports)
    assert [t.get_text() for t in ax.texts] == ["—", "holds", "—", "fails"]
    assert [bar.get_hatch() for bar in ax.patches] == [None, None, None, "///"]


@pytest.mark.parametrize(
    "draw",
    [
        lambda ax: plotting.plot_frontier(TABLE, ax=ax),
        lambda ax: plotting.plot_simplex(BALL, [ns.solve(BALL)], ax=ax),
        lambda ax: plotting.plot_hemisphere(BALL, ax=ax),
        lambda ax: plotting.plot_gains([ns.solve(BALL)], ax=ax),
        lambda ax: plotting.plot_convergence({"a": [1.0]}, ax=ax),
        lambda ax: plotting.plot_axioms([ns.axioms.check(TABLE, "nash", ["symmetry"])], ax=ax),
        lambda ax: plotting.plot_sweep(ns.sweep(TABLE, "weights", [[1, 1]]), ax=ax),
    ],
)
def test_given_axes_are_used_and_returned(draw):
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert draw(ax) is ax


@pytest.mark.parametrize(
    ("draw", "words"),
    [
        (lambda: plotting.plot_frontier(BALL), "two players"),
        (lambda: plotting.plot_simplex(TABLE, []), "three players"),
        (lambda: plotting.plot_hemisphere(TABLE), "ball problem of three players"),
        (lambda: plotting.plot_gains([]), "at least one agreement"),
        (lambda: plotting.plot_convergence({}), "at least one"),
        (lambda: plotting.plot_convergence({"a": [-1.0]}), "numbers >= 0"),
        (lambda: plotting.plot_axioms([]), "axioms.check"),
        (
            lambda: plotting.plot_gains([ns.solve(ns.OutcomeBargainingProblem([[1, -1]]), on_failure="return")]),
            "no agr",
        ),
        (lambda: plotting.plot_gains({str(i): ns.solve(TABLE) for i in range(10)}), "told apart"),
    ],
)
def test_refusals(draw, words):
    with pytest.raises(ns.InvalidProblem, match=words):
        draw()
