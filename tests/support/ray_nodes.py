"""Run two nodes of Ray's on this machine until this process is asked to end.

python ray_nodes.py FILE [NAME=VALUE...]. Each node has one core, and one GPU by its own account. The file
gets the cluster's address once both are up. The variables are the second node's.
"""

import signal
import sys
from pathlib import Path
from typing import Any

from ray.cluster_utils import Cluster

NODE: dict[str, Any] = {"num_cpus": 1, "num_gpus": 1, "object_store_memory": 80 * 2**20}


def main() -> None:
    signals = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, signals)
    cluster: Any = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    cluster.add_node(**NODE, env_vars=dict(each.split("=", 1) for each in sys.argv[2:]))
    cluster.wait_for_nodes()
    address = Path(sys.argv[1])
    written = address.with_suffix(".new")
    written.write_text(cluster.address, encoding="utf-8")
    written.rename(address)
    signal.sigwait(signals)
    cluster.shutdown()


if __name__ == "__main__":
    main()
