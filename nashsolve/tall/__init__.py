"""Few vectors of very many parameters: their Gram matrix and their combination, in one pass over the data each."""

from nashsolve.core.errors import MissingExtra

try:
    import torch as torch
except ImportError as error:
    raise MissingExtra("torch", "torch", "Grams and combinations of parameter tensors") from error

from .combine import Combined, combine
from .gram import DifferenceGram, gram_of_differences

__all__ = ["Combined", "DifferenceGram", "combine", "gram_of_differences"]
