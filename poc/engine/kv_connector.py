"""KV connectors, which carry inference's keys and values to other engines or to a disk."""

from vllm.distributed.kv_transfer import get_kv_transfer_group, has_kv_transfer_group

from hallmark.poc.core.errors import EngineError

__all__ = ["check_connector_rests"]


def check_connector_rests() -> None:
    """Make sure that attention does not hand its keys and values to a connector.

    It does so while a step of inference has bound metadata to the connector; between steps there are none.

    Raises:
        EngineError: A step has left some: a PoC batch would wait for its loads, and be saved as its requests.
    """
    if has_kv_transfer_group() and get_kv_transfer_group().has_connector_metadata():
        raise EngineError(
            "the KV connector holds metadata of a step of inference that is over: a PoC batch would read and "
            "write what belongs to its requests"
        )
