"""Learned sketches for low-rank decomposition, after section 6 of the paper."""

from .low_rank import LowRankApproximation, low_rank_approximation
from .objectives import eigenvalue_loss, singular_vector_loss
from .sketches import ButterflySketch, DenseSketch, GaussianSketch, Sketch, SparseSketch

__all__ = [
    "ButterflySketch",
    "DenseSketch",
    "GaussianSketch",
    "LowRankApproximation",
    "Sketch",
    "SparseSketch",
    "eigenvalue_loss",
    "low_rank_approximation",
    "singular_vector_loss",
]
