"""What runs in the process of an actor: it loads an engine once it is asked, and says who it is."""

from dataclasses import asdict, dataclass
from typing import Any

from hallmark.poc.offline.engine import Batch, EngineLoader, OfflineEngine
from hallmark.poc.protocol.config import DeployedModel
from hallmark.poc.protocol.proof import Numerics

__all__ = ["ActorEngine", "ActorIdentity", "actor_class"]


@dataclass(frozen=True)
class ActorIdentity:
    """What an actor computes with. Another one whose numbers are to be the same has the same.

    Attributes:
        fingerprint: Of the model's files.
        numerics: The fingerprint of its arithmetic.
        facts: What a round has to know of the model.
    """

    fingerprint: str
    numerics: Numerics
    facts: DeployedModel

    def differences(self, expected: "ActorIdentity") -> list[str]:
        """Name what is another than in an expected one, by value: device 'A' and not 'B'."""
        ours, theirs = self._named(), expected._named()
        return [
            f"{name} {ours.get(name)!r} and not {theirs.get(name)!r}"
            for name in {**theirs, **ours}
            if ours.get(name) != theirs.get(name)
        ]

    def _named(self) -> dict[str, Any]:
        return {**asdict(self.facts), **self.numerics, "model's files": self.fingerprint}


class ActorEngine:
    """An engine with its identity.

    Args:
        loader: Loads the engine.

    Raises:
        HallmarkError: As the loader's `load` does.
    """

    def __init__(self, loader: EngineLoader) -> None:
        self._engine: OfflineEngine = loader.load()
        self.identity = ActorIdentity(
            # After the engine has found the folder to be a model's, and in its words where it is none.
            loader.fingerprint(),
            self._engine.numerics,
            self._engine.facts,
        )

    def numbers(self, batch: Batch) -> list[list[float]]:
        """Compute a batch."""
        [computed] = self._engine.compute([batch])
        return computed.numbers


def actor_class() -> Any:
    """Return the class of the actors.

    It is made in a function so that it travels with its code: a node without Hallmark, or with another
    version, can say so.
    """

    class Hallmark:
        """Computes batches with an engine that it loads once it is asked for anything.

        Args:
            wanted: The version of Hallmark that is to be installed.
            loader: What loads the engine, pickled.
        """

        def __init__(self, wanted: str, loader: bytes) -> None:
            self.wanted = wanted
            self.loader = loader
            self.engine: Any = None

        def place(self) -> tuple[str, str | None]:
            """Name the node, and the version of Hallmark that is installed there."""
            import platform
            from importlib.metadata import PackageNotFoundError, version

            import ray

            node = f"{platform.node()} ({ray.get_runtime_context().get_node_id()[:8]})"
            try:
                return node, version("hallmark-poc")
            except PackageNotFoundError:
                return node, None

        def answer(self, batch: bytes | None) -> dict[str, Any]:
            """Compute a batch, pickled, where there is one; say who computes in any case.

            It says no more than the version of Hallmark where that is another one: since it was asked for its
            place it may have come to another node.
            """
            import ray.cloudpickle

            node, hallmark = self.place()
            if hallmark != self.wanted:
                return {"node": node, "hallmark": hallmark}
            if self.engine is None:
                from hallmark.poc.actors.actor import ActorEngine

                self.engine = ActorEngine(ray.cloudpickle.loads(self.loader))
            found = [] if batch is None else self.engine.numbers(ray.cloudpickle.loads(batch))
            return {
                "node": node,
                "hallmark": hallmark,
                "identity": self.engine.identity,
                "numbers": found,
            }

    return Hallmark
