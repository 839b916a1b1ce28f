"""Ending with the process that started this one, however that ends."""

import logging
import multiprocessing
import os
import signal
import threading
import time

__all__ = ["PATIENCE", "end_with_parent"]

logger = logging.getLogger(__name__)

PATIENCE = 10.0
"""Seconds that the process has to end by itself once its parent is gone."""

_NAME = "hallmark-parent-watch"


def end_with_parent(patience: float = PATIENCE) -> None:
    """End this process once the one that started it by `multiprocessing` is gone; again changes nothing.

    vLLM's API server ends its engine on the way out, but not where it is killed: the engine would keep the
    GPU. Linux could send a signal at a parent's death, but takes the end of the *thread* that started the
    process for it. The pipe that `multiprocessing` holds open in the parent tells it of the process.

    Args:
        patience: Seconds from SIGTERM, at which vLLM's processes put things in order, to SIGKILL.
    """
    parent = multiprocessing.parent_process()
    if parent is None or any(thread.name == _NAME for thread in threading.enumerate()):
        return

    def watch() -> None:
        parent.join()
        logger.error("The process %s that started this one has ended: this one ends too", parent.pid)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(patience)
        os.kill(os.getpid(), signal.SIGKILL)

    threading.Thread(target=watch, name=_NAME, daemon=True).start()
