"""A look into the worker, mixed in by vLLM's own `--worker-extension-cls`, called by its `/collective_rpc`.

It only reads, but for the guard values and for what breaks the model or a batch on purpose.
"""

import gc
import hashlib
import os
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import torch

from hallmark.poc.engine.support import cache_of, layers_with_caches
from hallmark.poc.engine.worker_methods import STATE_ATTRIBUTE

if TYPE_CHECKING:
    from vllm.v1.worker.gpu_worker import Worker as Base
else:
    Base = object

GUARD = 0x5A


class Probe(Base):
    """Worker methods of the tests."""

    def probe_pid(self) -> dict[str, int]:
        """The worker's process."""
        return {"pid": os.getpid()}

    def probe_cache_checksum(self) -> dict[str, Any]:
        """SHA-256 over the bytes of inference's KV cache, every layer."""
        digest = hashlib.sha256()
        for layer in self._probe_live_layers().values():
            for part in cache_of(layer):
                digest.update(part.contiguous().view(torch.uint8).numpy().data)
        return {"rank": self.rank, "sha256": digest.hexdigest()}

    def probe_fill_guards(self) -> dict[str, Any]:
        """Write guard values into the first and the last block of the scratch, which no sequence may name."""
        tensors = self._probe_scratch()
        for tensor in tensors:
            for block in (0, -1):
                tensor[block].view(torch.uint8).fill_(GUARD)
        return {"tensors": len(tensors)}

    def probe_guards_hold(self) -> dict[str, Any]:
        """Whether the guard values stand as written, and whether the blocks between them were used."""
        return {
            "hold": all(
                bool((tensor[block].view(torch.uint8) == GUARD).all())
                for tensor in self._probe_scratch()
                for block in (0, -1)
            ),
            "used": all(bool((tensor[1:-1] != 0).any()) for tensor in self._probe_scratch()),
        }

    def probe_scratch_is_private(self) -> dict[str, Any]:
        """Whether no storage of the scratch is one of inference's."""
        live = {
            part.untyped_storage().data_ptr()
            for layer in self._probe_live_layers().values()
            for part in cache_of(layer)
        }
        scratch = {tensor.untyped_storage().data_ptr() for tensor in self._probe_scratch()}
        return {"private": not live & scratch, "live": len(live), "scratch": len(scratch)}

    def probe_poison(self) -> dict[str, Any]:
        """Make every output of the model non-finite, until `probe_cure`."""
        norm = self.model_runner.model.model.norm.weight
        self._probe_norm = norm.detach().clone()
        with torch.inference_mode():
            norm.fill_(float("nan"))
        return {}

    def probe_cure(self) -> dict[str, Any]:
        """Undo `probe_poison`."""
        with torch.inference_mode():
            self.model_runner.model.model.norm.weight.copy_(self._probe_norm)
        return {}

    def probe_forget_round(self) -> dict[str, Any]:
        """Take the open round away, so that the next batch fails on the engine."""
        getattr(self, STATE_ATTRIBUTE).close_round()
        return {}

    def probe_forget_round_on(self, rank: int) -> dict[str, Any]:
        """The same on one rank only."""
        return self.probe_forget_round() if self.rank == rank else {}

    def probe_break_a_layer(self, how: str, rank: int | None = None, batches: int = 0) -> dict[str, Any]:
        """Let the third layer, or the last, `fail` or `hang` after so many batches, on one rank or on all.

        Whoever waits for the others is given five seconds, and whoever waits for a forward ten.
        """
        state = getattr(self, STATE_ATTRIBUTE)
        state._world_vote.timeout = state._stage_vote.timeout = timedelta(seconds=5)
        state._pausable.timeout = timedelta(seconds=10)
        if rank not in (None, self.rank):
            return {}
        layers = sorted(self._probe_live_layers())[:3]
        impl = state.private_layers.by_name[layers[-1]].impl
        forward = impl.forward

        left = [None] * batches

        def broken(*arguments: Any, **named: Any) -> Any:
            if left:
                left.pop()
                return forward(*arguments, **named)
            impl.forward = forward
            if how == "hang":
                threading.Event().wait()
            raise ValueError("the third layer is broken")

        impl.forward = broken
        return {}

    def probe_batch_inputs(self, keys: list[tuple[str, int]]) -> dict[str, Any]:
        """What this rank makes of a batch's inputs, what it has then, and what it would have made alone."""
        state = getattr(self, STATE_ATTRIBUTE)
        prepared = state._prepare([(key, nonce) for key, nonce in keys])
        (tokens, part), tensors = prepared.inputs, state._round
        projected = 0 if part is None else int((part != 0).any(dim=-1).sum())
        inputs = state._inputs.combine(tensors, prepared.inputs)  # which may write into the part
        rows = tensors.normal(prepared.keys) if tokens is None else state._forward.embed(tokens)
        alone = tensors.project(rows)
        return {
            "rows": projected,
            "sha256": hashlib.sha256(inputs.contiguous().view(torch.uint8).numpy()).hexdigest(),
            "shape": list(inputs.shape),
            "largest": float(alone.float().abs().max()),
            "difference": float((inputs.float() - alone.float()).abs().max()),
        }

    def probe_live_bytes(self) -> dict[str, Any]:
        """The bytes of all large tensors that are alive in this process, shared storage once."""
        gc.collect()
        plain = (torch.Tensor, torch.nn.Parameter)  # compilation leaves others that have no storage
        storages = {
            storage.data_ptr(): storage.nbytes()
            for each in gc.get_objects()
            if type(each) in plain and (storage := each.untyped_storage()).nbytes() >= 2**16
        }
        return {"bytes": sum(storages.values())}

    def _probe_live_layers(self) -> dict[str, Any]:
        layers = self.vllm_config.compilation_config.static_forward_context
        return layers_with_caches(self.vllm_config, layers)

    def _probe_scratch(self) -> list[torch.Tensor]:
        scratch = getattr(self, STATE_ATTRIBUTE).private_layers.scratch
        tensors = [tensor for each in scratch.values() for tensor in each]
        return list({id(tensor): tensor for tensor in tensors}.values())
