import re
from types import SimpleNamespace

import pytest
import torch

from fgcli import devices
from fgcli.devices import describe, list_devices, peak_memory_bytes, resolve_device, synchronize
from fgcli.errors import UsageError

CPU = torch.device("cpu")


@pytest.fixture
def machine(monkeypatch):
    """Make this machine look as if it had these accelerators."""

    def pretend(cuda=0, mps=False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: cuda)
        monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)

    return pretend


@pytest.mark.parametrize(
    ("cuda", "mps", "present"),
    [
        (0, False, ["cpu"]),
        (0, True, ["mps", "cpu"]),
        (2, False, ["cuda:0", "cuda:1", "cpu"]),
        (1, True, ["cuda:0", "mps", "cpu"]),
    ],
)
def test_auto_is_the_first_of_cuda_mps_cpu(machine, cuda, mps, present):
    machine(cuda, mps)
    assert list_devices() == present
    assert resolve_device("auto") == torch.device(present[0])
    for name in present:
        assert resolve_device(name) == torch.device(name)


def test_plain_cuda_is_the_first(machine):
    machine(cuda=2)
    assert resolve_device("cuda") == torch.device("cuda:0")


@pytest.mark.parametrize("name", ["cuda:7", "cuda:2", "mps"])
def test_an_absent_device_lists_those_present(machine, name):
    machine(cuda=2)
    with pytest.raises(UsageError, match=f"^device {name} is absent; present: cuda:0, cuda:1, cpu$"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cuda", "cuda:0", "mps"])
def test_without_accelerators_only_the_cpu_is_present(machine, name):
    machine()
    with pytest.raises(UsageError, match=f"device {name} is absent; present: cpu$"):
        resolve_device(name)


@pytest.mark.parametrize(
    "name", ["", "gpu", "CPU", "cpu:0", "cuda:", "cuda:-1", "cuda:x", "cuda:1 ", "cuda:٣", "cpu\n"]
)
def test_a_name_that_is_none_is_refused_in_one_line(machine, name):
    machine(cuda=1)
    with pytest.raises(UsageError, match=r"unknown device .* auto, cpu, cuda, cuda:N or mps") as caught:
        resolve_device(name)
    assert repr(name) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_synchronize_waits_for_the_device_itself(monkeypatch):
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", waited.append)
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    synchronize(CPU)
    assert waited == []
    synchronize(torch.device("cuda:1"))
    synchronize(torch.device("mps"))
    assert waited == [torch.device("cuda:1"), "mps"]


def test_peak_memory_of_accelerators(monkeypatch):
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda device: {1: 111}[device.index])
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 222)
    assert peak_memory_bytes(torch.device("cuda:1")) == 111
    assert peak_memory_bytes(torch.device("mps")) == 222


def test_peak_memory_of_the_process_grows_and_stays():
    before = peak_memory_bytes(CPU)
    assert 50e6 < before < 50e9  # Python with torch: a wrong unit is off by 1,024
    held = torch.ones(before // 4)  # as large as the peak so far, so it must rise
    during = peak_memory_bytes(CPU)
    assert during > 1.05 * before
    del held
    assert peak_memory_bytes(CPU) > 0.98 * during  # Linux counts to within some pages a thread


@pytest.mark.parametrize(("system", "expected"), [("darwin", 5000), ("linux", 5000 * 1024)])
def test_peak_memory_without_proc_minds_the_unit(monkeypatch, system, expected):
    monkeypatch.setattr(devices, "_read", lambda _: "")
    monkeypatch.setattr(devices.resource, "getrusage", lambda _: SimpleNamespace(ru_maxrss=5000))
    monkeypatch.setattr(devices.sys, "platform", system)
    assert peak_memory_bytes(CPU) == expected


def test_peak_memory_is_the_processs_own_not_its_parents(monkeypatch):
    monkeypatch.setattr(devices, "_read", lambda _: "Name:\tfg\nVmPeak:\t 99 kB\nVmHWM:\t    12 kB\nVmRSS:\t 3 kB\n")
    assert peak_memory_bytes(CPU) == 12 * 1024


def test_describe(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"Fast GPU {device.index}")
    assert describe(torch.device("cuda:1")) == "Fast GPU 1 (cuda:1)"
    assert re.fullmatch(r".+, \d+ cores? \(cpu\)", describe(CPU))
    monkeypatch.setattr(devices, "_read", lambda _: "processor : 0\nmodel name\t: Slow CPU 3000 \nflags: x\n")
    monkeypatch.setattr(devices.os, "cpu_count", lambda: 1)
    assert describe(CPU) == "Slow CPU 3000, 1 core (cpu)"
    assert describe(torch.device("mps")) == "Slow CPU 3000 GPU (mps)"
