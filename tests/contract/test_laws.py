"""The bargaining laws M1-M14, for every engine of the catalog on every array library that its row names.

Answers are compared by their own error bounds, so an engine that states an honest large bound passes and one
that states a bound too small fails. Engines that may refuse an instance (ccp) must keep the law wherever they
claim success, and test_success_is_not_rare shows that they do claim it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nashsolve as ns
from nashsolve import Status
from nashsolve.backends import catalog
from tests.asserts import as_numpy as numpy_of
from tests.asserts import (
    assert_alpha_near,
    assert_bitwise,
    assert_near,
    assert_no_agreement_certificate,
    assert_same_kind,
    assert_status,
    assert_success,
)
from tests.contract.geometry import HARD, MILD, Case, cases
from tests.helpers import engine_library_params, needs, to_library
from tests.tolerances import dtype_name, tolerance

ULP = tolerance("float64", "ulp")
SUM = tolerance("float64", "sum")
SLOW = ("cvxpy", "ccp")
SLOW_EXAMPLES = 4
STRICT_EXAMPLES = 15
seeds = st.integers(0, 2**32 - 1)
every_engine = pytest.mark.parametrize(("row", "library"), engine_library_params())


def check(
    row: catalog.Row,
    library: str,
    law: Callable[[Any, Case], None],
    *,
    zero_only: bool = False,
    kinds: Any = None,
    most: int = 8,
) -> None:
    """Run a law on drawn problems that suit the engine."""
    slow = row.name in SLOW
    kinds = kinds or (MILD if slow or row.name == "closed_form" else HARD)
    strategy = cases(
        tuple(k for k in kinds if not (slow and k not in MILD)),
        4 if slow else most,
        disagreement=row.disagreement and not zero_only,
        diagonal=row.name == "closed_form",
    )

    @given(data=st.data(), case=strategy)
    def run(data: Any, case: Case) -> None:
        law(data, case)

    if slow:
        run = settings(settings.default, max_examples=SLOW_EXAMPLES)(run)
    elif library == "array_api_strict":
        run = settings(settings.default, max_examples=STRICT_EXAMPLES)(run)
    run()


class Engine:
    """solve() by one engine on one array library; answers as NumPy."""

    def __init__(self, row: catalog.Row, library: str) -> None:
        self.row, self.library = row, library

    def __call__(self, case: Case, dtype: str = "float64", start: Any = None, **extra: Any) -> ns.Solution | None:
        """None where the engine may fail and says that it did."""
        problem = case.problem(self.library, dtype, **extra)
        assert catalog.make(self.row.name).why_not(problem) is None
        given_start = None if start is None else to_library(self.library, start)
        solution = ns.solve(problem, solver=self.row.name, start=given_start, on_failure="return")
        assert_same_kind(solution.alpha, to_library(self.library, [1.0]), dtype_name(solution.alpha))
        assert dtype_name(solution.alpha) == dtype
        if solution.success:
            assert_success(solution)
            return solution
        if self.row.name == "ccp":
            assert_status(solution, Status.NUMERICAL_ERROR, Status.MAX_ITER)
            return None
        assert_success(solution)
        return None


def same(one: ns.Solution | None, other: ns.Solution | None, map_alpha: Any = None, map_bound: Any = None) -> None:
    """`one.alpha` is `map_alpha(other.alpha)`, to both bounds."""
    if one is None or other is None:
        return
    alpha, bound = numpy_of(other.alpha), numpy_of(other.error_bound) + _storage(other)
    mapped = alpha if map_alpha is None else map_alpha(alpha)
    mapped_bound = bound if map_bound is None else map_bound(bound)
    assert_alpha_near(one.alpha, numpy_of(one.error_bound) + _storage(one), mapped, mapped_bound)


def _storage(solution: ns.Solution) -> float:
    return tolerance(dtype_name(solution.alpha), "ulp")


@every_engine
def test_M1_permuted_players_permute_alpha(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        order = np.array(data.draw(st.permutations(range(case.n))))
        d = None if case.disagreement is None else case.disagreement[order]
        moved = case.but(vectors=case.vectors[order], weights=case.weights[order], disagreement=d)
        same(solve(moved), solve(case), lambda a: a[order], lambda b: b[order])

    check(row, library, law)


@every_engine
def test_M2_rescaled_players_rescale_alpha(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        rng = np.random.default_rng(data.draw(seeds))
        factors = 2.0 ** rng.integers(-6, 7, case.n)
        d = None if case.disagreement is None else case.disagreement * factors
        one, other = solve(case.but(vectors=case.vectors * factors[:, None], disagreement=d)), solve(case)
        same(one, other, lambda a: a / factors)
        if one is not None and other is not None and row.name != "ccp" and case.disagreement is None:
            assert_bitwise(numpy_of(one.alpha) * factors, numpy_of(other.alpha))

    check(row, library, law)


@every_engine
def test_M3_rescaled_weights(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        c = 10.0 ** data.draw(st.floats(-3, 3))
        factor = np.sqrt(c) if case.radius is None else c
        same(solve(case.but(weights=c * case.weights)), solve(case), lambda a: factor * a)

    check(row, library, law)


@every_engine
def test_M4_equal_players_get_equal_alpha(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        if row.name == "closed_form":
            case = case.but(vectors=case.vectors[:1], weights=case.weights[:1])
        twice = [*range(case.n), 0]
        d = None if case.disagreement is None else case.disagreement[twice]
        found = solve(case.but(vectors=case.vectors[twice], weights=case.weights[twice], disagreement=d))
        same(found, found, lambda a: a[[case.n, *range(1, case.n), 0]])

    check(row, library, law)


@every_engine
def test_M5_rotated_or_padded_vectors(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)
    half = np.array([[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]) / 2

    def law(data: Any, case: Case) -> None:
        size = np.abs(case.vectors).max(axis=1, keepdims=True)
        size = 2.0 ** np.floor(np.log2(size))
        # on a grid on which this rotation rounds nothing
        vectors = np.round(case.vectors / size * 2.0**20) * 2.0**-20 * size
        case = case.but(vectors=vectors, by_gram=False)
        n, p = vectors.shape
        padded = np.concatenate([vectors, np.zeros((n, -p % 4 + 4))], axis=1)
        turned = (padded.reshape(n, -1, 4) @ half).reshape(n, -1)[:, ::-1]
        plain = solve(case)
        same(solve(case.but(vectors=padded)), plain)
        same(solve(case.but(vectors=turned)), plain)

    check(row, library, law, kinds=tuple(k for k in HARD if k != "margin"))


@every_engine
def test_M6_no_point_of_the_ball_is_better(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        found = solve(case.but(by_gram=False))
        if found is None:
            return
        gains = numpy_of(found.gains)
        assert (gains > 0).all()
        radius = case.radius if case.radius is not None else np.sqrt(case.weights.sum())
        rng = np.random.default_rng(data.draw(seeds))
        point = numpy_of(found.point)
        assert np.linalg.norm(point) <= radius * (1 + SUM)
        others = point + np.array([1.0, 1e-1, 1e-3])[:, None, None] * radius * rng.standard_normal((20, len(point)))
        others *= np.minimum(1, radius / np.linalg.norm(others, axis=-1))[..., None]
        d = 0.0 if case.disagreement is None else case.disagreement
        rival = others @ case.vectors.T - d
        fine = (rival > 0).all(-1)
        value = case.weights @ np.log(gains)
        best = (case.weights * np.log(np.where(fine[..., None], rival, 1.0))).sum(-1)[fine]
        rounding = tolerance("float64", "rtol") * (1 + np.abs(case.weights * np.log(gains)).sum())
        assert (best <= value + float(found.gap) + rounding).all()

    check(row, library, law)


@every_engine
def test_M7_splitting_a_weight_over_copies(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        if row.name == "closed_form":
            case = case.but(vectors=case.vectors[:1], weights=case.weights[:1])
        share = data.draw(st.floats(0.05, 0.95))
        split = case.but(
            vectors=np.concatenate([case.vectors, case.vectors[:1]]),
            weights=np.concatenate([[share * case.weights[0]], case.weights[1:], [(1 - share) * case.weights[0]]]),
            disagreement=None if case.disagreement is None else np.append(case.disagreement, case.disagreement[0]),
        )
        ratio = np.append(np.ones(case.n), 0.0)
        ratio[0], ratio[-1] = share, 1 - share
        back = [*range(case.n), 0]
        same(solve(split), solve(case), lambda a: a[back] * ratio, lambda b: b[back] + 4 * ULP)

    check(row, library, law)


@every_engine
def test_M8_a_player_who_agrees(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        if row.name == "closed_form":
            case = case.but(vectors=case.vectors[:1], weights=case.weights[:1])
        case = case.but(radius=None)
        found = solve(case)
        if found is None:
            return
        # a Gram with exact zeros keeps the new player out of every rounding error of the others
        direction = numpy_of(found.alpha) @ case.vectors
        extra, scale = data.draw(st.floats(0.1, 10)), data.draw(st.sampled_from([0.5, 1.0, 4.0]))
        more = case.but(
            vectors=np.concatenate([case.vectors, [scale * direction]]), weights=np.append(case.weights, extra)
        )
        total = case.weights.sum()
        longer = np.sqrt((total + extra) / total)
        with_friend = solve(more)
        if with_friend is None:
            return
        agreed = numpy_of(with_friend.alpha) @ more.vectors
        angle = np.linalg.norm(agreed / np.linalg.norm(agreed) - direction / np.linalg.norm(direction))
        allowed = float(found.angle_bound) + float(with_friend.angle_bound)
        own = numpy_of(found.error_bound).max() * np.sqrt(total / case.weights.min())
        assert angle <= 2 * (allowed + own) + SUM
        assert_near(np.linalg.norm(agreed), longer * np.linalg.norm(direction), 4 * (allowed + own) + SUM)

    check(row, library, law, zero_only=True, kinds=MILD)


@every_engine
def test_M9_orthogonal_groups_decouple(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        rng = np.random.default_rng(data.draw(seeds))
        m = 1 if row.name == "closed_form" else 3
        if row.name == "closed_form" and case.n == 2:
            case = case.but(vectors=case.vectors[:1], weights=case.weights[:1])
        other = Case(np.abs(rng.standard_normal((m, 3))) + 0.1, rng.uniform(0.5, 2, m), by_gram=case.by_gram)
        case = case.but(radius=None)
        both = np.zeros((case.n + m, case.vectors.shape[1] + 3))
        both[: case.n, :-3], both[case.n :, -3:] = case.vectors, other.vectors
        joint = solve(case.but(vectors=both, weights=np.concatenate([case.weights, other.weights])))
        parts = solve(case), solve(other)
        if joint is None or None in parts:
            return
        wanted = np.concatenate([numpy_of(s.alpha) for s in parts])
        bound = np.concatenate([numpy_of(s.error_bound) for s in parts])
        assert_alpha_near(joint.alpha, joint.error_bound, wanted, bound)

    check(row, library, law, zero_only=True)


@every_engine
def test_M10_independence_of_irrelevant_alternatives(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        case = case.but(by_gram=False)
        found = solve(case)
        if found is None:
            return
        # an ellipsoid inside the ball that still holds the agreement: fewer alternatives, same agreement
        point = numpy_of(found.point)
        unit = point / np.linalg.norm(point)
        squeeze = data.draw(st.floats(0.1, 3.0))
        metric = np.eye(len(unit)) + squeeze * (np.eye(len(unit)) - np.outer(unit, unit))
        metric = (metric + metric.T) / 2
        if row.name == "closed_form" and case.n > 2:
            return
        less = solve(case.but(metric=metric))
        if less is None:
            return
        size = np.linalg.norm(point)
        wobble = float(found.angle_bound) + float(less.angle_bound) + 2 * _inside(found) + 2 * _inside(less)
        assert np.linalg.norm(numpy_of(less.point) - point) <= size * (4 * wobble * (1 + squeeze) + 10 * SUM)

    check(row, library, law, kinds=MILD)


def _inside(solution: ns.Solution) -> float:
    """Error of the point where no angle describes it: the ball is inactive."""
    worst = float(numpy_of(solution.error_bound).max())
    return (
        worst * float(np.sum(np.abs(numpy_of(solution.coefficients))) + 1)
        if float(solution.ball_multiplier) == 0
        else 0.0
    )


@needs("cvxpy")
@pytest.mark.parametrize("seed", range(4))
def test_M10_added_constraint_that_keeps_the_agreement(seed: int) -> None:
    rng = np.random.default_rng(seed)
    vectors = np.abs(rng.standard_normal((3, 4)))
    problem = ns.BargainingProblem(vectors=vectors, weights=rng.uniform(0.5, 2, 3))
    exact = ns.solve(problem)
    side = rng.standard_normal(4)
    limit = float(side @ exact.point) + 0.1
    found = ns.solve(problem, solver="cvxpy", constraints=lambda x: [side @ x <= limit])
    assert_near(found.point, exact.point, 0.0, catalog.make("cvxpy").rtol * np.linalg.norm(exact.point))
    binding = ns.solve(problem, solver="cvxpy", constraints=lambda x: [side @ x <= limit - 0.5])
    assert np.linalg.norm(binding.point - exact.point) > 0.1


@every_engine
def test_M11_small_changes_of_the_gram_stay_within_the_bound(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        case = case.but(by_gram=True)
        size = 10.0 ** -data.draw(st.integers(7, 12))
        rng = np.random.default_rng(data.draw(seeds))
        noise = rng.uniform(-1, 1, case.vectors.shape)
        if row.name == "closed_form" and case.n > 2:
            noise = np.eye(case.n) * rng.uniform(-1, 1)
        noise *= np.linalg.norm(case.vectors, axis=1, keepdims=True) / max(1.0, np.linalg.norm(noise, axis=1).max())
        near = case.but(vectors=case.vectors + 0.4 * size * noise)
        known = ns.solve(case.problem(library, gram_error=size), solver=row.name, on_failure="return")
        if not known.success:
            assert_status(known, Status.AMBIGUOUS, Status.NUMERICAL_ERROR, Status.MAX_ITER)
            return
        assert (numpy_of(known.error_bound) > size / 2).all()
        same(solve(near), known)

    check(row, library, law, kinds=MILD)


@every_engine
def test_M12_a_batch_item_is_the_single_solve(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        alone = solve(case)
        if alone is None:
            return
        count = data.draw(st.integers(1, 4))
        where = data.draw(st.integers(0, count - 1))
        rng = np.random.default_rng(data.draw(seeds))
        if not row.batch:
            problem = case.problem(library)
            name = "gram" if problem.gram is not None and case.by_gram else "vectors"
            batch = {name: to_library(library, np.stack([case.gram if name == "gram" else case.vectors]))}
            with pytest.raises(ns.InvalidProblem, match="one problem at a time"):
                ns.solve(ns.BargainingProblem(**batch), solver=row.name)
            return
        vectors = np.stack([case.vectors * 2.0 ** rng.integers(-3, 3)] * count)
        weights = rng.uniform(0.5, 2, (count, case.n))
        vectors[where], weights[where] = case.vectors, case.weights
        gram = vectors @ vectors.transpose(0, 2, 1)
        gram[where] = case.gram
        batch = {"gram": gram} if case.by_gram else {"vectors": vectors}
        batch |= {"weights": weights}
        if case.disagreement is not None:
            batch["disagreement"] = np.stack([case.disagreement] * count)
        found = ns.solve(
            ns.BargainingProblem(**{k: to_library(library, v) for k, v in batch.items()}, radius=case.radius),
            solver=row.name,
        )
        assert int(numpy_of(found.status)[where]) <= Status.SOLVED_INACCURATE
        assert_alpha_near(
            numpy_of(found.alpha)[where], numpy_of(found.error_bound)[where], alone.alpha, alone.error_bound
        )

    check(row, library, law)


@every_engine
def test_M13_start_library_and_dtype_do_not_matter(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        plain = solve(case)
        if plain is None:
            return
        rng = np.random.default_rng(data.draw(seeds))
        size = data.draw(st.sampled_from([0.01, 0.5, 2.0]))
        if row.name != "ccp":
            same(solve(case, start=numpy_of(plain.alpha) * np.exp(size * rng.standard_normal(case.n))), plain)
        reference = ns.solve(case.problem("numpy"), solver="newton", on_failure="return")
        assert_success(reference)
        same(plain, reference)
        if row.name in SLOW or (np.abs(case.vectors) > 2.0**40).any() or (np.abs(case.vectors).max(1) < 2.0**-40).any():
            return
        narrow = ns.solve(case.problem(library, "float32"), solver=row.name, on_failure="return")
        if narrow.success:
            assert_same_kind(narrow.alpha, to_library(library, [1.0], "float32"))
        if narrow.success and case.by_gram and case.disagreement is None:
            # the Gram is known to its own roundoff; weights in float32 are other weights, by one rounding
            bound = numpy_of(narrow.error_bound) + 4 * tolerance("float32", "ulp") * np.sqrt(
                case.weights.sum() / case.weights.min()
            )
            assert_alpha_near(narrow.alpha, np.minimum(bound, 1), plain.alpha, plain.error_bound)

    check(row, library, law)


@every_engine
def test_M14_the_answer_solves_to_itself(row: catalog.Row, library: str) -> None:
    solve = Engine(row, library)

    def law(data: Any, case: Case) -> None:
        case = case.but(radius=None)
        first = solve(case)
        if first is None:
            return
        again = solve(case, start=numpy_of(first.alpha))
        same(again, first)
        if again is not None and row.name != "cvxpy":
            assert int(again.n_iter) <= 1

    check(row, library, law, zero_only=True)


@every_engine
def test_success_is_not_rare(row: catalog.Row, library: str) -> None:
    """Where everybody agrees and units are alike, every engine finds the agreement."""
    n = 2 if row.name == "closed_form" else 4
    vectors = np.abs(np.random.default_rng(0).standard_normal((n, 6))) + 0.1
    case = Case(vectors / np.linalg.norm(vectors, axis=1)[:, None], np.ones(n), by_gram=True)
    found = Engine(row, library)(case)
    assert found is not None and found.status is Status.SOLVED
    assert_same_kind(found.utilities, to_library(library, [1.0]))
    assert_same_kind(found.coefficients, to_library(library, [1.0]))


@every_engine
def test_opposed_players_are_refused(row: catalog.Row, library: str) -> None:
    gram = np.array([[1.0, -1.0], [-1.0, 1.0]])
    found = ns.solve(to_library(library, gram), solver=row.name, on_failure="return")
    assert not found.success
    if row.name != "ccp":
        assert_no_agreement_certificate(found, gram)
        assert_same_kind(found.certificate, to_library(library, [1.0]))


@every_engine
def test_catalog_row_says_what_it_can_do(row: catalog.Row, library: str) -> None:
    engine = catalog.make(row.name)
    eye = to_library(library, np.eye(2))
    d = ns.BargainingProblem(gram=eye, disagreement=to_library(library, [0.1, 0.2]), radius=1.0)
    batch = ns.BargainingProblem(gram=to_library(library, np.stack([np.eye(2)] * 3)))
    assert (engine.why_not(d) is None) == row.disagreement
    assert (engine.why_not(batch) is None) == row.batch
    for problem, can in ((d, row.disagreement), (batch, row.batch)):
        if not can:
            with pytest.raises(ns.InvalidProblem, match=row.name):
                ns.solve(problem, solver=row.name)
    assert engine.name == row.name
