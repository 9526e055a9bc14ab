"""The linear systems of the interior point method, kept accurate where slacks and bounds close."""

from __future__ import annotations

from typing import Any

import numpy as np
from scipy.linalg.lapack import dgetrf, dgetrs, dpotrf, dpotrs


def newton_system(curve: Any, edge: Any, jac: Any, slack: Any, equal: Any, pull: Any) -> Any:
    """Solver of ``H dx - J' dy + E' nu = right, J dx + slack dy = off, E dx = rest`` with H = curve + diag(edge).

    Multipliers of rows are unknowns, for they cannot be told from ds where a slack is tiny. With a positive diagonal
    H and few rows everything reduces to a system of the rows. `pull` is the players' share of the curvature, by
    coordinate, where they have one. None where it breaks down.
    """
    rows = np.vstack([jac, equal])
    slack = np.concatenate([slack, np.zeros(len(equal))])
    flat = curve.ndim == 1
    diagonal = curve + edge if flat else curve.diagonal() + edge
    if flat and len(rows) <= 2 * len(diagonal) and diagonal.min() > 0:
        return _by_rows(diagonal, rows, slack, np.full(len(diagonal), np.median(diagonal)) if pull is None else pull)
    matrix = np.diag(diagonal) if flat else curve + np.diag(edge)
    return _augmented(matrix, rows, np.diag(slack))


def _by_rows(diagonal: Any, rows: Any, slack: Any, usual: Any) -> Any:
    """Eliminate the coordinates, but for the few that are nearly free: eliminating those would lose digits."""
    loose = diagonal < 1e-4 * usual
    loose = loose if loose.sum() <= 2 * len(rows) + 8 else np.zeros_like(loose)
    kept = ~loose
    held = rows[:, kept] / diagonal[kept]
    small = held @ rows[:, kept].T + np.diag(slack)
    solver = _inverse(small) if not loose.any() else _augmented(np.diag(diagonal[loose]), rows[:, loose], small)
    if solver is None:
        return None

    def solve(right: Any, off: Any) -> tuple[Any, Any]:
        ahead = off - held @ right[kept]
        if not loose.any():
            eta = solver(ahead)
            return (right + rows.T @ eta) / diagonal, eta
        dx = np.empty_like(right)
        dx[loose], eta = solver(right[loose], ahead)
        dx[kept] = (right[kept] + rows[:, kept].T @ eta) / diagonal[kept]
        return dx, eta

    return solve


def _augmented(matrix: Any, rows: Any, corner: Any) -> Any:
    """Solver of ``matrix x - rows' y = right, rows x + corner y = off`` by one factor of both."""
    whole = np.block([[matrix, -rows.T], [rows, corner]])
    if not np.isfinite(whole).all():
        return None
    n = len(matrix)
    whole.flat[: n * (len(whole) + 1) : len(whole) + 1] += 1e-16 * max(abs(matrix).max(), 1e-300)
    # rows and columns of one size, or a pivot of rounding size passes for a real one
    scale = 1 / np.sqrt(np.maximum(abs(whole).max(axis=1), 1e-300))
    factor, pivots, failed = dgetrf(whole * scale[:, None] * scale, overwrite_a=1)
    if failed:
        return None

    def solve(right: Any, off: Any) -> tuple[Any, Any]:
        both = scale * dgetrs(factor, pivots, scale * np.concatenate([right, off]))[0]
        return both[:n], both[n:]

    return solve


def _inverse(matrix: Any) -> Any:
    """Solver with a symmetric positive definite matrix, scaled to unit diagonal; a ridge of rounding size if needed."""
    diagonal = matrix.diagonal()
    if not np.isfinite(matrix).all():
        return None
    scale = 1 / np.sqrt(np.maximum(diagonal, 1e-300 + 1e-16 * abs(diagonal).max()))
    scaled = matrix * scale[:, None] * scale
    for ridge in (0.0, 1e-15, 1e-13, 1e-11, 1e-9):
        shifted = scaled.copy()
        shifted.flat[:: len(matrix) + 1] += ridge
        factor, failed = dpotrf(shifted, lower=1, overwrite_a=1)
        if not failed:
            break
    else:
        return None

    def solve(b: Any) -> Any:
        first = dpotrs(factor, scale * b, lower=1)[0]
        if ridge:  # one step of refinement takes most of the ridge back
            first = first + dpotrs(factor, scale * b - scaled @ first, lower=1)[0]
        return scale * first

    return solve
