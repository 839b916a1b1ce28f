"""The arithmetic of a round, one op a file: random numbers, the projection, the distance.

Each op has a reference in plain PyTorch, vectorised, which is what runs on CPUs and what compiled kernels are
held to.
"""

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.normal_table import normal_table
from hallmark.kernels.philox import philox4x32
from hallmark.kernels.project_residual import project_residual_reference

__all__ = [
    "distance_reference",
    "draw_embeddings_reference",
    "draw_matrix_reference",
    "draw_normals_reference",
    "normal_table",
    "philox4x32",
    "project_residual_reference",
]
