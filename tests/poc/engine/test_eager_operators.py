"""The operators of an eager server on one that compiles: chosen when, and copied where they are off.

vLLM for CPUs has one implementation of each `IrOp`, so a stand-in takes the place of the GPU's fused one.
"""

from collections.abc import Callable, Iterator
from datetime import timedelta
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from vllm import ir
from vllm.config import CompilationConfig, CompilationMode, VllmConfig, set_current_vllm_config
from vllm.config.kernel import IrOpPriorityConfig, KernelConfig
from vllm.ir import enable_torch_wrap
from vllm.model_executor.kernels.linear.scaled_mm.pytorch import PerTensorTorchFP8ScaledMMLinearKernel
from vllm.model_executor.layers.activation import SiluAndMul
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import UnquantizedLinearMethod
from vllm.model_executor.layers.mamba.gdn.qwen_gdn_linear_attn import ChunkGatedDeltaRule
from vllm.model_executor.layers.quantization.input_quant_fp8 import QuantFP8
from vllm.model_executor.layers.quantization.utils.quant_utils import GroupShape
from vllm.model_executor.layers.rotary_embedding.base import RotaryEmbedding
from vllm.platforms import current_platform

from hallmark.poc.engine.eager_operators import EagerOperators
from hallmark.poc.engine.forward import inferences_turn
from hallmark.poc.engine.pausable_forward import PausableForward

WIDTH = 32
X = torch.ones(2, WIDTH)
WEIGHT = torch.ones(WIDTH)
TIMEOUT = timedelta(seconds=30)


def configured(*custom_ops: str, mode: CompilationMode = CompilationMode.VLLM_COMPILE) -> VllmConfig:
    """An engine's configuration as vLLM completes it, with these choices of custom operators."""
    config = VllmConfig()
    compiles = mode != CompilationMode.NONE
    config.compilation_config = CompilationConfig(
        mode=mode, custom_ops=list(custom_ops), ir_enable_torch_wrap=compiles
    )
    # Without what the first mode has left in it.
    config.kernel_config = KernelConfig()
    config.kernel_config.set_platform_defaults(config)
    return config


class Block(nn.Module):
    def __init__(self, rotary: RotaryEmbedding) -> None:
        super().__init__()
        self.norm = RMSNorm(WIDTH)
        self.rotary = rotary
        self.mlp = nn.Linear(WIDTH, 2 * WIDTH)
        self.activation = SiluAndMul(compile_native=False)

    def forward(self, x: Tensor) -> Tensor:
        query, key = self.rotary(torch.arange(len(x)), self.norm(x).clone(), x.clone())
        output: Tensor = self.activation(self.mlp(query + key))
        return output


def state(model: nn.Module) -> list[dict[str, object]]:
    """What every module holds, its children, parameters and buffers one by one."""
    return [
        {name: dict(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
        for module in model.modules()
    ]


def model_under(config: VllmConfig) -> nn.Sequential:
    with set_current_vllm_config(config):
        rotary = RotaryEmbedding(WIDTH, WIDTH, 64, 10_000, True, torch.float32)
        return nn.Sequential(Block(rotary), Block(rotary), nn.Linear(WIDTH, WIDTH))


def block_of(model: nn.Module, index: int = 0) -> Block:
    assert isinstance(model, nn.Sequential)
    block = model[index]
    assert isinstance(block, Block)
    return block


def chosen_methods(block: Block) -> list[Callable[..., object]]:
    return [block.norm._forward_method, block.rotary._forward_method, block.activation._forward_method]


def test_operators_that_are_off_are_on_in_a_copy_that_computes_the_same() -> None:
    config = configured("none")
    model, operators = model_under(config), EagerOperators(config)
    before = state(model)
    copied = operators.copy_model(model)
    assert isinstance(copied, nn.Sequential)
    assert copied is not model
    for block in (block_of(copied, 0), block_of(copied, 1)):
        assert chosen_methods(block) == [
            block.norm.forward_cpu,
            block.rotary.forward_cpu,
            block.activation.forward_cpu,
        ], "bound to the copy"
    assert block_of(copied, 0).rotary is block_of(copied, 1).rotary, "what layers share, their copies share"
    assert block_of(copied).mlp is block_of(model).mlp
    assert copied[2] is model[2]
    x = torch.randn(5, WIDTH)
    found = copied(x)
    # A rotary embedding keeps its table in the dtype of what it is given: a copy in a table of its own.
    block_of(copied).rotary(torch.arange(2), X.bfloat16(), X.bfloat16())
    assert block_of(copied).rotary.cos_sin_cache.dtype == torch.bfloat16
    assert state(model) == before
    torch.testing.assert_close(found, model(x))
    assert operators.copy_model(model) is copied
    copied = EagerOperators(config).copy_model(model)
    block_of(model).norm.weight.data.fill_(2.0)
    torch.testing.assert_close(copied(x), model(x))


@pytest.mark.parametrize("chosen", ["all", "none"])
def test_a_server_that_does_not_compile_has_what_it_was_told(chosen: str) -> None:
    config = configured(chosen, mode=CompilationMode.NONE)
    model = model_under(config)
    assert EagerOperators(config).copy_model(model) is model


def test_operators_that_are_not_reached_are_told() -> None:
    config = configured("none")
    model = model_under(config)
    operators = EagerOperators(config)
    operators.copy_model(model)
    assert "-" not in operators.describe()
    first: Any = model[0]
    with set_current_vllm_config(config):
        first.elsewhere = (SiluAndMul(compile_native=False),)  # no part that could be replaced
    assert operators.describe().split()[0] == "-silu_and_mul"


def test_what_quantises_the_inputs_of_a_product_is_reached() -> None:
    config = configured("none")
    # vLLM makes this kernel on GPUs only; which method it would call can be seen anywhere.
    kernel = object.__new__(PerTensorTorchFP8ScaledMMLinearKernel)
    with set_current_vllm_config(config):
        kernel.quant_fp8 = QuantFP8(static=False, group_shape=GroupShape.PER_TOKEN, compile_native=False)
    linear: Any = nn.Linear(WIDTH, WIDTH)
    linear.quant_method = UnquantizedLinearMethod()
    linear.quant_method.fp8_linear = kernel
    operators = EagerOperators(config)
    copied = operators.copy_model(nn.Sequential(linear))
    assert isinstance(copied, nn.Sequential)
    first: Any = copied[0]
    method, own = first.quant_method, linear.quant_method
    quantiser = method.fp8_linear.quant_fp8
    assert quantiser._forward_method == quantiser.forward_cpu
    assert own.fp8_linear.quant_fp8._forward_method == own.fp8_linear.quant_fp8.forward_native
    assert first.weight is linear.weight
    assert "-" not in operators.describe()


def test_layers_that_are_found_by_name_are_the_models_copies() -> None:
    config = configured("none")
    model = model_under(config)
    operators = EagerOperators(config)
    layers = {"model.layers.0": model[0], "model.layers.1": nn.Linear(1, 1), "no module": config}
    named = operators.copy_layers(layers)
    assert named["model.layers.0"] is block_of(operators.copy_model(model))
    assert chosen_methods(named["model.layers.0"])[0] == named["model.layers.0"].norm.forward_cpu
    assert all(named[name] is layers[name] for name in ("model.layers.1", "no module"))


def test_parts_that_refer_to_their_owner_are_copied_once() -> None:
    config = configured("none")
    model = model_under(config)
    model[0].__dict__["owner"] = model  # as no child: PyTorch would walk round for ever
    copied = EagerOperators(config).copy_model(model)
    block = block_of(copied)
    assert block.norm._forward_method == block.norm.forward_cpu
    assert block.owner is model


def test_an_operator_that_somebody_has_switched_off_stays_off() -> None:
    config = configured("none", "-rotary_embedding")
    operators = EagerOperators(config)
    block = block_of(operators.copy_model(model_under(config)))
    assert block.rotary._forward_method == block.rotary.forward_native
    assert block.norm._forward_method == block.norm.forward_cpu
    assert operators.describe().startswith("-rotary_embedding rms_norm=")


def _platform(config: VllmConfig) -> IrOpPriorityConfig:
    """What vLLM's CUDA platform prefers, with the stand-in for its fused kernels."""
    compiles = config.compilation_config.mode != CompilationMode.NONE
    rms_norm = ["native"] if compiles else ["stand_in", "native"]
    return IrOpPriorityConfig.with_default(["native"], rms_norm=rms_norm)


def _supports(x: Tensor, weight: Tensor | None, epsilon: float, variance_size: int | None = None) -> bool:
    return True


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A second implementation of vLLM's `rms_norm`, which an eager server prefers."""
    monkeypatch.setattr(current_platform, "get_default_ir_op_priority", _platform)
    native = ir.ops.rms_norm.impls["native"]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ir.ops.rms_norm, "_priority_impls", [])
        ir.ops.rms_norm.register_impl("stand_in", supports_args=_supports)(native.impl_fn)
        try:
            with configured("none").kernel_config.ir_op_priority.set_priority(), enable_torch_wrap(True):
                yield
        finally:
            del ir.ops.rms_norm.impls["stand_in"]


def provider() -> str:
    """Whose `rms_norm` this process runs now, and whether by way of PyTorch's dispatcher."""
    name: str = ir.ops.rms_norm.dispatch(X, WEIGHT, 1e-6).provider
    return f"wrapped {name}" if ir.op._ENABLE_TORCH_WRAP else name


@pytest.mark.usefixtures("stand_in")
def test_a_batch_has_the_eager_servers_and_inference_its_own_meanwhile() -> None:
    operators = EagerOperators(configured("none"))
    pausable = PausableForward(lambda: None, partial(inferences_turn, operators), TIMEOUT)
    seen = []

    def batch() -> str:
        with operators.chosen():
            for _ in range(3):
                seen.append(provider())
                pausable.checkpoint()
            return provider()

    pausable.start(batch)
    assert provider() == "wrapped native"
    for passed in (0, 1, 1):
        assert pausable.advance(passed) == (passed, [])
        assert provider() == "wrapped native", "inference's turn"
    assert pausable.advance(None) == (1, ["stand_in"])
    assert (seen, provider()) == (["stand_in"] * 3, "wrapped native")


@pytest.mark.usefixtures("stand_in")
def test_a_batch_that_fails_or_is_given_up_leaves_inference_its_own() -> None:
    operators = EagerOperators(configured("none"))
    pausable = PausableForward(lambda: None, partial(inferences_turn, operators), TIMEOUT)
    seen = []

    def batch() -> None:
        with operators.chosen():
            seen.append(provider())
            pausable.checkpoint()
            raise ValueError("a layer failed")

    for stands_still in (False, True):
        pausable.start(batch)
        if stands_still:
            pausable.advance(0)
        with pytest.raises(ValueError, match="a layer failed"):
            pausable.advance(None)
        assert provider() == "wrapped native"
    pausable.start(batch)
    pausable.advance(0)
    pausable.cancel()
    assert (seen, provider()) == (["stand_in"] * 3, "wrapped native")


@pytest.mark.usefixtures("stand_in")
def test_an_operators_own_choice_of_implementation_stays() -> None:
    config = VllmConfig()
    config.compilation_config = CompilationConfig(mode=CompilationMode.VLLM_COMPILE, custom_ops=["none"])
    config.kernel_config.ir_op_priority = IrOpPriorityConfig(rms_norm=["native", "stand_in"])
    config.kernel_config.set_platform_defaults(config)
    operators = EagerOperators(config)
    assert operators.priority.rms_norm == ["native", "stand_in"]
    assert "rms_norm=native,stand_in" in operators.describe()
    assert EagerOperators(configured("none")).priority.rms_norm == ["stand_in", "native"]


def test_an_operator_that_chooses_its_method_itself_keeps_it() -> None:
    """vLLM's delta rule takes Triton's kernel, FlashInfer's or another when it is made, off or on."""
    config = configured("none")
    model_config: Any = SimpleNamespace(hf_text_config=SimpleNamespace(linear_key_head_dim=128))
    config.model_config = model_config
    with set_current_vllm_config(config):
        rule = ChunkGatedDeltaRule()
    copied: Any = EagerOperators(config).copy_model(rule)
    assert copied is not rule
    assert copied._forward_method.__func__ is rule._forward_method.__func__
    assert copied._forward_method.__self__ is copied
