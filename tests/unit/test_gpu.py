"""GPUs as NVIDIA's library tells them.

The library is played by a fake: hardly a machine that runs these tests has a GPU.
"""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import Any

import pytest

from hive.spore.machine.gpu import Gpus, visible
from hive.spore.machine.limits import MIB

FIRST = "GPU-a7000000-0000-0000-0000-000000000000"
SECOND = "GPU-b7000000-0000-0000-0000-000000000000"


class NVMLError(Exception):
    pass


class NotSupportedError(NVMLError):
    pass


class Driver:
    """Two GPUs, the second of which does not tell how busy it is."""

    NVMLError = NVMLError
    NVMLError_NotSupported = NotSupportedError

    def __init__(self) -> None:
        self.broken = False
        self.calls = 0

    def nvmlInit(self) -> None:  # noqa: N802
        self.calls += 1
        if self.broken:
            raise NVMLError("Driver Not Loaded")

    def nvmlDeviceGetCount(self) -> int:  # noqa: N802
        if self.broken:
            raise NVMLError("GPU is lost")
        return 2

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        return index

    def nvmlDeviceGetUUID(self, handle: int) -> str:  # noqa: N802
        return (FIRST, SECOND)[handle]

    def nvmlDeviceGetName(self, handle: int) -> bytes:  # noqa: N802
        return b"Accelerator"

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> Any:  # noqa: N802
        return SimpleNamespace(total=1024 * MIB, free=256 * MIB, used=768 * MIB)

    def nvmlDeviceGetUtilizationRates(self, handle: int) -> Any:  # noqa: N802
        if handle == 1:
            raise NotSupportedError("Not Supported")
        return SimpleNamespace(gpu=40, memory=10)


@pytest.fixture(autouse=True)
def no_choice_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_gpus_are_listed_with_what_they_tell() -> None:
    gpus = Gpus(Driver())
    first, second = gpus.read()
    assert (first.name, first.memory_mb, first.utilisation) == ("Accelerator", 1024, 0.4)
    assert second.utilisation is None
    assert gpus.utilisation() == 0.4
    assert [gpu.memory_mb for gpu in gpus.inventory] == [1024, 1024]


def test_a_gpu_hidden_from_cuda_is_not_offered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    gpus = Gpus(Driver())
    assert len(gpus.inventory) == 1
    assert gpus.utilisation() == -1


@pytest.mark.parametrize(
    ("chosen", "positions"),
    [
        (None, [0, 1]),
        ("", []),
        ("-1", []),
        ("1,0", [1, 0]),
        ("0,7,1", [0]),
        ("0,", [0]),
        (",0", []),
        (" 1,-0", [1, 0]),
        ("+1abc,0x1", [1, 0]),
        ("0,0", []),
        ("0,GPU-b", [0]),
        ("none", []),
        ("²", []),
        ("٠", []),
        ("\xa00", []),
        ("GPU-b", [1]),
        ("GPU-B7", [1]),
        ("GPU-b700000-", [1]),
        (SECOND.replace("-", "").replace("GPU", "GPU-"), [1]),
        (f"{SECOND}x", [1]),
        (f"{SECOND[:-1]}1", []),
        ("GPU-bx", []),
        ("GPU-b,GPU-a,0", [1, 0]),
        (f"GPU-b,{SECOND}", []),
        ("GPU-", []),
        ("G", []),
        ("gpu-b", []),
        (" GPU-b", []),
    ],
)
def test_cuda_visible_devices_is_read_as_cuda_reads_it(
    chosen: str | None, positions: list[int]
) -> None:
    assert visible([FIRST, SECOND], chosen) == positions


def test_a_failing_driver_means_no_gpu_and_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    driver.broken = True
    gpus = Gpus(driver)
    with caplog.at_level(logging.WARNING):
        assert gpus.read() == gpus.inventory == []
        assert gpus.utilisation() == -1
    assert [record.message for record in caplog.records] == [
        'event=gpus_not_readable error="Driver Not Loaded"'
    ]
    assert driver.calls == 1, "a failed driver is left alone for a while"


def test_a_gpu_lost_later_means_no_gpu(caplog: pytest.LogCaptureFixture) -> None:
    driver = Driver()
    gpus = Gpus(driver)
    assert len(gpus.read()) == 2
    driver.broken = True
    with caplog.at_level(logging.WARNING):
        assert gpus.read() == gpus.read() == []
    assert len(caplog.records) == 1
    assert "GPU is lost" in caplog.text


def test_a_driver_that_answers_late_is_believed_and_then_remembered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("hive.spore.machine.gpu.RETRY_AFTER", 0.0)
    driver = Driver()
    driver.broken = True
    gpus = Gpus(driver)
    assert gpus.inventory == []
    driver.broken = False
    assert len(gpus.inventory) == 2
    driver.broken = True
    assert gpus.read() == []
    assert len(gpus.inventory) == 2


def test_a_gpu_without_memory_of_its_own_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def does_not_tell(handle: int) -> Any:
        raise NotSupportedError("Not Supported")

    driver = Driver()
    monkeypatch.setattr(driver, "nvmlDeviceGetMemoryInfo", does_not_tell)
    gpus = Gpus(driver)
    assert [gpu.memory_mb for gpu in gpus.inventory] == [0, 0]
    assert gpus.utilisation() == 0.4


def test_this_machine_answers_honestly() -> None:
    gpus = Gpus()
    assert len(gpus.inventory) == len(gpus.read())
    assert (gpus.utilisation() == -1) or gpus.inventory
