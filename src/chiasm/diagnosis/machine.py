"""What this machine has to give: memory of a device, room on a disk."""

from __future__ import annotations

import shutil
from pathlib import Path

import torch

_CGROUP = Path("/sys/fs/cgroup")
_GIB = 1 << 30


def free_memory(device: torch.device) -> int | None:
    """Bytes that a process can still have on a device, limits of a container considered; None where unknown."""
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
    """Bytes free where a path is, or will be."""
    place = path.absolute()
    while not place.exists():
        place = place.parent
    return shutil.disk_usage(place).free


def gib(amount: float) -> str:
    """Bytes as people read them: "1.42 GiB", "12.3 MiB"."""
    return f"{amount / _GIB:.2f} GiB" if amount >= 0.1 * _GIB else f"{amount / (1 << 20):.1f} MiB"
