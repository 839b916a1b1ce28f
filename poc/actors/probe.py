"""Asks a cluster of Ray's who it is: python -P -m hallmark.poc.actors.probe ADDRESS.

It prints an object of JSON: the address of the cluster's head, and its versions of Ray and Python. It is a
program of its own since Ray's client waits for minutes where nothing answers, or something that is not Ray,
and can be interrupted in no other way. ADDRESS is HOST:PORT or `auto`; a cluster that `auto` does not find
has no address.
"""

import json
import os
import sys
from typing import Any

import ray._raylet
from ray._common.usage.usage_lib import get_cluster_metadata
from ray._private import services

__all__ = ["main"]


def main(address: str) -> None:
    """Print what the cluster at an address says of itself."""
    # It is compiled, and without types.
    raylet: Any = ray._raylet
    stated = os.environ.get("RAY_ADDRESS", "") if address == "auto" else ""
    try:
        found = services.canonicalize_bootstrap_address(stated or address)
    except ConnectionError:
        found = None
    known = (get_cluster_metadata(raylet.GcsClient(address=found)) or {}) if found else {}
    answer = {"address": found, "ray": known.get("ray_version"), "python": known.get("python_version")}
    print(json.dumps(answer), flush=True)
    # What Ray's client has started in this process must not keep it.
    os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
