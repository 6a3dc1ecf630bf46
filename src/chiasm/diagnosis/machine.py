"""The resources of this machine: free memory of a device, free space of a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_GIB = 1 << 30


def free_memory(device: torch.device) -> int | None:
    """Free memory of a device in bytes, within the container's limit; None where unknown."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type != "cpu":
        return None
    found = [amount for amount in (_available(), _left_in_container()) if amount is not None]
    return min(found, default=None)


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:  # another system than Linux
        return None
    return next((int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable:")), None)


def _left_in_container() -> int | None:
    try:
        limit = (_CGROUP / "memory.max").read_text(encoding="ascii").strip()
        used = int((_CGROUP / "memory.current").read_text(encoding="ascii"))
    except OSError:  # no container, or an older kind
        return None
    return None if limit == "max" else max(0, int(limit) - used)


def free_disk(path: Path) -> int:
    """Free bytes of the disk that holds a path, which need not exist yet."""
    existing = path.absolute()
    while not existing.exists():
        existing = existing.parent
    return shutil.disk_usage(existing).free


def gib(amount: float) -> str:
    """Bytes in a readable unit: "1.42 GiB", "12.3 MiB"."""
    return f"{amount / _GIB:.2f} GiB" if amount >= 0.1 * _GIB else f"{amount / (1 << 20):.1f} MiB"
