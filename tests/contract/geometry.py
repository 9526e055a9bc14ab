"""Hypothesis strategies for bargaining problems, by geometry: what is hard about them is what is drawn."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from hypothesis import strategies as st

import nashsolve as ns
from tests.helpers import to_library

MILD = ("wide", "agreeing", "low_rank")
HARD = (*MILD, "margin", "duplicates", "weights", "powers")


@dataclass(frozen=True)
class Case:
    """One problem in NumPy; `arguments` makes it a BargainingProblem of any array library."""

    vectors: np.ndarray
    weights: np.ndarray
    disagreement: np.ndarray | None = None
    radius: float | None = None
    metric: np.ndarray | None = None
    by_gram: bool = False

    @property
    def n(self) -> int:
        return len(self.weights)

    @property
    def gram(self) -> np.ndarray:
        """A_ij, from the vectors."""
        return self.vectors @ self.vectors.T

    def but(self, **changes: Any) -> Case:
        return replace(self, **changes)

    def problem(self, library: str, dtype: str = "float64", **extra: Any) -> ns.BargainingProblem:
        data = {"gram": self.gram} if self.by_gram and self.metric is None else {"vectors": self.vectors}
        for name in ("weights", "disagreement", "metric"):
            if getattr(self, name) is not None:
                data[name] = getattr(self, name)
        arrays = {name: to_library(library, value, dtype) for name, value in data.items()}
        return ns.BargainingProblem(**arrays, radius=self.radius, **extra)


@st.composite
def cases(draw: Any, kinds: tuple[str, ...], most: int, disagreement: bool = False, diagonal: bool = False) -> Case:
    """Feasible problems; with `diagonal` only what closed_form can take: players at right angles, or at most two."""
    kind = draw(st.sampled_from(kinds))
    n = draw(st.integers(1, 2 if diagonal and kind != "wide" else most))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    if diagonal and n > 2:
        vectors = np.diag(rng.uniform(0.3, 3, n))
    elif kind == "low_rank":
        vectors = rng.standard_normal((n, max(1, n // 2)))
        vectors[:, 0] = np.abs(vectors[:, 0]) + 0.3
    elif kind == "agreeing":
        vectors = np.abs(rng.standard_normal((n, n + 1))) + 0.05
    else:
        vectors = rng.standard_normal((n, n + 2))
        vectors[:, 0] = np.abs(vectors[:, 0]) + 0.3
    if kind == "margin" and n > 1:
        distance = 10.0 ** -draw(st.integers(1, 5))
        vectors[:, 0] = 0
        vectors -= rng.dirichlet(np.full(n, 3.0)) @ vectors
        vectors /= np.linalg.norm(vectors, axis=1)[:, None]
        vectors[:, 0] = distance
    if kind == "duplicates" and not (diagonal and n > 2):
        vectors = vectors[rng.integers(0, n, n)]
    if kind == "powers":
        vectors = vectors * 2.0 ** rng.integers(-400, 400, n)[:, None]
    spread = 4 if kind == "weights" else 0.5
    weights = 10 ** rng.uniform(-spread, spread, n)
    found = Case(vectors, weights, by_gram=draw(st.booleans()))
    if draw(st.booleans()):
        found = found.but(radius=float(2.0 ** draw(st.integers(-3, 3))))
    if disagreement and kind in MILD and draw(st.booleans()):
        radius = found.radius or 1.0
        x = rng.standard_normal(vectors.shape[1])
        x *= rng.uniform(0.1, 0.7) * radius / np.linalg.norm(x)
        slack = rng.uniform(0.1, 1, n) * radius * np.linalg.norm(vectors, axis=1) * 0.3
        found = found.but(disagreement=vectors @ x - slack, radius=radius)
    return found
