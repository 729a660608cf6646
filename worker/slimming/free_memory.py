"""The memory that is free for sums and hidden states, on a device or on the host.

A GPU says what it has free. On the host the least of three limits counts: what the system can give without swapping,
what the control group of the process still allows, and what its resource limit does.
"""

import resource
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch

FREE_SHARE = 0.5  # of the memory that is free, which sums and hidden states may take; the rest is for the passes

MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
OWN_GROUPS = Path("/proc/self/cgroup")


class ControlGroups(NamedTuple):
    """The files of a version of control groups: `root` has those of the outermost group that can be seen."""

    root: Path
    controller: str  # in the lines of OWN_GROUPS
    limit: str
    used: str
    given_back: tuple[str, ...]  # entries of memory.stat with the pages of files, which the kernel gives back


CONTROL_GROUPS = (
    ControlGroups(Path("/sys/fs/cgroup"), "", "memory.max", "memory.current", ("inactive_file", "active_file")),
    ControlGroups(
        Path("/sys/fs/cgroup/memory"),
        "memory",
        "memory.limit_in_bytes",
        "memory.usage_in_bytes",
        ("total_inactive_file", "total_active_file"),
    ),
)
WITHOUT_LIMITS = 16 * 2**30  # bytes, on a system that states none of them


def budget(device: torch.device) -> int:
    """The bytes that sums or hidden states may take on the device."""
    return int(FREE_SHARE * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """The bytes that can be allocated on the device; torch's own unused blocks count as free."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [limit for limit in (_of_system(), *_of_control_groups(), _of_resource_limit()) if limit is not None]
    return max(0, min(known, default=WITHOUT_LIMITS))


def _of_system() -> int | None:
    if not MEMINFO.exists():
        return None
    entries = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024


def _of_control_groups() -> Iterator[int]:
    """What the group of the process, and each one around it, still allows."""
    for groups in CONTROL_GROUPS:
        own = groups.root / _path_of_group(groups.controller)
        for directory in (own, *own.parents):
            limit = directory / groups.limit
            if (
                directory.is_relative_to(groups.root)
                and limit.exists()
                and (text := limit.read_text().strip()) != "max"
            ):
                entries = dict(line.split() for line in (directory / "memory.stat").read_text().splitlines())
                files = sum(int(entries.get(name, 0)) for name in groups.given_back)
                yield int(text) - int((directory / groups.used).read_text()) + files


def _path_of_group(controller: str) -> str:
    """The path of the process's group below the root; "" where it is the root."""
    lines = OWN_GROUPS.read_text().splitlines() if OWN_GROUPS.exists() else []
    found = [path for _, controllers, path in (line.split(":", 2) for line in lines) if controllers == controller]
    return found[0].lstrip("/") if found else ""


def _of_resource_limit() -> int | None:
    """Of the address space, which a limit of RLIMIT_AS bounds."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not STATM.exists():
        return None
    return limit - int(STATM.read_text().split()[0]) * resource.getpagesize()
