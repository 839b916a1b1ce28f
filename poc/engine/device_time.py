"""How long the device is busy with something, or the process where that is the device."""

import time

import torch

__all__ = ["DeviceTime"]


class DeviceTime:
    """The time from here to `stop` on the current stream, work that was launched before not included.

    Args:
        device: The device; on a CPU the time is the process's own.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._begun = self._ended = time.perf_counter()
        self._events: tuple[torch.Event, torch.Event] | None = None
        if device.type != "cpu":
            self._events = torch.Event(device, enable_timing=True), torch.Event(device, enable_timing=True)
            self._events[0].record(torch.cuda.current_stream(device))

    def stop(self) -> None:
        """Mark the end, behind everything that has been launched."""
        self._ended = time.perf_counter()
        if self._events is not None:
            self._events[1].record(torch.cuda.current_stream(self._device))

    def has_arrived(self) -> bool:
        """Return whether the device has come to the end."""
        return self._events is None or self._events[1].query()

    @property
    def seconds(self) -> float:
        """The time, once the device has arrived: idle while the host was launching included."""
        if self._events is None:
            return self._ended - self._begun
        return self._events[0].elapsed_time(self._events[1]) / 1e3
