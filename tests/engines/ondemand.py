"""Results that are made on demand and kept in benchmarks/results: their one shape, and whether they are still true.

A result says at which commit it was made, what ran, what failed, and the digest of the sources that it covers: where
these have changed since, the tables of the README (scripts/tables) call it stale.

python -m tests.engines.ondemand NAME runs the tests of one of ALL that is made of tests alone, and writes its result.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
_AGENTS = ("trainkit/boot", "trainkit/job.py", "trainkit/bundle.py")
_DRIVER = ("trainkit/driver.py", "trainkit/starting.py", "trainkit/watching.py", "trainkit/judging.py",
           "trainkit/outcome.py", "trainkit/lostnodes.py", "trainkit/restarts.py")  # fmt: skip
_LAUNCHERS = ("launchers/local.py", "launchers/ssh.py", "launchers/remote", "launchers/slurm*.py", "launchers/ray*.py")
_SPREADS = ("launchers/spreads", "launchers/mpirun.py", "launchers/mpidialects.py", "launchers/horovodrun.py")


@dataclass(frozen=True)
class Demand:
    """One kind of result: the make target that writes it, and what it is about."""

    name: str  # of its file in benchmarks/results
    make: str
    what: str
    covers: tuple[str, ...]  # files, folders and patterns of the repository, as git understands them
    tests: tuple[str, ...] = ()  # pytest's arguments, where tests are all of it
    engines: tuple[tuple[str, ...], ...] = ()  # commands that print a version


ALL = (
    Demand(
        "matrix", "test-matrix", "every launcher with every spread",
        (*_LAUNCHERS, *_SPREADS, *_AGENTS, *_DRIVER, "trainkit/loops", "tests/engines/matrix.py"),
        engines=(("/usr/sbin/slurmd", "-V"),),
    ),
    Demand(
        "slurm", "test-slurm-slow", "Slurm: jobs started again, time limits, accounts",
        ("launchers/slurm*.py", *_AGENTS, *_DRIVER, "tests/engines/slow_slurm.py"),
        ("tests/engines/slow_slurm.py",), (("/usr/sbin/slurmd", "-V"),),
    ),
    Demand(
        "openmpi5", "test-openmpi5", "Open MPI 5: worlds, failures, deaths of its parts and of a node",
        (*_SPREADS, *_AGENTS, "tests/engines/test_spreads.py"),
        ("tests/engines/test_spreads.py", "-k", "openmpi5 or a_node_that_dies"), ((".venv/bin/mpirun", "--version"),),
    ),
    Demand(
        "kubernetes", "test-kubernetes", "Kubernetes 1.20: jobs of one node on its API server, scheduler and kubelet",
        ("launchers/kubernetes.py", "launchers/manifests.py", "launchers/podstates.py", "launchers/seldom.py",
         *_AGENTS, *_DRIVER,
         "scripts/kubernetes-build", "tests/engines/kubernetes_cluster.py", "tests/engines/kubernetes_laws.py"),
    ),
    Demand(
        "soak", "soak", "this machine: every planted fault and every kill, many times",
        ("launchers/local.py", *_SPREADS, *_AGENTS, *_DRIVER, "trainkit/testing/runs.py", "trainkit/testing/kills.py",
         "trainkit/testing/planted.py", "benchmarks/soak.py"),
    ),
    Demand(
        "soak_nodes", "soak", "several nodes: random faults, each launcher; healthy loops that nobody may call stuck",
        (*_LAUNCHERS, *_SPREADS, *_AGENTS, *_DRIVER, "trainkit/loops", "tests/engines/random_faults.py",
         "tests/engines/promises.py", "tests/engines/healthy.py", "benchmarks/soak_nodes.py"),
        engines=(("/usr/sbin/slurmd", "-V"),),
    ),
)  # fmt: skip


def demand(name: str) -> Demand:
    """The one of this name; KeyError names those that there are."""
    found = {each.name: each for each in ALL}
    if name not in found:
        raise KeyError(f"no result is called {name}; there are {', '.join(found)}")
    return found[name]


def _git(root: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=root, capture_output=True, text=True, check=True).stdout


def digest(covers: Sequence[str], root: Path = ROOT) -> str:
    """Of the tracked files of these names, folders and patterns, as they are now: their names and their contents."""
    whole = hashlib.sha256()
    for name in sorted(filter(None, _git(root, "ls-files", "-z", "--", *covers).split("\0"))):
        path = root / name
        if path.is_file():
            contents = hashlib.sha256(path.read_bytes()).hexdigest()
            whole.update(f"{name}\0{contents}\n".encode())
    return whole.hexdigest()


def checked_out(root: Path = ROOT) -> str:
    """The commit that is checked out; "" where git knows none."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip()


def commit(covers: Sequence[str], root: Path = ROOT) -> str:
    """The commit that is checked out, with "+" where the covered files are not those of that commit."""
    changed = _git(root, "status", "--porcelain", "--", *covers).strip()
    return _git(root, "rev-parse", "--short=9", "HEAD").strip() + ("+" if changed else "")


@dataclass(frozen=True)
class Row:
    """What became of one test, or of one cell."""

    name: str
    outcome: str  # passed, failed, skipped
    seconds: float
    wrong: str = ""  # why it failed or was skipped
    values: dict[str, Any] = field(default_factory=dict)  # what was measured


class Result:
    """A result in the making; made before its tests run, for it is about the sources of that moment."""

    def __init__(self, name: str, root: Path = ROOT) -> None:
        self.about, self.root, self._began = demand(name), root, time.time()
        self._commit, self._digest = commit(self.about.covers, root), digest(self.about.covers, root)
        self.path = root / "benchmarks" / "results" / f"{name}.json"

    def write(self, rows: Sequence[Row], seeds: Sequence[int] = (), engines: dict[str, str] | None = None) -> int:
        """Write the file; the number of failures. What was skipped counts as one: it was asked for."""
        failures = sum(row.outcome != "passed" for row in rows)
        versions = {Path(words[0]).name: _version(words) for words in self.about.engines}
        values = {
            "what": self.about.what,
            "commit": self._commit,
            "made": time.strftime("%Y-%m-%d", time.gmtime(self._began)),
            "digest": self._digest,
            "covers": list(self.about.covers),
            "engines": {"python": platform.python_version(), **versions, **(engines or {})},
            "seeds": list(seeds),
            "count": len(rows),
            "failures": failures,
            "seconds": round(time.time() - self._began),
            "rows": [asdict(row) for row in rows],
        }
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".part")
        temporary.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self.path)
        print(f"{self.about.name}: {len(rows) - failures} of {len(rows)} passed; written: {self.path}", flush=True)
        return failures


def _version(words: Sequence[str]) -> str:
    """The last word of the first line that a program says of itself."""
    try:
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=30)
    except OSError:
        return "not here"
    return next(iter(done.stdout.strip().splitlines()), "unknown").rpartition(" ")[2]


class Kept:
    """A plugin of pytest that keeps what became of each test."""

    def __init__(self) -> None:
        self.rows: list[Row] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """One row a test; a failure to set it up or to clean up after it is its failure."""
        name = report.nodeid.rpartition("/")[2]
        if report.when == "call" or report.outcome != "passed":
            wrong = "" if report.passed else str(report.longrepr)[-2000:]
            before = self.rows.pop() if self.rows and self.rows[-1].name == name else None
            row = Row(name, report.outcome, round(report.duration, 1), wrong)
            self.rows.append(row if before is None or before.outcome == "passed" else before)


def complete(rows: Sequence[Row], code: int) -> list[Row]:
    """All rows of a session of pytest that ended with `code`; RuntimeError where it did not run to its end."""
    if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED) or not rows:
        raise RuntimeError(f"pytest ended with {code} after {len(rows)} tests: nothing is written")
    session = Row("the session", "failed", 0.0, "no test failed and yet pytest did: processes were left behind")
    return [*rows, *([session] if code and all(row.outcome == "passed" for row in rows) else [])]


def run(name: str) -> int:
    """Run all tests of a result and write it; the number of failures."""
    about, result, kept = demand(name), Result(name), Kept()
    code = pytest.main(["-v", "-p", "no:cacheprovider", "--tb=short", *about.tests], plugins=[kept])
    return result.write(complete(kept.rows, int(code)))


if __name__ == "__main__":
    asked = [each.name for each in ALL if each.tests]
    if len(sys.argv) != 2 or sys.argv[1] not in asked:
        sys.exit(f"python -m tests.engines.ondemand with one of: {', '.join(asked)}")
    sys.exit(1 if run(sys.argv[1]) else 0)
