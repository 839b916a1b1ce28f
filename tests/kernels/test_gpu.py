"""The references on a GPU: random numbers to the bit, sums within the tolerance table."""

import pytest
import torch

from hallmark.kernels.distance import distance_reference
from hallmark.kernels.draw_embeddings import draw_embeddings_reference
from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.project_residual import project_residual_reference
from hallmark.poc.projection import RandomProjection

pytestmark = pytest.mark.gpu

STREAMS = torch.tensor([[1, 2, 3, 4], [2**32 - 1, 2**31, 2**32 - 5, 7]])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_inputs_are_the_same_bits_as_on_the_cpu(dtype: torch.dtype) -> None:
    on_cpu = draw_embeddings_reference(STREAMS, 123, 80, 2.0**-5, dtype)
    on_gpu = draw_embeddings_reference(STREAMS, 123, 80, 2.0**-5, dtype, "cuda")
    assert torch.equal(on_gpu.cpu(), on_cpu)


def test_projections_are_the_same_bits_as_on_the_cpu() -> None:
    on_cpu = RandomProjection("a block", 272)
    on_gpu = RandomProjection("a block", 272, device="cuda")
    assert torch.equal(on_gpu.pre_proj.cpu(), on_cpu.pre_proj)
    assert torch.equal(
        draw_matrix_reference(STREAMS[0], 272, 272, 0.01, "cuda").cpu(),
        draw_matrix_reference(STREAMS[0], 272, 272, 0.01),
    )


def test_sums_agree_with_float64() -> None:
    x = draw_embeddings_reference(STREAMS, 64, 272, 0.125, torch.bfloat16, "cuda")
    p = RandomProjection("a block", 272).to("cuda").pre_proj
    exact = x.double() + x.double() @ p.double()
    projected = project_residual_reference(x, p, torch.float32)
    # fp32 sums of 272 products: relative error far below bf16's half step of 2^-9.
    assert torch.allclose(projected.double(), exact, rtol=1e-5, atol=1e-6)


def test_distances_agree_with_the_cpu() -> None:
    hidden = draw_embeddings_reference(STREAMS, 1, 272, 1.0, torch.bfloat16).squeeze(1)
    target = draw_embeddings_reference(STREAMS.flip(0), 1, 272, 1.0, torch.float32).squeeze(1)
    p = RandomProjection("a block", 272).post_proj
    on_cpu = distance_reference(hidden, target, p)
    on_gpu = distance_reference(hidden.cuda(), target.cuda(), p.cuda())
    # protocol.md: implementations compute d within 1e-4 s.
    assert torch.allclose(on_gpu.cpu(), on_cpu, rtol=0, atol=1e-4 / (2 * 272) ** 0.5)
