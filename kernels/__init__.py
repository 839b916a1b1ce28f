"""The arithmetic of a round, one op a file: random numbers, projections, signed sums, numbers.

Each op has a reference in plain PyTorch, which is what runs on CPUs and what the kernels are held to, and
Triton kernels for GPUs. The functions without a suffix choose between them by the device (`path`).
"""

from hallmark.kernels.draw_embeddings import draw_embeddings, draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix, draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals, draw_normals_reference
from hallmark.kernels.embed_project import embed_project, embed_project_reference
from hallmark.kernels.final_norm import FinalNorm, NormRounding
from hallmark.kernels.norm_project import norm_project, norm_project_reference
from hallmark.kernels.norm_sums import norm_sums, norm_sums_reference
from hallmark.kernels.normal_table import normal_table, signed_table
from hallmark.kernels.path import KernelPath, kernel_path
from hallmark.kernels.philox import philox4x32
from hallmark.kernels.project_residual import project_residual, project_residual_reference

__all__ = [
    "FinalNorm",
    "KernelPath",
    "NormRounding",
    "draw_embeddings",
    "draw_embeddings_reference",
    "draw_matrix",
    "draw_matrix_reference",
    "draw_normals",
    "draw_normals_reference",
    "embed_project",
    "embed_project_reference",
    "kernel_path",
    "norm_project",
    "norm_project_reference",
    "norm_sums",
    "norm_sums_reference",
    "normal_table",
    "philox4x32",
    "project_residual",
    "project_residual_reference",
    "signed_table",
]
