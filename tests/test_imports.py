"""What a module loads when it is imported: commands and receivers must not wait for PyTorch."""

import json
import subprocess
import sys

from checkout import ROOT

HEAVY = ("torch", "scipy", "triton", "transformers", "vllm")
"""What is only loaded where something is computed."""
COMPUTING = {
    # The tensors of a round, and the facts about a model.
    "poc/protocol/model_facts.py",
    "poc/protocol/projection.py",
    "poc/protocol/round_tensors.py",
    "poc/protocol/row_groups.py",
    "poc/protocol/transfer.py",
}
LIGHT = sorted(
    path.relative_to(ROOT)
    for folder in ("core", "protocol", "webhooks", "settings", "verdict", "outbox")
    for path in (ROOT / "poc" / folder).glob("*.py")
    if str(path.relative_to(ROOT)) not in COMPUTING
) + sorted(
    path.relative_to(ROOT)
    for folder in ("cli", "receiver", "processes")
    for path in (ROOT / "server" / folder).rglob("*.py")
    if path.name != "__main__.py"
)
LIGHT.append((ROOT / "server" / "commands.py").relative_to(ROOT))


LOADER = """
import importlib, json, sys
guilty = {}
for module in json.load(sys.stdin):
    importlib.import_module(module)
    for name in HEAVY:
        if name in sys.modules:
            guilty.setdefault(name, module)
print(json.dumps(guilty))
"""


def test_a_module_that_computes_nothing_loads_nothing_that_computes() -> None:
    modules = [".".join(("hallmark", *path.with_suffix("").parts)) for path in LIGHT]
    code = f"HEAVY = {HEAVY!r}\n{LOADER}"
    ran = subprocess.run(
        [sys.executable, "-P", "-c", code],
        input=json.dumps(modules),
        check=True,
        capture_output=True,
        text=True,
    )
    assert json.loads(ran.stdout) == {}, "each with the first module that loads it"


def test_what_a_gpu_machine_computes_with_needs_nothing_of_a_server() -> None:
    """Kernels and a round's tensors are measured where there is PyTorch, and neither pydantic nor httpx."""
    code = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('pydantic', 'httpx', 'fastapi', 'typer')))\n"
        "import hallmark.kernels.self_check\n"
        "import hallmark.poc.protocol.round_tensors\n"
    )
    ran = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
