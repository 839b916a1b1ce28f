"""A clock for what takes one as an argument: its time passes when a test says so."""

__all__ = ["Clock"]


class Clock:
    """Seconds that stand still until they are told to pass; called, it tells the time.

    Args:
        now: What it shows at first.

    Attributes:
        now: What it shows; a test may set it.
    """

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        """Let time pass; back, where it is negative."""
        self.now += seconds
