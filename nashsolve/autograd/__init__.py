"""Derivatives of the solution for torch, by the implicit function theorem."""

from .attach import attach

__all__ = ["attach"]
