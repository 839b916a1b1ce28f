"""Engines of actors that something happens to: real ones, in processes of Ray's."""

import os
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from hallmark.poc.offline.engine import Batch, Computed
from hallmark.poc.offline.model import OfflineModel, TransformersLoader

NODE_DTYPE = "HALLMARK_TEST_DTYPE"
"""A variable of a node: what its models are run in."""


class DeadlyModel(OfflineModel):
    """A model whose process is killed by the batch with some nonce."""

    deadly = -1

    def compute(self, batches: Iterable[Batch]) -> Iterator[Computed]:
        for batch in batches:
            if any(nonce == self.deadly for _, nonce in batch.keys):
                os.kill(os.getpid(), signal.SIGKILL)
            yield from super().compute([batch])


@dataclass(frozen=True)
class DeadlyLoader(TransformersLoader):
    """Loads a model whose process is killed by the batch with some nonce."""

    nonce: int = -1

    def load(self) -> OfflineModel:
        model = DeadlyModel.load(self.directory, device="cpu", dtype=self.dtype)
        model.deadly = self.nonce
        return model


@dataclass(frozen=True)
class FatalLoader(TransformersLoader):
    """Ends its process instead of loading anything."""

    def load(self) -> OfflineModel:
        os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("it was killed")


@dataclass(frozen=True)
class NodesOwnLoader(TransformersLoader):
    """Loads the model in the dtype that its node states."""

    def load(self) -> OfflineModel:
        return replace(self, dtype=os.environ.get(NODE_DTYPE, self.dtype)).transformers()

    def transformers(self) -> OfflineModel:
        """Load it as any other."""
        return TransformersLoader(self.directory, self.device, self.dtype).load()
