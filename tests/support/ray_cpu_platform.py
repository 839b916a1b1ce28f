"""vLLM's platform for CPUs, but that Ray deals its ranks out: to what a node of Ray's says are GPUs.

vLLM has no word of Ray's for CPUs. Nothing else of the platform is changed.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from vllm.platforms.cpu import CpuPlatform


def register() -> str:
    """Name the platform; a plugin of the group `vllm.platform_plugins`."""
    return f"{__name__}.RayCpuPlatform"


def __getattr__(name: str) -> "type[CpuPlatform]":
    """Make the class when vLLM asks for it: what it is made of can be imported only then."""
    if name != "RayCpuPlatform":
        raise AttributeError(name)
    from vllm.platforms.cpu import CpuPlatform

    members: dict[str, Any] = {"ray_device_key": "GPU", "__module__": __name__}
    made = globals()[name] = type(name, (CpuPlatform,), members)
    return made
