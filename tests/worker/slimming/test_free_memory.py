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


@pytest.mark.parametrize(("limit", "expected"), [(str(3 * GIB), 2 * GIB + 4096), ("max", None)])
def test_a_control_group_limits_it(
    limit: str, expected: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = {"memory.max": limit, "memory.current": str(GIB), "memory.stat": "anon 5\ninactive_file 4096"}
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    group = (tmp_path / "memory.max", tmp_path / "memory.current", "inactive_file")
    monkeypatch.setattr(free_memory, "CONTROL_GROUPS", (group,))
    monkeypatch.setattr(free_memory, "MEMINFO", tmp_path / "meminfo")
    assert free_bytes(CPU) == (free_memory.WITHOUT_LIMITS if expected is None else expected)


def test_a_limit_of_the_address_space_counts() -> None:
    code = f"""
import resource, torch
from worker.slimming.free_memory import free_bytes
resource.setrlimit(resource.RLIMIT_AS, ({64 * GIB}, {64 * GIB}))
print(free_bytes(torch.device("cpu")))
"""
    found = int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)
    assert found < 64 * GIB
