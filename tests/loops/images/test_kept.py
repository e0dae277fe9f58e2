"""How much memory decoded pictures may take."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainkit.loops.images.kept import Kept, free_bytes, most_bytes


def machine(root: Path, available_kb: int, cgroup: str) -> tuple[Path, Path]:
    (root / "proc" / "self").mkdir(parents=True)
    (root / "proc" / "meminfo").write_text(f"MemTotal: 999 kB\nMemAvailable:   {available_kb} kB\n")
    (root / "proc" / "self" / "cgroup").write_text(cgroup)
    return root / "proc", root / "cgroup"


def group(folder: Path, **values: object) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, value in values.items():
        (folder / name.replace("__", ".")).write_text(f"{value}\n")


def test_a_machine_without_limits(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1000, "0::/\n")
    assert free_bytes(proc, groups) == 1000 * 1024


def test_the_tightest_control_group_counts(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1000, "0::/jobs/mine\n")
    stat = "anon 1\ninactive_file 100"
    group(groups / "jobs" / "mine", memory__max="max", memory__current=500, memory__stat=stat)
    group(groups / "jobs", memory__max=5000, memory__current=4000, memory__stat=stat)
    assert free_bytes(proc, groups) == 5000 - 4000 + 100


def test_the_older_kind_and_a_container_that_sees_its_own_group_only(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1000, "5:cpu:/docker/abc\n4:memory:/docker/abc\n0::/\n")
    values = {"memory__limit_in_bytes": 9000, "memory__usage_in_bytes": 8500}
    group(groups / "memory", **values, memory__stat="total_inactive_file 250")
    assert free_bytes(proc, groups) == 750


def test_a_full_or_unknown_machine_keeps_nothing(tmp_path: Path) -> None:
    proc, groups = machine(tmp_path, 1000, "0::/\n")
    group(groups, memory__max=100, memory__current=200, memory__stat="inactive_file 0")
    assert free_bytes(proc, groups) == 0 == free_bytes(tmp_path / "nothing", groups)


def test_ranks_of_a_machine_share_a_quarter_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    alone = most_bytes("auto")
    assert 0 < alone <= free_bytes() * 0.3
    for name, value in {"RANK": "0", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "4",
                        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    assert most_bytes("auto") == pytest.approx(alone / 4, rel=0.2)


def test_what_does_not_fit_is_not_kept_and_nothing_counts_twice() -> None:
    kept = Kept(100)
    for number, size in ((0, 60), (0, 60), (1, 50), (2, 40), (3, 1)):
        kept.put(number, torch.zeros(size, dtype=torch.uint8))
    assert [kept.get(number) is not None for number in range(4)] == [True, False, True, False] and kept.bytes == 100
