"""The pipeline that a model's layers are divided over: what a stage receives and sends, and where it is.

A batch goes through the stages one after the other, as inference's steps do. Layers are counted through all
of them, so that every rank knows from the same number which stage has come how far: a stage that a batch has
not reached yet stands in front of its receive, and one that has not to pass its states on yet stands in front
of its send. So none waits in a transfer for another that stands still.
"""

import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import torch
import torch.distributed as dist
from torch import Tensor
from vllm.distributed import get_pp_group, get_tp_group, get_world_group
from vllm.sequence import IntermediateTensors

from hallmark.poc.core.errors import EngineError
from hallmark.poc.engine.rank_vote import stop_engine

__all__ = ["Pipeline", "StageStops"]

_FAILED: Final = "hallmark.failed"


class StageStops:
    """Where one stage stops in a run of batches, by layers of the whole model.

    Args:
        layers: of each stage, those with a cache or a state.
        stage: which of them this is.
    """

    def __init__(self, layers: Sequence[int], stage: int) -> None:
        self.total = sum(layers)
        first = sum(layers[:stage])
        own = [*range(first, first + layers[stage])]
        receives = [first] if stage > 0 else []
        # Behind its last layer, which is in front of the next stage's first one.
        sends = [first + layers[stage]] if stage + 1 < len(layers) else []
        self._receives, self._sends = receives, sends
        self._stops = [*receives, *own, *sends]

    def passed(self, progress: int | None, batches: int) -> int:
        """Return how many of its stops this stage has passed, of so many batches.

        Args:
            progress: through how many layers of all batches the model has got; None where to their end.
            batches: how many there are.
        """
        return self._count(self._stops, progress, batches)

    def transfers(self, progress: int | None, batches: int) -> tuple[int, int]:
        """Return how many batches it has received by then, and how many it has sent."""
        return self._count(self._receives, progress, batches), self._count(self._sends, progress, batches)

    def _count(self, stops: Sequence[int], progress: int | None, batches: int) -> int:
        whole, within = (batches, 0) if progress is None else divmod(progress, self.total)
        return min(whole, batches) * len(stops) + sum(stop < within for stop in stops)


class Pipeline:
    """This rank's place among the stages.

    Args:
        checkpoint: called in front of a receive and of a send.

    Attributes:
        stages: how many there are.
        stage: which of them this rank is in, from 0.
    """

    def __init__(self, checkpoint: Callable[[], None]) -> None:
        self._group: Any = get_pp_group()
        self._ranks: Any = get_tp_group()
        self._world: Any = get_world_group()
        self._checkpoint = checkpoint
        self.stages: int = self._group.world_size
        self.stage: int = self._group.rank_in_group
        self._received = self._sent = 0
        # There may be no memory for one when it is needed.
        self._mark = {_FAILED: torch.zeros(self._ranks.world_size, device=self._ranks.device)}

    @property
    def is_first(self) -> bool:
        """Whether inputs come in here."""
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        """Whether hidden states come out here."""
        return self.stage == self.stages - 1

    @property
    def world_group(self) -> dist.ProcessGroup | None:
        """The CPU group of the ranks of all stages; None where there is one stage."""
        group: dist.ProcessGroup = self._world.cpu_group
        return group if self.stages > 1 else None

    def receive(self) -> IntermediateTensors:
        """Take what the stage before has computed of a batch.

        Raises:
            EngineError: it has failed, and says so.
        """
        self._checkpoint()
        received = self._take()
        if _FAILED in received:
            raise EngineError("a stage before this one has failed")
        return IntermediateTensors(received)

    def send(self, states: IntermediateTensors) -> None:
        """Pass on what this stage has computed of a batch."""
        self._checkpoint()
        self._give(states.tensors)

    @property
    def transfers(self) -> tuple[int, int]:
        """How often a batch is received and sent here."""
        return int(not self.is_first), int(not self.is_last)

    @contextmanager
    def paired(self, due: Callable[[], tuple[int, int]]) -> Iterator[None]:
        """Make each transfer that another stage waits for, where something fails in between.

        Args:
            due: how many batches the stage before sends by the end of this call, and how many the next one
                waits for.
        """
        self._received = self._sent = 0
        try:
            yield
        except Exception as error:
            # They hold what the batch has computed, and there may be no memory left for what is received.
            traceback.clear_frames(error.__traceback__)
            receives, sends = due()
            for batch in range(max(receives, sends)):
                if self._received <= batch < receives:
                    self._take()
                if self._sent <= batch < sends:
                    self._give(self._mark)
            raise

    def of_every_stage(self, value: object) -> list[Any]:
        """Return what each stage says of itself, a collective of all ranks."""
        if self.stages == 1:
            return [value]
        said: list[Any] = [None] * self._world.world_size
        dist.all_gather_object(said, value, group=self._world.cpu_group)
        return said[:: self._ranks.world_size]

    def _take(self) -> dict[str, Tensor]:
        received: dict[str, Tensor] = _transferred(
            lambda: self._group.recv_tensor_dict(all_gather_group=self._ranks)
        )
        self._received += 1
        return received

    def _give(self, tensors: Mapping[str, Tensor]) -> None:
        _transferred(lambda: self._group.send_tensor_dict(dict(tensors), all_gather_group=self._ranks))
        self._sent += 1


def _transferred(transfer: Callable[[], Any]) -> Any:
    """Make a transfer, and stop this process where it fails: the other end cannot be told."""
    try:
        return transfer()
    except Exception as error:  # noqa: BLE001  # whatever the connection's library raises
        stop_engine(f"a transfer between stages failed: {error}")
