"""How many tokens vLLM has generated, by its own metrics."""

from typing import Final

from prometheus_client import REGISTRY, CollectorRegistry

__all__ = ["generated_tokens"]

_NAME: Final = "vllm:generation_tokens_total"


def generated_tokens(registry: CollectorRegistry = REGISTRY) -> float | None:
    """Return the total since the start; None where vLLM does not count, as with `--disable-log-stats`.

    Where PROMETHEUS_MULTIPROC_DIR is set, vLLM counts in files and not here: None as well.
    """
    samples = [
        sample.value
        for family in registry.restricted_registry([_NAME]).collect()
        for sample in family.samples
        if sample.name == _NAME
    ]
    return sum(samples) if samples else None
