"""Rows of a table gathered and projected in one kernel, to the bit what gathering and projecting give."""

import pytest
import torch
from tolerances import MIN_HALF_STEP, ROUNDOFF, SUM_TOLERANCES
from torch import Tensor

from hallmark.kernels.draw_matrix import draw_matrix_reference
from hallmark.kernels.draw_normals import draw_normals_reference
from hallmark.kernels.embed_project import embed_project, embed_project_reference
from hallmark.kernels.normal_table import signed_table
from hallmark.kernels.project_residual import launch_project_residual
from hallmark.kernels.tiles import PROJECT_RESIDUAL_TILES, Architecture, Shape

DTYPES = [torch.bfloat16, torch.float16, torch.float32]
STREAM = torch.tensor([1, 2, 3, 4])


def operands(vocabulary: int, tokens: int, width: int, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """A table, tokens that repeat and begin with its last row, and a projection."""
    table = draw_normals_reference(STREAM.view(1, 4), vocabulary * width, signed_table(1.0, dtype))
    drawn = torch.randint(0, vocabulary, (tokens,), generator=torch.Generator().manual_seed(tokens))
    drawn[0], drawn[-1] = vocabulary - 1, drawn[tokens // 2]
    return table.view(vocabulary, width), drawn, draw_matrix_reference(STREAM + 1, width, width, 0.05)


def by_kernel(
    device: torch.device,
    table: Tensor,
    tokens: Tensor,
    p: Tensor,
    architecture: Architecture | None = None,
    *,
    places: Tensor | None = None,
    rows: int = 0,
) -> Tensor:
    """What the kernel writes over a poisoned output; what lies behind it must stay."""
    width, rows = table.shape[1], rows or len(tokens)
    poisoned = torch.full(((rows + 1) * width,), float("nan"), dtype=table.dtype, device=device)
    poisoned[rows * width :] = 7.0
    launch_project_residual(
        poisoned[: rows * width].view(rows, width),
        table.to(device),
        p.to(device),
        architecture,
        gather=tokens.to(device),
        scatter=None if places is None else places.to(device),
    ).run()
    assert bool((poisoned[rows * width :] == 7.0).all()), "the kernel wrote past its output"
    return poisoned[: rows * width].view(rows, width).cpu()


def gathered_first(
    device: torch.device, table: Tensor, tokens: Tensor, p: Tensor, architecture: Architecture | None = None
) -> Tensor:
    """The same product of rows that are there already."""
    x = table[tokens].to(device)
    out = torch.empty_like(x)
    launch_project_residual(out, x, p.to(device), architecture).run()
    return out.cpu()


def assert_projected(found: Tensor, rows: Tensor, p: Tensor, device: torch.device) -> None:
    """What was found is the projection of some rows, but for the rounding of sums and of the result."""
    x = rows.double()
    exact, terms = x + x @ p.double(), x.abs() + x.abs() @ p.double().abs()
    bound = SUM_TOLERANCES[rows.dtype, device.type] * (rows.shape[1] + 1) * terms
    bound += ROUNDOFF[rows.dtype] * (exact.abs() + bound) + MIN_HALF_STEP[rows.dtype]
    assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.parametrize(
    ("vocabulary", "tokens", "width"),
    [(1, 1, 16), (7, 5, 48), (300, 123, 272), (64, 129, 144), (20, 7, 1040), (33, 40, 576), (33, 40, 640)],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_it_is_gather_and_projection_to_the_bit(
    kernel_device: torch.device, dtype: torch.dtype, vocabulary: int, tokens: int, width: int
) -> None:
    table, drawn, p = operands(vocabulary, tokens, width, dtype)
    found = by_kernel(kernel_device, table, drawn, p)
    assert torch.equal(found, gathered_first(kernel_device, table, drawn, p))
    assert_projected(found, table[drawn], p, kernel_device)


# For each size of tile an entry that has it; a narrow one where there is one.
SIZES = {(tile[:3], key[1]): key for key, tile in reversed(PROJECT_RESIDUAL_TILES.items())}


@pytest.mark.parametrize("key", SIZES.values())
def test_every_tile_of_the_table_is_right(
    interpreter: torch.device, key: tuple[Architecture, torch.dtype, Shape]
) -> None:
    """In the interpreter, whatever the chip; a GPU's own tiles are in test_gpu.py."""
    architecture, dtype, shape = key
    table, drawn, p = operands(9, 5, {"narrow": 528, "wide": 2064}[shape], dtype)
    found = by_kernel(interpreter, table, drawn, p, architecture)
    assert torch.equal(found, gathered_first(interpreter, table, drawn, p, architecture))


@pytest.mark.parametrize("width", range(16, 529, 16))
def test_every_width_of_whole_sixteens(kernel_device: torch.device, width: int) -> None:
    table, drawn, p = operands(40, 21, width, torch.bfloat16)
    assert torch.equal(
        by_kernel(kernel_device, table, drawn, p), gathered_first(kernel_device, table, drawn, p)
    )


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_shard_writes_the_rows_that_are_its_own(kernel_device: torch.device, dtype: torch.dtype) -> None:
    """Two shards write different rows, together all of them.

    They lie elsewhere in their tiles, and where a row lies in a product may change its last bits on a CPU.
    """
    table, drawn, p = operands(64, 150, 80, dtype)
    for first, end in ((0, 40), (40, 64)):
        own = (drawn >= first) & (drawn < end)
        places = own.nonzero().squeeze(1)
        shard = table[first:end]
        found = by_kernel(kernel_device, shard, drawn[places] - first, p, places=places, rows=150)
        assert_projected(found[own], table[drawn[own]], p, kernel_device)
        assert bool(found[~own].isnan().all()), "rows of others stay as they are"


@pytest.mark.gpu
def test_rows_beyond_two_to_the_31_elements_are_found() -> None:
    width, vocabulary = 4096, 2**19 + 5
    table = torch.zeros((vocabulary, width), dtype=torch.bfloat16, device="cuda")
    table[-1] = 1.0
    p = torch.zeros((width, width), dtype=torch.bfloat16, device="cuda")
    tokens = torch.tensor([0, vocabulary - 1, 1], device="cuda")
    assert embed_project(table, tokens, p)[:, 0].tolist() == [0.0, 1.0, 0.0]


@pytest.mark.parametrize("width", [64, 123])
@pytest.mark.parametrize("divided", [False, True])
def test_the_op_takes_any_width(kernel_device: torch.device, width: int, divided: bool) -> None:
    """Widths that the kernel does not take are the reference's; rows of other ranks are zeros."""
    table, drawn, p = (tensor.to(kernel_device) for tensor in operands(50, 6, width, torch.bfloat16))
    places = torch.tensor([8, 0, 3, 5, 1, 2], device=kernel_device) if divided else None
    arguments = (table, drawn, p, places, 9 if divided else None)
    found, expected = embed_project(*arguments), embed_project_reference(*arguments)
    assert found.shape == (9 if divided else 6, width)
    torch.testing.assert_close(found, expected, rtol=2 * ROUNDOFF[torch.bfloat16], atol=1e-5)
    if divided:
        assert not bool(found[[4, 6, 7]].any())
    torch.library.opcheck(embed_project, arguments)


def test_a_shard_without_tokens_is_all_zeros(kernel_device: torch.device) -> None:
    table, _, p = (tensor.to(kernel_device) for tensor in operands(50, 6, 64, torch.bfloat16))
    none = torch.empty(0, dtype=torch.int64, device=kernel_device)
    assert not bool(embed_project(table, none, p, none, 5).any())


@pytest.mark.parametrize("width", [64, 256, 576])
def test_a_row_of_a_shard_does_not_depend_on_how_many_there_are(width: int) -> None:
    """Nor on which they are: in the reference, which is what ranks on CPUs run."""
    table, tokens, p = operands(400, 300, width, torch.bfloat16)
    places = torch.arange(300)
    whole = embed_project_reference(table, tokens, p, places, 300)
    for count in [*range(1, 20), 63, 64, 65, 127, 200]:
        some = torch.randperm(300, generator=torch.Generator().manual_seed(count))[:count].sort().values
        found = embed_project_reference(table, tokens[some], p, some, 300)
        assert torch.equal(found[some], whole[some])
