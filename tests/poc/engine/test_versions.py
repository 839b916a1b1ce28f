"""Which versions of vLLM are taken, which with a warning, and which are refused."""

from collections.abc import Callable

import pytest

from hallmark.poc.core.errors import UnsupportedError
from hallmark.poc.engine.pins import PINS, vllm_files
from hallmark.poc.engine.versions import check_version, version_in


def unread(file: str) -> str:
    raise AssertionError(f"{file} is read for a tested version")


@pytest.mark.parametrize("version", ["0.26.0", "0.27.1", "0.30.0rc1", "0.33.0", "0.33.1+cpu"])
def test_tested_versions_are_taken_as_they_are(version: str) -> None:
    assert check_version(version, unread, allow_unsupported=False) is None


@pytest.mark.parametrize("allow_unsupported", [False, True])
@pytest.mark.parametrize("version", ["0.25.1", "0.9.0"])
def test_a_version_without_endpoint_plugins_is_refused(version: str, allow_unsupported: bool) -> None:
    with pytest.raises(UnsupportedError) as refusal:
        check_version(version, unread, allow_unsupported=allow_unsupported)
    assert str(refusal.value) == (
        f"vLLM {version} is too old: it has no endpoint plugins. Hallmark is tested with 0.26 to 0.33"
    )


@pytest.mark.parametrize("version", ["0.34.0", "1.0.0", "0.34.1.dev7+g1234", "dev"])
def test_a_newer_version_that_has_every_part_starts_with_a_warning(version: str) -> None:
    assert check_version(version, vllm_files(), allow_unsupported=False) == (
        f"vLLM {version} is not tested: Hallmark is tested with 0.26 to 0.33. "
        "Every part of it that Hallmark uses is there, so it starts"
    )


def renamed(file: str, name: str) -> Callable[[str], str]:
    """The installed files, with a name changed in one of them."""
    read = vllm_files()
    return lambda asked: read(asked).replace(name, f"{name}_v2") if asked == file else read(asked)


def test_a_newer_version_that_lacks_a_part_is_refused_with_its_name() -> None:
    read = renamed("forward_context.py", "no_compile_layers")
    with pytest.raises(UnsupportedError) as refusal:
        check_version("0.34.0", read, allow_unsupported=False)
    told = (
        "forward.ModelForward needs no_compile_layers of ForwardContext in vllm/forward_context.py, "
        "which has none"
    )
    assert str(refusal.value) == (
        "vLLM 0.34.0 is not tested: Hallmark is tested with 0.26 to 0.33, and parts that Hallmark uses are "
        f"missing: {told}. The setting allow_unsupported_vllm starts it all the same"
    )
    warning = check_version("0.34.0", read, allow_unsupported=True)
    assert warning is not None
    assert warning.endswith(f"starts only because allow_unsupported_vllm is set: {told}")


def test_where_much_is_missing_some_of_it_is_named() -> None:
    def nothing(file: str) -> str:
        raise FileNotFoundError(file)

    with pytest.raises(UnsupportedError, match=f"; and {len(PINS) - 3} more\\. The setting"):
        check_version("0.34.0", nothing, allow_unsupported=False)


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("__version__ = version = '0.33.0'\n__version_tuple__ = (0, 33, 0)\n", "0.33.0"),
        ("version = '1'\n__version__ = '0.34.0.dev3+cpu'\n", "0.34.0.dev3+cpu"),
        ("commit_id = None\n", "dev"),
        (None, "dev"),
    ],
)
def test_the_version_is_read_without_importing_vllm(text: str | None, version: str) -> None:
    def read(file: str) -> str:
        assert file == "_version.py"
        if text is None:
            raise FileNotFoundError(file)
        return text

    assert version_in(read) == version
