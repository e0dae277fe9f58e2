"""A user who is not root, with a podman of its own: rootless, as on machines that users do not own.

The fixture `rootless` (of tests/conftest.py) gives one. Its commands run in a mount namespace where the machine's
accounts have one user more, with a range of ids for its containers, and where anybody may read root's home, which may
hold the Python of these tests:

    def test_it(rootless: Rootless) -> None:
        rootless.run("podman", "run", "--rm", "--userns=keep-id", rootless.small, "id")
        rootless.run(sys.executable, "-m", "trainkit.cli", "submit", "train.py", cwd=rootless.home)

`rootless.small` is there already. At the end every process of the user is killed and its folder is removed.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.engines import container_keeper
from tests.engines.containers import SMALL, images, missing

_FIRST_ID = 61000  # ids of users that no machine gives to anybody
_IDS = 65536
END_SECONDS = 20.0

# $1 the folder, $2 the user's id; then the command. Single files of /etc are replaced: the rest stays the machine's.
_ENTER = """
set -eu
folder=$1 id=$2
shift 2
for name in passwd group shadow subuid subgid; do
    [ -e /etc/$name ] || { echo "/etc/$name is missing: install uidmap" >&2; exit 1; }
    mount --bind "$folder/etc/$name" /etc/$name
done
mount -t tmpfs -o mode=755 tmpfs "$folder/own"
mkdir "$folder/own/root" "$folder/own/work"
mount -t overlay -o "lowerdir=/root,upperdir=$folder/own/root,workdir=$folder/own/work" root /root
chmod 755 /root
cd "$PWD"
exec setpriv --reuid "$id" --regid "$id" --clear-groups -- "$@"
"""


class Rootless:
    """A user of this machine for one test session."""

    small = SMALL

    def __init__(self) -> None:
        """Make the user's folder; nothing runs yet."""
        self.folder = Path(tempfile.mkdtemp(prefix="trainkit-", dir="/var/tmp"))  # podman wants it short
        self.folder.chmod(0o755)
        self.uid = _FIRST_ID + os.getpid() % 3000
        self.name = f"user{self.uid}"
        self.home, self.runtime = self.folder / "home", self.folder / "run"
        for place in (self.home, self.runtime, self.folder / "podman"):
            place.mkdir(mode=0o700)
        for place in ("etc", "own"):
            (self.folder / place).mkdir()
        self._accounts()
        variables = container_keeper.podman_settings(self.folder / "podman", self.runtime, "127.0.0.1:1")
        for path in (self.home, self.runtime, *[self.folder / "podman", *(self.folder / "podman").rglob("*")]):
            os.chown(path, self.uid, self.uid)
        self.variables = {**variables, "XDG_RUNTIME_DIR": str(self.runtime)}

    def _accounts(self) -> None:
        own = {
            "passwd": f"{self.name}:x:{self.uid}:{self.uid}::{self.home}:/bin/bash\n",
            "group": f"{self.name}:x:{self.uid}:\n",
            "shadow": f"{self.name}:*:19000:0:99999:7:::\n",
        }
        for name, line in own.items():
            text = Path("/etc", name).read_text()
            (self.folder / "etc" / name).write_text(text + ("" if text.endswith("\n") else "\n") + line)
        for name in ("subuid", "subgid"):
            (self.folder / "etc" / name).write_text(f"{self.name}:{1 << 24}:{_IDS}\n")
        (self.folder / "etc" / "shadow").chmod(0o600)

    @property
    def environment(self) -> dict[str, str]:
        """What the user's commands get."""
        login = {"HOME": str(self.home), "USER": self.name, "LOGNAME": self.name}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "TMP", "DOCKER_"))}
        return {**kept, **login, **self.variables}

    def command(self, argv: Sequence[str]) -> list[str]:
        """The command line, for root, that runs `argv` as the user."""
        enter = ["unshare", "--mount", "--propagation", "private", "bash", "-c", _ENTER, "user"]
        return [*enter, str(self.folder), str(self.uid), *argv]

    def run(
        self,
        *argv: str,
        code: int | None = 0,
        cwd: Path | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 120,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as the user; asserts its exit code, unless that is None."""
        done = subprocess.run(
            self.command(argv),
            stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=timeout, cwd=cwd or self.home,
            env={**self.environment, **(env or {})},
        )  # fmt: skip
        assert code is None or done.returncode == code, f"{argv}: {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    def processes(self) -> list[int]:
        """The user's processes, and those of its containers."""
        first = 1 << 24
        found = []
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and (
                    entry.stat().st_uid == self.uid or entry.stat().st_uid - first in range(_IDS)
                ):
                    found.append(int(entry.name))
            except OSError:
                pass  # it has ended
        return found

    def end(self) -> None:
        """Kill what is left of the user's processes and remove its folder."""
        deadline = time.monotonic() + END_SECONDS
        while left := self.processes():
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
            if time.monotonic() > deadline:
                raise TimeoutError(f"processes {left} of {self.name} do not end")
            time.sleep(0.01)
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def rootless() -> Iterator[Rootless]:
    """A user who is not root and has podman, with the image `small`."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    user = Rootless()
    try:
        with (images() / "small.tar").open("rb") as archive:
            subprocess.run(
                user.command(["podman", "load", "--quiet"]), stdin=archive, check=True, env=user.environment,
                cwd=user.home, capture_output=True, timeout=120,
            )  # fmt: skip
        yield user
    finally:
        user.end()
