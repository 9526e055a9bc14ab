"""Domain vectors (expert minus base expert) through their Gram; they are never stored."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from nashsolve.tall import gram_of_differences

from .experts import ExpertView


@dataclass(frozen=True)
class DomainGram:
    r"""Inner products :math:`K_{ij} = \tau_i^\top\tau_j` of domain vectors.

    gram : float64 (N, N) NumPy
    gram_error : bound of the entries' relative errors, as `BargainingProblem` takes it
    """

    gram: np.ndarray
    gram_error: float

    @property
    def norms(self) -> np.ndarray:
        """Lengths of the domain vectors (N,)."""
        return np.sqrt(np.maximum(np.diagonal(self.gram), 0.0))

    @property
    def cosines(self) -> np.ndarray:
        """Cosines between domain vectors (N, N); zero beside a vector of length zero."""
        return cosines(self.gram)


def cosines(gram: Any) -> np.ndarray:
    """Cosines (N, N) from a Gram matrix; zero beside a vector of length zero."""
    gram = np.asarray(gram, dtype=np.float64)
    norms = np.sqrt(np.maximum(np.diagonal(gram), 0.0))
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms > 0)
    return np.clip(gram * inverse[:, None] * inverse[None, :], -1.0, 1.0)


def domain_gram(view: ExpertView, base: Mapping[str, Tensor], products: str = "float32") -> DomainGram:
    """Gram of the domain vectors of all experts.

    Parameters
    ----------
    view : the experts
    base : name -> tensor, with the experts' names and shapes
    products : "float32" or "float64", as `gram_of_differences` takes it

    Returns
    -------
    DomainGram

    Raises
    ------
    InvalidProblem
    """
    view.check_base(base)
    with torch.no_grad():
        found = gram_of_differences(view.vectors(), _ordered(view, base), products=products)
    return DomainGram(found.gram.cpu().numpy(), found.gram_error)


def _ordered(view: ExpertView, base: Mapping[str, Tensor]) -> list[Tensor]:
    return [base[slot.name] for slot in view.slots]
