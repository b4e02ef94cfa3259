"""The node's GPUs, as NVIDIA's management library tells.

Without the library, a driver or a GPU the list is empty.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from hive.broker.nodes.table import Gpu
from hive.logs import get_logger
from hive.spore.machine.limits import MIB

log = get_logger(__name__)

# Seconds before a driver that failed is asked again: each search for a library takes a while.
RETRY_AFTER = 60.0


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at this moment.

    utilisation: 0..1 over the driver's last sample period, None where the driver does not tell (a
        divided GPU, for one).
    """

    name: str
    memory_mb: int
    utilisation: float | None


class Gpus:
    """The GPUs that this process may use; read by one thread, as often as it likes.

    A failure is logged once and read as "no GPU", never raised: monitoring must not end a node.
    """

    def __init__(self, library: Any = None) -> None:
        """library: a module with the interface of `pynvml`; the installed one when None."""
        self._library: Any = _load() if library is None else library
        self._started = False
        self._complained = False
        self._retry_at = 0.0

    def read(self) -> list[GpuReading]:
        """The GPUs in the driver's order, without those that CUDA_VISIBLE_DEVICES hides."""
        if self._library is None or time.monotonic() < self._retry_at:
            return []
        try:
            return self._read()
        except self._library.NVMLError as error:
            self._started = False
            self._retry_at = time.monotonic() + RETRY_AFTER
            if not self._complained:
                self._complained = True
                log.warning("gpus_not_readable", error=str(error))
            return []

    @cached_property
    def inventory(self) -> list[Gpu]:
        """The GPUs as the node table knows them; asked once, for a machine's GPUs do not change
        while it runs.
        """
        return [Gpu(name=gpu.name, memory_mb=gpu.memory_mb) for gpu in self.read()]

    def utilisation(self) -> float:
        """The mean utilisation (0..1) of the GPUs; -1 when there is none, or none that tells."""
        told = [gpu.utilisation for gpu in self.read() if gpu.utilisation is not None]
        return sum(told) / len(told) if told else -1.0

    def _read(self) -> list[GpuReading]:
        nvml = self._library
        if not self._started:
            nvml.nvmlInit()
            self._started = True
        handles = [
            nvml.nvmlDeviceGetHandleByIndex(index) for index in range(nvml.nvmlDeviceGetCount())
        ]
        uuids = [_text(nvml.nvmlDeviceGetUUID(handle)) for handle in handles]
        return [
            self._gpu(handles[index])
            for index in visible(uuids, os.environ.get("CUDA_VISIBLE_DEVICES"))
        ]

    def _gpu(self, handle: Any) -> GpuReading:
        nvml = self._library
        memory = nvml.nvmlDeviceGetMemoryInfo(handle)
        try:
            utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError_NotSupported:
            utilisation = None
        return GpuReading(
            _text(nvml.nvmlDeviceGetName(handle)), int(memory.total) // MIB, utilisation
        )


def visible(uuids: list[str], chosen: str | None) -> list[int]:
    """Positions of the GPUs that CUDA shows a program: it reads numbers and beginnings of UUIDs, up
    to the first that names none.

    chosen: the value of CUDA_VISIBLE_DEVICES, None where it is not set (all are shown).
    Source: CUDA C++ Programming Guide, environment variables.
    """
    if chosen is None:
        return list(range(len(uuids)))
    positions: list[int] = []
    for word in chosen.split(","):
        name = word.strip()
        if name.isdigit():
            found = [int(name)] if int(name) < len(uuids) else []
        else:
            found = [index for index, uuid in enumerate(uuids) if name and uuid.startswith(name)]
        if len(found) != 1 or found[0] in positions:
            break
        positions += found
    return positions


def _load() -> Any:
    """The installed NVML bindings; None without them (they are the extra `gpu`)."""
    try:
        import pynvml
    except ImportError:
        return None
    return pynvml


def _text(value: str | bytes) -> str:
    """Older bindings answer in bytes."""
    return value.decode(errors="replace") if isinstance(value, bytes) else value
