"""The node's GPUs, as NVIDIA's management library tells.

Without the library, a driver or a GPU the list is empty.
"""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass
from typing import Any

from hive.broker.nodes.table import Gpu
from hive.logs import get_logger
from hive.spore.machine.limits import MIB

log = get_logger(__name__)

# Seconds before a driver that failed is asked again: each search for a library takes a while.
RETRY_AFTER = 60.0

UUID_DIGITS = 32


@dataclass(frozen=True, slots=True)
class GpuReading:
    """One GPU at this moment.

    memory_mb: 0 where the driver does not tell (a GPU that shares the processor's memory).
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
        self._inventory: list[Gpu] | None = None

    def read(self) -> list[GpuReading]:
        """The GPUs in the order of CUDA_VISIBLE_DEVICES, without those that it hides; all of them,
        in the driver's order, where it is not set.
        """
        return self._answer() or []

    @property
    def inventory(self) -> list[Gpu]:
        """The GPUs as the node table knows them: what the driver says when it answers first, for a
        machine's GPUs do not change while it runs.
        """
        if self._inventory is None:
            gpus = self._answer()
            if gpus is None:
                return []
            self._inventory = [Gpu(name=gpu.name, memory_mb=gpu.memory_mb) for gpu in gpus]
        return self._inventory

    def utilisation(self) -> float:
        """The mean utilisation (0..1) of the GPUs; -1 when there is none, or none that tells."""
        told = [gpu.utilisation for gpu in self.read() if gpu.utilisation is not None]
        return sum(told) / len(told) if told else -1.0

    def _answer(self) -> list[GpuReading] | None:
        """None when the driver does not answer, or failed a moment ago."""
        if self._library is None or time.monotonic() < self._retry_at:
            return None
        try:
            return self._read()
        except self._library.NVMLError as error:
            self._started = False
            self._retry_at = time.monotonic() + RETRY_AFTER
            if not self._complained:
                self._complained = True
                log.warning("gpus_not_readable", error=str(error))
            return None

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
        try:
            memory_mb = int(nvml.nvmlDeviceGetMemoryInfo(handle).total) // MIB
        except nvml.NVMLError_NotSupported:
            memory_mb = 0
        try:
            utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        except nvml.NVMLError_NotSupported:
            utilisation = None
        return GpuReading(_text(nvml.nvmlDeviceGetName(handle)), memory_mb, utilisation)


def visible(uuids: list[str], chosen: str | None) -> list[int]:
    """Positions of the GPUs that CUDA shows a program.

    The first word says whether it reads numbers or beginnings of UUIDs. It reads up to the first
    word that names no GPU; one that is named twice it takes for an error, and shows none.

    chosen: the value of CUDA_VISIBLE_DEVICES, None where it is not set (all are shown).
    Source: CUDA C++ Programming Guide, environment variables; else what driver 580 does on an H100.
    """
    if chosen is None:
        return list(range(len(uuids)))
    named = _by_uuid if chosen.startswith("GPU-") else _by_number
    positions: list[int] = []
    for word in chosen.split(","):
        found = named(uuids, word)
        if len(found) != 1:
            break
        if found[0] in positions:
            return []
        positions += found
    return positions


def _by_uuid(uuids: list[str], word: str) -> list[int]:
    """Dashes do not count, nor does what follows a whole UUID."""
    digits = _digits(word)[:UUID_DIGITS] if word.startswith("GPU-") else ""
    return [
        index for index, uuid in enumerate(uuids) if digits and _digits(uuid).startswith(digits)
    ]


def _digits(uuid: str) -> str:
    return uuid.removeprefix("GPU-").replace("-", "").lower()


def _by_number(uuids: list[str], word: str) -> list[int]:
    """What follows the number does not count."""
    number = re.match(r"\s*([+-]?\d+)", word, re.ASCII)
    return [int(number[1])] if number and 0 <= int(number[1]) < len(uuids) else []


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
