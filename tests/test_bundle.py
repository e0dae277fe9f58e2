"""The boot zip: compiled for the Python that made it, and still good for others and in other places."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

from trainkit.boot.rundir import read_json
from trainkit.bundle import bundle
from trainkit.testing import make_job

FILE = "import sys; sys.path.insert(0, sys.argv[1]); import trainkit.job; print(trainkit.job.__file__)"


def test_its_modules_are_compiled_for_this_python_and_there_for_any(tmp_path: Path) -> None:
    path = bundle(tmp_path, "fork")
    other = tmp_path / "other.zip"
    with zipfile.ZipFile(path) as archive, zipfile.ZipFile(other, "w") as copy:
        for entry in archive.infolist():
            data = archive.read(entry)
            copy.writestr(entry, b"\0\0\0\0" + data[4:] if entry.filename.endswith(".pyc") else data)
    for zipped, kind in ((path, "pyc"), (other, "py")):
        done = subprocess.run([sys.executable, "-I", "-c", FILE, zipped], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == f"{zipped}/trainkit/job.{kind}"


def test_a_rank_that_runs_from_a_copy_of_it_shows_none_of_its_lines(tmp_path: Path) -> None:
    copy = bundle(tmp_path / "here", "fork").rename(tmp_path / "there.zip")
    job, attempt = make_job(tmp_path / "run", "def work():\n    return 1 / 0\nwork()\n")
    told = {"TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_RUN_ID": job.run_id, "TRAINKIT_ATTEMPT": "1"}
    env = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", **told}
    assert subprocess.run([sys.executable, "-S", str(copy), "rank"], env=env, timeout=60).returncode == 1
    record = read_json(attempt.rank_record(0)) or {}
    assert (record["exception"], record["line"], record["function"]) == ("ZeroDivisionError", 2, "work")
    assert "boot" not in record["traceback"]


def test_a_trainkit_that_is_installed_is_not_hidden(tmp_path: Path) -> None:
    path = bundle(tmp_path / "boot", "fork")
    for way, mine in (([], False), (["-S"], True)):
        job, attempt = make_job(tmp_path / f"run-{mine}", "import trainkit.job; print(trainkit.job.__file__)")
        told = {"TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_RUN_ID": job.run_id, "TRAINKIT_ATTEMPT": "1"}
        env = {**os.environ, "RANK": "0", "WORLD_SIZE": "1", **told}
        assert subprocess.run([sys.executable, *way, str(path), "rank"], env=env, timeout=60).returncode == 0
        assert attempt.rank_log(0).read_text().startswith(f"{path}/") == mine
