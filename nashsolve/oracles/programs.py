"""Linear programs over a domain, by HiGHS, with the multipliers in our signs."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.optimize import linprog

from nashsolve.problems.domains import Domain, Duals


def linear_program(
    domain: Domain, matrix: Any, offset: Any, cost: Any, index: Any, low: Any, slope: Any
) -> dict[str, Any]:
    """Minimize over the domain and ``u_index - slope t >= low``; t is a variable when cost has one more entry."""
    d = domain
    p, extra = d.size, len(cost) - d.size
    rows = np.vstack([d.matrix, -matrix[index]])
    right = np.concatenate([d.limit, offset[index] - low])
    equal = np.hstack([d.equal, np.zeros((len(d.equal), extra))])
    if extra:
        rows = np.hstack([rows, np.concatenate([np.zeros(len(d.matrix)), slope])[:, None]])
    bounds = [*zip(d.lower, d.upper, strict=True), *[(None, None)] * extra]
    found = linprog(
        cost,
        rows if len(rows) else None,
        right if len(rows) else None,
        equal if len(equal) else None,
        d.total if len(equal) else None,
        bounds=bounds,
        method="highs",
    )
    if found.status == 2:
        return {
            "x": None,
            "floors": np.zeros(len(index)),
            "duals": d.no_duals(),
            "n_iter": 0,
            "status": "infeasible",
        }
    if found.status != 0:
        word = {3: "unbounded", 1: "max_iter"}.get(found.status, "numerical")
        return {"x": None, "floors": np.zeros(len(index)), "duals": d.no_duals(), "n_iter": 0, "status": word}
    m = len(d.matrix)
    marginal = -found.ineqlin.marginals if len(rows) else np.zeros(0)
    duals = Duals(
        np.maximum(marginal[:m], 0.0),
        -found.eqlin.marginals if len(equal) else np.zeros(0),
        np.maximum(found.lower.marginals[:p], 0.0),
        np.maximum(-found.upper.marginals[:p], 0.0),
        0.0,
    )
    floors = np.maximum(marginal[m:], 0.0)
    return {"x": found.x[:p], "floors": floors, "duals": duals, "n_iter": int(found.nit), "status": ""}
