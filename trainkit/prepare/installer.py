"""The one place that runs an installer (uv, micromamba or conda): lists of words, its output into the log."""

from __future__ import annotations

import functools
import os
import select
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from trainkit.boot.rundir import make_private
from trainkit.ending import kill_with_all_below
from trainkit.errors import EnvironmentBuildError, MissingPackage

POLL_SECONDS = 0.2
ASK_SECONDS = 120.0
CONDAS = ("micromamba", "mamba", "conda")


@dataclass(frozen=True)
class Surroundings:
    """What a program is given beside its words: variables (None: this process's own), standard input, descriptors."""

    variables: Mapping[str, str] | None = None
    stdin: int = subprocess.DEVNULL
    descriptors: tuple[int, ...] = ()


@dataclass(frozen=True)
class Result:
    """How an installer ended, and what it printed."""

    code: int
    output: str


class Installer:
    """Runs installers for one build; what they print goes to `log`, which only the user can read.

    Each inherits `lock`, the build's: where the process that builds is killed, the lock stays held until what it had
    started has ended too, so that no two ever write to one environment. `cancelled` is asked while one runs.
    """

    def __init__(self, log: Path, cancelled: Callable[[], bool] | None = None) -> None:
        make_private(log.parent)
        self.path = log
        self.lock: int | None = None
        self.cancelled = cancelled or (lambda: False)
        self._log = os.fdopen(os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), "ab")

    def __enter__(self) -> Installer:
        return self

    def __exit__(self, *_: object) -> None:
        self._log.close()

    def say(self, text: str) -> None:
        """One line into the log."""
        self._log.write(text.encode("utf-8", "replace") + b"\n")
        self._log.flush()

    def check_cancelled(self) -> None:
        """Raises EnvironmentBuildError where nobody wants the environment any more."""
        if self.cancelled():
            raise EnvironmentBuildError("Building the environment was cancelled.")

    def run(
        self, argv: Sequence[str], cwd: Path, given: Surroundings = Surroundings(), stop_seconds: float = 0.0
    ) -> Result:
        """Run to the end. Raises EnvironmentBuildError where it cannot be started, or is no longer wanted.

        A program that is no longer wanted is asked to end, and killed once `stop_seconds` have passed.
        """
        start = os.fstat(self._log.fileno()).st_size
        locks = () if self.lock is None else (self.lock,)
        try:
            process = subprocess.Popen(
                argv, stdin=given.stdin, stdout=self._log, stderr=self._log, cwd=cwd, env=given.variables,
                pass_fds=(*locks, *given.descriptors),
            )  # fmt: skip
        except OSError as e:
            raise EnvironmentBuildError(f"{argv[0]} cannot be run: {e}.") from e
        try:
            return Result(self._wait(process), self._since(start))
        finally:
            if process.poll() is None and stop_seconds:
                process.terminate()
                with suppress(subprocess.TimeoutExpired):
                    process.wait(stop_seconds)
            if process.poll() is None:
                kill_with_all_below(process.pid)  # uv, killed, leaves the build of a package running
                process.wait()

    def ask(self, argv: Sequence[str], cwd: Path) -> Result:
        """Run a short question, whose answer is nothing that the log's readers wait for."""
        self.check_cancelled()
        try:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, capture_output=True, cwd=cwd, timeout=ASK_SECONDS, encoding="utf-8",
                errors="replace",
            )  # fmt: skip
        except (OSError, subprocess.TimeoutExpired) as e:
            return Result(1, str(e))
        return Result(done.returncode, done.stdout + done.stderr)

    def _wait(self, process: subprocess.Popen[bytes]) -> int:
        """Its exit code, at once when it ends where the kernel tells of that."""
        poll, ended = select.poll(), -1
        with suppress(OSError):  # an old kernel
            ended = os.pidfd_open(process.pid)
            poll.register(ended, select.POLLIN)
        try:
            while True:
                if ended >= 0 and not poll.poll(POLL_SECONDS * 1000):
                    self.check_cancelled()
                    continue
                with suppress(subprocess.TimeoutExpired):
                    return process.wait(POLL_SECONDS)
                self.check_cancelled()
        finally:
            if ended >= 0:
                os.close(ended)

    def _since(self, start: int) -> str:
        with open(self.path, "rb") as file:
            file.seek(start)
            return file.read().decode("utf-8", "replace")


@functools.cache
def uv() -> str:
    """The uv program: that of the `uv` package, else the one on the path. Raises MissingPackage."""
    try:
        from uv import find_uv_bin

        return str(find_uv_bin())
    except (ImportError, FileNotFoundError):
        found = shutil.which("uv")
    if found is None:
        raise MissingPackage("Packages of a job are installed with uv, which is missing here: run 'pip install uv'.")
    return found


def conda() -> str | None:
    """The first of micromamba, mamba and conda on the path, or None."""
    return next((path for path in map(shutil.which, CONDAS) if path), None)
