"""The memory that is free for sums and hidden states, on a device or on the host.

A GPU says what it has free. On the host the least of three limits counts: what the system can give without swapping,
what the control group of the process still allows, and what its resource limit does.
"""

import resource
from pathlib import Path

import torch

SHARE = 0.5  # of the free memory that sums or hidden states may take; the rest is for the passes
MEMINFO = Path("/proc/meminfo")
STATM = Path("/proc/self/statm")
# (limit, use, entry of memory.stat with the file cache that the kernel gives back) of version 2 and 1
CONTROL_GROUPS = (
    (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory.current"), "inactive_file"),
    (
        Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
        Path("/sys/fs/cgroup/memory/memory.usage_in_bytes"),
        "total_inactive_file",
    ),
)
WITHOUT_LIMITS = 16 * 2**30  # bytes, on a system that states none of them


def budget(device: torch.device) -> int:
    """The bytes that sums or hidden states may take on the device."""
    return int(SHARE * free_bytes(device))


def free_bytes(device: torch.device) -> int:
    """The bytes that can be allocated on the device; torch's own unused blocks count as free."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    known = [limit for limit in (_of_system(), _of_control_group(), _of_resource_limit()) if limit is not None]
    return max(0, min(known, default=WITHOUT_LIMITS))


def _of_system() -> int | None:
    if not MEMINFO.exists():
        return None
    entries = dict(line.split(":", 1) for line in MEMINFO.read_text().splitlines())
    return int(entries["MemAvailable"].split()[0]) * 1024


def _of_control_group() -> int | None:
    for limit, used, given_back in CONTROL_GROUPS:
        if limit.exists() and (text := limit.read_text().strip()) != "max":
            entries = dict(line.split() for line in limit.with_name("memory.stat").read_text().splitlines())
            return int(text) - int(used.read_text()) + int(entries.get(given_back, 0))
    return None


def _of_resource_limit() -> int | None:
    """Of the address space, which a limit of RLIMIT_AS bounds."""
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY or not STATM.exists():
        return None
    return limit - int(STATM.read_text().split()[0]) * resource.getpagesize()
