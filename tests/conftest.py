"""What all tests share: a private workspace, a clean environment, and no process left behind.

Every process that a test starts, directly or through any number of others, inherits a marker in its environment; at
the end of the session nothing with that marker may be alive.
"""

from __future__ import annotations

import os
import signal
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from tests.engines.containers import container_engines, docker, no_engine, podman  # noqa: F401 - fixtures
from tests.engines.rootless import rootless  # noqa: F401
from trainkit.boot.ranks import without_ranks

MARKER = "TESTS_OF_TRAINKIT"  # no TRAINKIT_ prefix: jobs are started without any variable of an outer job
GRACE_SECONDS = 20.0  # for a driver or an agent that is just finishing


def pytest_configure(config: pytest.Config) -> None:
    """Make this session's processes recognisable, few-threaded and ignorant of any launcher around the tests."""
    kept = without_ranks(os.environ)
    for name in set(os.environ) - set(kept):
        del os.environ[name]
    os.environ.setdefault(MARKER, uuid.uuid4().hex)
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT", "1")
    os.environ.setdefault("OMPI_ALLOW_RUN_AS_ROOT_CONFIRM", "1")
    # A busy machine is no reason to fail, and a failure found once must be found by everybody.
    settings.register_profile("trainkit", deadline=None, derandomize=bool(os.environ.get("CI")), print_blob=True)
    settings.load_profile("trainkit")


def _command_line(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except OSError:
        return ""


def _marked() -> dict[int, str]:
    """Living processes with this session's marker: pid to command line."""
    mark = f"{MARKER}={os.environ[MARKER]}".encode()
    found = {}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            marked = mark in (entry / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        command = _command_line(int(entry.name)) if marked else ""
        if command and "resource_tracker" not in command:  # Python's own, which ends with its parent
            found[int(entry.name)] = command
    return found


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail the session if a process that it started is left, and end that process."""
    if hasattr(session.config, "workerinput"):
        return
    deadline = time.monotonic() + GRACE_SECONDS
    left = _marked()
    while left and time.monotonic() < deadline:
        time.sleep(0.1)
        left = _marked()
    if left:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        session.config.stash[_LEFT] = left
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass


_LEFT = pytest.StashKey[dict[int, str]]()


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name the processes that were left behind."""
    left = config.stash.get(_LEFT, None)
    if left:
        terminalreporter.section("processes left behind by the tests", red=True, bold=True)
        for pid, command in sorted(left.items()):
            terminalreporter.line(f"{pid}: {command[:200]}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Where `CI` is set, an engine's test must not be skipped: the engines come with the installation."""
    outcome: Any = yield
    report = outcome.get_result()
    if (
        report.skipped
        and not hasattr(report, "wasxfail")
        and os.environ.get("CI")
        and item.get_closest_marker("engine")
    ):
        report.outcome = "failed"
        report.longrepr = f"{item.nodeid} needs an engine that this machine should have: {report.longrepr}"


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A new workspace of its own in `tmp_path`/workspace, which is also the current directory."""
    from trainkit import Workspace

    folder = tmp_path / "workspace"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return Workspace.create("tests", path=str(folder))


@pytest.fixture
def command_line(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs one command line in this process: code, output, error output."""
    from trainkit.cli import app

    def run(*words: str) -> tuple[int, str, str]:
        capsys.readouterr()
        code = app.main(list(words))
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


def _named_folder(variable: str, what: str) -> Path:
    folder = os.environ.get(variable, "")
    if not folder:
        pytest.skip(f"{variable} does not name a folder of {what}")
    return Path(folder)


@pytest.fixture
def photographs() -> Path:
    """The folder of real photographs that TRAINKIT_TEST_DATA names; skips where it names none."""
    return _named_folder("TRAINKIT_TEST_DATA", "photographs (hymenoptera/, birds/, pets/)")


@pytest.fixture
def documents() -> Path:
    """The folder of guides that TRAINKIT_TEST_DOCUMENTS names; skips where it names none."""
    return _named_folder("TRAINKIT_TEST_DOCUMENTS", "documents (000.md, 004.md)")
