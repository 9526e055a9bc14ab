r"""Ten digits bargain over the next step of their classifier.

Softmax regression on scikit-learn's handwritten digits (64 pixels and a bias, 10 classes: 650 parameters),
stopped half way. The players are the ten classes; player c's vector is minus the gradient of the mean loss of
the images of class c, so :math:`g_c^\top x` is how much a small step x lowers that loss.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from nashsolve.core.errors import MissingExtra

NAMES = tuple(f"digit {c}" for c in range(10))
STEPS = 50
RATE = 0.5


def class_gradients(steps: int = STEPS, rate: float = RATE) -> np.ndarray:
    """Descent directions (10, 650) of the ten classes.

    Parameters
    ----------
    steps : full-batch gradient steps on the mean loss of all images, from zero, >= 0
    rate : their learning rate

    Returns
    -------
    (10, 650) float64, row c is minus the gradient of the mean loss of class c

    Raises
    ------
    MissingExtra : scikit-learn, which brings the images, is not installed
    """
    pixels, label = _images()
    one_hot = np.eye(10)[label]
    weight = np.zeros((pixels.shape[1], 10))
    for _ in range(steps):
        weight -= rate * pixels.T @ (_softmax(pixels @ weight) - one_hot) / len(pixels)
    error = _softmax(pixels @ weight) - one_hot
    rows = [pixels[label == c].T @ error[label == c] / np.sum(label == c) for c in range(10)]
    return -np.stack([row.ravel() for row in rows])


def _images() -> tuple[np.ndarray, np.ndarray]:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise MissingExtra("scikit-learn", "experiments", "the handwritten digits") from None
    data: Any = load_digits()
    return np.c_[data.data / 16, np.ones(len(data.data))], data.target


def _softmax(scores: np.ndarray) -> np.ndarray:
    powers = np.exp(scores - scores.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)
