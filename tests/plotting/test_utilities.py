"""Pictures: what is drawn, into which axes, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

import nashsolve as ns
from nashsolve.plotting import plot_solution, plot_utilities, save
from nashsolve.plotting.figure import MARKERS, OKABE_ITO

matplotlib = pytest.importorskip("matplotlib", reason="the extra 'plot' is not installed")
matplotlib.use("Agg")

RULES = {"nash": np.array([1.0, 2.0]), "sum": np.array([-1.0, 3.0])}


def test_utilities_are_drawn_and_saved(tmp_path):
    ax = plot_utilities(RULES, names=["ann", "bob"])
    assert [line.get_ydata().tolist() for line in ax.lines] == [[1.0, 2.0], [-1.0, 3.0]]
    assert [t.get_text() for t in ax.get_xticklabels()] == ["ann", "bob"]
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["nash", "sum"]
    assert save(ax, tmp_path / "a.png").stat().st_size > 1000


def test_rules_differ_in_shape_and_colour():
    ax = plot_utilities({str(k): np.ones(3) for k in range(8)})
    assert len({line.get_marker() for line in ax.lines}) == len(MARKERS)
    assert len({line.get_color() for line in ax.lines}) == len(OKABE_ITO)


def test_given_axes_are_used_and_returned():
    from matplotlib.figure import Figure

    ax = Figure().add_subplot()
    assert plot_utilities(RULES, ax=ax) is ax
    assert plot_solution(ns.solve(np.eye(2)), ax=ax) is ax


def test_solution_shows_disagreement_and_gain():
    problem = ns.BargainingProblem(gram=np.eye(2), disagreement=[0.2, 0.1], radius=1.0)
    solution = ns.solve(problem)
    ax = plot_solution(solution)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_array_equal(heights[:2], solution.gains)
    assert ax.patches[2].get_hatch() and not ax.patches[0].get_hatch()


def test_refusals():
    with pytest.raises(ns.InvalidProblem, match="names has 1"):
        plot_utilities(RULES, names=["ann"])
    with pytest.raises(ns.InvalidProblem, match="shape"):
        plot_utilities({"a": np.ones(2), "b": np.ones(3)})
    with pytest.raises(ns.InvalidProblem, match="told apart"):
        plot_utilities({str(k): np.ones(2) for k in range(9)})
    opposed = ns.BargainingProblem(vectors=np.array([[1.0], [-1.0]]))
    with pytest.raises(ns.InvalidProblem, match="one agreement"):
        plot_solution(ns.solve(opposed, on_failure="return"))


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ns.MissingExtra, match=r"nashsolve\[plot\]"):
        plot_utilities(RULES)
