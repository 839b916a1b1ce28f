"""Entry point of the group `vllm.general_plugins`."""


def register() -> None:
    """Attach Hallmark's RPC methods to vLLM's worker class, and let the process log and end as it should.

    vLLM calls this once in every process, engine and workers included, before a model is loaded; calling it
    again changes nothing. The methods are new names on `WorkerBase`: nothing of vLLM's own is replaced.

    Raises:
        RuntimeError: `WorkerBase` already has another method of one of these names.
    """
    from vllm.v1.worker.worker_base import WorkerBase

    from hallmark.poc.engine.log_lines import log_where_vllm_does
    from hallmark.poc.engine.orphan import end_with_parent
    from hallmark.poc.engine.worker_methods import RPC_METHODS

    log_where_vllm_does()
    end_with_parent()
    for method in RPC_METHODS:
        present = getattr(WorkerBase, method.__name__, None)
        if present is not None and present is not method:
            raise RuntimeError(
                f"vLLM's WorkerBase already has a method {method.__name__!r}, which Hallmark needs for "
                "itself: another plugin claims it, or this vLLM version has begun to use the name"
            )
        setattr(WorkerBase, method.__name__, method)
