import subprocess
import sys
from pathlib import Path

import pytest
import torch

from worker.slimming import free_memory
from worker.slimming.free_memory import budget, free_bytes

CPU = torch.device("cpu")
GIB = 2**30


def test_half_of_what_the_system_has_free_may_be_taken() -> None:
    assert 0 < budget(CPU) < 8 * 1024 * GIB
    assert budget(CPU) == pytest.approx(free_bytes(CPU) / 2, rel=0.2)


@pytest.mark.parametrize(("limit", "expected"), [(str(3 * GIB), 2 * GIB + 4096), ("max", 7 * GIB + 4096)])
def test_a_control_group_limits_it(limit: str, expected: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own").write_text("7:blkio:/other\n4:memory:/jobs/one\n")
    own = tmp_path / "jobs/one"
    for directory, most in ((own, limit), (own.parent, str(8 * GIB)), (tmp_path, "max")):
        directory.mkdir(parents=True, exist_ok=True)
        files = {"limit": most, "used": str(GIB), "memory.stat": "anon 5\ninactive_file 4000\nactive_file 96"}
        for name, text in files.items():
            (directory / name).write_text(text)
    group = free_memory.ControlGroups(tmp_path, "memory", "limit", "used", ("inactive_file", "active_file"))
    monkeypatch.setattr(free_memory, "CONTROL_GROUPS", (group,))
    monkeypatch.setattr(free_memory, "OWN_GROUPS", tmp_path / "own")
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes(CPU) == expected


def test_a_limit_of_the_address_space_counts() -> None:
    code = f"""
import resource, torch
from worker.slimming.free_memory import free_bytes
resource.setrlimit(resource.RLIMIT_AS, ({64 * GIB}, {64 * GIB}))
print(free_bytes(torch.device("cpu")))
"""
    found = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert found < 64 * GIB
