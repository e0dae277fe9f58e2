"""Files are written once or appended to, whoever dies when."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit.boot.reserved import Reserved
from trainkit.boot.rundir import Lines, RunDir, make_private, publish, read_json, read_lines, replace


def test_of_many_writers_the_first_wins(tmp_path: Path) -> None:
    file = tmp_path / "state.json"
    code = "import sys; from trainkit.boot.rundir import publish; print(publish(sys.argv[1], {'by': sys.argv[2]}))"
    writers = [
        subprocess.Popen([sys.executable, "-c", code, str(file), str(n)], stdout=subprocess.PIPE, text=True)
        for n in range(8)
    ]
    answers = [writer.communicate()[0].strip() for writer in writers]
    assert sorted(answers) == ["False"] * 7 + ["True"]
    assert read_json(file) == {"by": str(answers.index("True"))}
    assert [p.name for p in tmp_path.iterdir()] == ["state.json"]


def test_replace_leaves_one_file_private_to_its_user(tmp_path: Path) -> None:
    file = make_private(tmp_path / "a" / "b") / "x.json"
    replace(file, {"n": 1})
    replace(file, {"n": 2})
    assert read_json(file) == {"n": 2}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700


def test_a_torn_line_is_passed_over_and_ended_by_the_next_writer(tmp_path: Path) -> None:
    file = tmp_path / "rank-0.jsonl"
    lines = Lines(file)
    lines.append({"n": 1})
    lines.close()
    with file.open("ab") as torn:
        torn.write(b'{"n": 2, "tor')
    Lines(file).append({"n": 3})
    assert [line["n"] for line in read_lines(file)] == [1, 3]


def test_what_a_killed_writer_appended_is_there(tmp_path: Path) -> None:
    file = tmp_path / "rank-0.jsonl"
    code = (
        "import os, sys; from trainkit.boot.rundir import Lines\n"
        "lines = Lines(sys.argv[1])\n"
        "for n in range(1000): lines.append({'n': n})\n"
        "os.kill(os.getpid(), 9)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(file)]).returncode == -9
    assert [line["n"] for line in read_lines(file)] == list(range(1000))


def test_no_file_means_no_value(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none") is None
    assert list(read_lines(tmp_path / "none")) == []


def test_a_reserved_file_holds_its_space_until_it_is_written(tmp_path: Path) -> None:
    record = Reserved(tmp_path / "0.json", size=65536)
    hidden = next(tmp_path.iterdir())
    assert hidden.stat().st_blocks * 512 >= 65536
    assert record.publish({"exit_code": 3})
    assert [p.name for p in tmp_path.iterdir()] == ["0.json"]
    assert read_json(tmp_path / "0.json") == {"exit_code": 3}


@pytest.mark.skipif(os.getuid() != 0, reason="mounting a small file system needs root")
def test_a_reserved_file_is_written_on_a_full_disk(tmp_path: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", str(tmp_path)], check=True)
    try:
        record = Reserved(tmp_path / "0.json", size=16384)
        with pytest.raises(OSError) as full, (tmp_path / "filler").open("wb", buffering=0) as filler:
            while True:
                filler.write(b"x" * 4096)
        assert full.value.errno == errno.ENOSPC
        with pytest.raises(OSError):
            publish(tmp_path / "other.json", {"text": "y" * 9000})
        assert record.publish({"text": "z" * 9000})
        assert read_json(tmp_path / "0.json") == {"text": "z" * 9000}
        assert sorted(p.name for p in tmp_path.iterdir()) == ["0.json", "filler"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_a_property_may_have_any_name(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    names = {run.property(key).name for key in ("a/b", "..", "a b", "ä", "A", "a")}
    assert len(names) == 6
    assert all("/" not in name and ".." not in name for name in names)
