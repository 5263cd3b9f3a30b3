"""Devices by name: choosing one, waiting for it, its memory, its description."""

import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path

import torch

from fgcli.errors import UsageError


def machine_memory() -> int | None:
    """Bytes of memory that the machine has; None on a system that does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return None


def list_devices() -> list[str]:
    """The devices of this machine that torch can use, the preferred one first."""
    cuda = [f"cuda:{index}" for index in range(torch.cuda.device_count())] if torch.cuda.is_available() else []
    mps = ["mps"] if torch.backends.mps.is_available() else []
    return [*cuda, *mps, "cpu"]


def resolve_device(name: str) -> torch.device:
    """`auto` is the first of cuda, mps and cpu that is present; `cuda` is `cuda:0`.

    Raises UsageError, listing those present, for a device that is absent or a name that is none.
    """
    present = list_devices()
    if name == "auto":
        return torch.device(present[0])
    if not re.fullmatch(r"cpu|cuda(:\d+)?|mps", name, re.ASCII):
        raise UsageError(
            f"unknown device {name!r}; it must be auto, cpu, cuda, cuda:N or mps (present: {', '.join(present)})"
        )
    wanted = "cuda:0" if name == "cuda" else name
    if wanted not in present:
        raise UsageError(f"device {name} is absent; present: {', '.join(present)}")
    return torch.device(wanted)


def synchronize(device: torch.device) -> None:
    """Wait until all work queued on the device is done (the CPU queues none)."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def peak_memory_bytes(device: torch.device) -> int:
    """The most memory used so far: by tensors on a CUDA device, by the whole process on the CPU.

    MPS keeps no peak: there it is what the driver holds now, which does not shrink unless caches are emptied.
    """
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    if device.type == "mps":
        return torch.mps.driver_allocated_memory()
    # ru_maxrss survives exec: a process started by a larger one reports its parent's peak (seen: 625 MB
    # for 9 MB). Linux's VmHWM belongs to the process's own memory alone.
    status = _read(Path("/proc/self/status"))
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    if found:
        return int(found[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024  # bytes on macOS, KiB elsewhere


def describe(device: torch.device) -> str:
    """For people and for the run's record: `NVIDIA H100 80GB HBM3 (cuda:0)`, `AMD EPYC, 2 cores (cpu)`."""
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    if device.type == "mps":
        return f"{_cpu_model()} GPU (mps)"
    cores = os.cpu_count() or 1
    return f"{_cpu_model()}, {cores} {'core' if cores == 1 else 'cores'} (cpu)"


def _cpu_model() -> str:
    found = re.search(r"^model name\s*:\s*(.+)$", _read(Path("/proc/cpuinfo")), re.MULTILINE)
    if found:
        return found[1].strip()
    if sys.platform == "darwin":
        query = ["/usr/sbin/sysctl", "-n", "machdep.cpu.brand_string"]
        answer = subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip()
        if answer:
            return answer
    return platform.processor() or platform.machine() or "unknown processor"


def _read(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
