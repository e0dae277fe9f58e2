"""Results on demand: their shape, what makes them stale, and that the README's tables are made of them alone."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from scripts import tables
from tests.engines import ondemand
from tests.engines.ondemand import ROOT, Result, Row

COVERED = "launchers/local.py"  # of the matrix
README = "# A page\n\n{}\ntext\n\n{}".format(
    *(f"<!-- table: {name} -->\n<!-- end of table -->\n" for name in ("matrix", "ondemand"))
)
ROWS = [
    Row("ssh-fork-1", "passed", 1.0, values={"launcher": "ssh", "spread": "fork", "ranks": 1, "distance": 2e-16}),
    Row("ssh-fork-2", "failed", 1.0, "no weights", values={"launcher": "ssh", "spread": "fork", "ranks": 2}),
]


def git(root: Path, *words: str) -> str:
    names = ("-c", "user.name=t", "-c", "user.email=t@example.org")
    return subprocess.run(["git", *names, *words], cwd=root, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A repository with a README, one covered file and one that is not."""
    root = tmp_path / "checkout"
    for name, text in (("README.md", README), (COVERED, "one\n"), ("other.py", "other\n")):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    git(root, "init", "-q")
    git(root, "add", ".")
    git(root, "commit", "-q", "-m", "all")
    return root


def made(root: Path, rows: Sequence[Row] = tuple(ROWS)) -> dict[str, Any]:
    """A result of the matrix, written into the checkout."""
    Result("matrix", root).write(rows, seeds=[7], engines={"ray": "2"})
    return dict(json.loads((root / "benchmarks" / "results" / "matrix.json").read_text()))


def page(root: Path) -> str:
    assert tables.main(["--root", str(root)]) == 0
    assert tables.main(["--root", str(root), "--check"]) == 0
    return (root / "README.md").read_text()


def test_the_readmes_tables_are_what_the_results_say() -> None:
    command = [sys.executable, "-m", "scripts.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_result_has_its_make_target_and_covers_files_that_there_are() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for about in ondemand.ALL:
        assert f"\n{about.make}:" in makefile, about
        for pattern in about.covers:
            assert git(ROOT, "ls-files", "--", pattern), f"{about.name} covers {pattern}, which is not there"


def test_a_result_says_what_it_is_about(checkout: Path) -> None:
    found = made(checkout)
    commit = git(checkout, "rev-parse", "HEAD")
    assert commit.startswith(found["commit"])
    assert (found["count"], found["failures"], found["seeds"]) == (2, 1, [7])
    assert found["engines"]["ray"] == "2" and found["engines"]["slurmd"]
    assert found["rows"][1]["wrong"] == "no weights"
    assert found["digest"] == ondemand.digest(found["covers"], checkout)
    (checkout / COVERED).write_text("changed\n")
    assert made(checkout)["commit"] == found["commit"] + "+"


def test_what_is_not_tracked_and_not_covered_is_not_digested(checkout: Path) -> None:
    before = ondemand.digest([COVERED, "launchers"], checkout)
    (checkout / "launchers" / "new.py").write_text("untracked\n")
    (checkout / "other.py").write_text("changed\n")
    assert ondemand.digest([COVERED, "launchers"], checkout) == before
    git(checkout, "add", "launchers/new.py")
    assert ondemand.digest(["launchers"], checkout) != before
    git(checkout, "rm", "-q", "-f", "launchers/new.py")
    git(checkout, "mv", COVERED, "launchers/renamed.py")
    assert ondemand.digest(["launchers"], checkout) != before


def test_tables_are_made_of_results(checkout: Path) -> None:
    assert "Not run yet." in page(checkout)
    commit = made(checkout)["commit"]
    text = page(checkout)
    assert "| ranks on each of 2 nodes | fork |\n|---|---|\n| ssh | 1, **2 fails** |\n" in text
    assert "1 of 2; not ssh-fork-2 end with the weights and losses of one process, to 2e-16 in float64" in text
    assert f"| `make test-matrix` | every launcher with every spread | 1 of 2; not ssh-fork-2 | {commit}, 20" in text
    assert (
        "| `make test-openmpi5` | Open MPI 5: worlds, failures, deaths of its parts and of a node | not run yet |"
        in text
    )
    assert "stale" not in text
    assert text.startswith("# A page\n") and "\n\ntext\n\n" in text


def test_a_result_is_stale_when_a_covered_file_changes(checkout: Path) -> None:
    made(checkout)
    page(checkout)
    (checkout / "other.py").write_text("changed\n")
    assert tables.main(["--root", str(checkout), "--check"]) == 0
    (checkout / COVERED).write_text("changed\n")
    assert tables.main(["--root", str(checkout), "--check"]) == 1
    assert page(checkout).count("; **stale**") == 2
    (checkout / COVERED).write_text("changed again\n")
    assert tables.main(["--root", str(checkout), "--check"]) == 0
    made(checkout)
    assert "stale" not in page(checkout)


def test_tables_that_were_changed_by_hand_are_found_out(checkout: Path) -> None:
    made(checkout)
    text = page(checkout)
    (checkout / "README.md").write_text(text.replace("**2 fails**", "2"))
    assert tables.main(["--root", str(checkout), "--check"]) == 1
    assert page(checkout) == text


def test_a_result_of_another_form_counts_as_not_run(checkout: Path) -> None:
    made(checkout)
    (checkout / "benchmarks" / "results" / "matrix.json").write_text('{"commit": "abc", "digest": "0"}')
    assert "Not run yet." in page(checkout)


OUTER = """
import json, sys, pytest
from tests.engines.ondemand import Kept
kept = Kept()
pytest.main(["-q", "-p", "no:cacheprovider", "-c", "/dev/null", "--rootdir", sys.argv[1], sys.argv[1]], plugins=[kept])
print(json.dumps([[row.name, row.outcome, row.wrong] for row in kept.rows]))
"""
INNER = """
import pytest
@pytest.fixture
def breaks_before(): raise RuntimeError("before")
@pytest.fixture
def breaks_after():
    yield
    raise RuntimeError("after")
def test_good(): pass
def test_bad(): assert 1 == 2
def test_left_out(): pytest.skip("no engine")
def test_before(breaks_before): pass
def test_after(breaks_after): pass
def test_bad_and_after(breaks_after): assert 3 == 4
"""


def test_one_row_is_kept_of_each_test_with_what_was_wrong_first(tmp_path: Path) -> None:
    (tmp_path / "test_inner.py").write_text(INNER)
    done = subprocess.run([sys.executable, "-c", OUTER, str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    rows = {
        name.rpartition("::")[2]: (outcome, wrong) for name, outcome, wrong in json.loads(done.stdout.split("\n")[-2])
    }
    outcomes = {name: outcome for name, (outcome, _) in rows.items()}
    assert outcomes == {
        "test_good": "passed", "test_bad": "failed", "test_left_out": "skipped", "test_before": "failed",
        "test_after": "failed", "test_bad_and_after": "failed",
    }  # fmt: skip
    assert "3 == 4" in rows["test_bad_and_after"][1] and "after" in rows["test_after"][1]
    assert len(json.loads(done.stdout.split("\n")[-2])) == 6


def test_what_did_not_run_to_its_end_is_no_result() -> None:
    good = Row("test_good", "passed", 1.0)
    assert ondemand.complete([good], 0) == [good]
    assert ondemand.complete(ROWS, 1) == ROWS
    assert [row.outcome for row in ondemand.complete([good], 1)] == ["passed", "failed"]
    for rows, code in (([good], 2), ([good], 3), ([], 0), ([], 5)):
        with pytest.raises(RuntimeError, match="nothing is written"):
            ondemand.complete(rows, code)


def test_only_results_that_there_are_can_be_asked_for() -> None:
    command = [sys.executable, "-m", "tests.engines.ondemand", "nothing"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, "with one of: slurm, openmpi5" in done.stderr) == (1, True)
    with pytest.raises(KeyError, match="there are matrix, slurm"):
        ondemand.demand("nothing")
