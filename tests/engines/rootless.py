"""A user who is not root, with a podman of its own: rootless, as on machines that users do not own.

The fixture `rootless` (of tests/conftest.py) gives one. Its commands run in a mount namespace where the machine's
accounts have one user more, with a range of ids for its containers, and where anybody may read root's home, which may
hold the Python of these tests:

    def test_it(rootless: Rootless) -> None:
        rootless.run("podman", "run", "--rm", "--userns=keep-id", rootless.small, "id")
        rootless.run(sys.executable, "-m", "trainkit.cli", "submit", "train.py", cwd=rootless.home)

All tests of the machine share the user: give containers and images names of their own, and use a folder of your own in
`rootless.home`. `rootless.small` is there already. When the last test session ends, every process of the user is killed
and what is in the home is removed; the image stays in the user's store, in trainkit's folder of caches.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from tests.engines import container_keeper
from tests.engines.containers import SMALL, images, missing, services_folder

USER_ID = 61000  # that no machine gives to anybody
_FIRST_ID, _IDS = 1 << 24, 65536  # of the users in its containers
END_SECONDS = 20.0

# $1 the folder, $2 the user's id, $3 the store; then the command. Single files of /etc are replaced, not all of it.
_ENTER = """
set -eu
folder=$1 id=$2 store=$3
shift 3
for name in passwd group shadow subuid subgid; do
    [ -e /etc/$name ] || { echo "/etc/$name is missing: install uidmap" >&2; exit 1; }
    mount --bind "$folder/etc/$name" /etc/$name
done
mount --bind "$store" "$folder/podman/root"
mount -t tmpfs -o mode=755 tmpfs "$folder/own"
mkdir "$folder/own/root" "$folder/own/work"
mount -t overlay -o "lowerdir=/root,upperdir=$folder/own/root,workdir=$folder/own/work" root /root
chmod 755 /root
cd "$PWD"
exec setpriv --reuid "$id" --regid "$id" --clear-groups -- "$@"
"""


class Rootless:
    """A user of this machine who has podman."""

    small = SMALL
    uid, name = USER_ID, "trainkit-user"
    folder = Path("/var/tmp/trainkit-user")  # podman wants it short, and always the same

    def __init__(self, store: Path) -> None:
        """The user; `store` is where its images stay. Nothing is made yet."""
        self.store = store
        self.home, self.runtime, self.temporary = (self.folder / name for name in ("home", "run", "tmp"))
        self.variables: dict[str, str] = {}

    def make(self) -> None:
        """Make the user's folder anew."""
        self.clear()
        self.store.mkdir(parents=True, exist_ok=True)
        for place in (self.folder, self.folder / "etc", self.folder / "own"):
            place.mkdir(mode=0o755)
        for place in (self.home, self.runtime, self.temporary, self.folder / "podman"):
            place.mkdir(mode=0o700)
        self._accounts()
        self.settings()
        podman = self.folder / "podman"
        for path in (self.store, self.home, self.runtime, self.temporary, podman, *podman.rglob("*")):
            os.chown(path, self.uid, self.uid)

    def settings(self) -> None:
        """Know the variables that name podman's settings, which are written."""
        variables = container_keeper.podman_settings(self.folder / "podman", self.runtime, "127.0.0.1:1")
        self.variables = {**variables, "XDG_RUNTIME_DIR": str(self.runtime), "TMPDIR": str(self.temporary)}

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
            (self.folder / "etc" / name).write_text(f"{self.name}:{_FIRST_ID}:{_IDS}\n")
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
        return [*enter, str(self.folder), str(self.uid), str(self.store), *argv]

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
        found = []
        for entry in Path("/proc").iterdir():
            try:
                owner = entry.stat().st_uid if entry.name.isdigit() else 0
            except OSError:
                continue  # it has ended
            if owner == self.uid or owner - _FIRST_ID in range(_IDS):
                found.append(int(entry.name))
        return found

    def clear(self) -> None:
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
        shutil.rmtree(self.folder, ignore_errors=True)

    def end(self) -> None:
        """Remove what tests brought into the user's store, then all but the store."""
        self.run("podman", "rm", "--all", "--force", code=None)
        names = self.run("podman", "images", "--format", "{{.Repository}}:{{.Tag}}", code=None).stdout.split()
        unwanted = [name for name in names if name != SMALL and "<none>" not in name]
        if unwanted:
            self.run("podman", "rmi", "--force", *unwanted, code=None)
        self.clear()


@pytest.fixture(scope="session")
def rootless() -> Iterator[Rootless]:
    """A user who is not root and has podman, with the image `small`."""
    reason = missing()
    if reason:
        pytest.skip(reason)
    folder = services_folder()
    user = Rootless(folder / "rootless")
    users = os.open(folder / "rootless.users", os.O_RDWR | os.O_CREAT)
    starting = os.open(folder / "rootless.starting", os.O_RDWR | os.O_CREAT)
    try:
        fcntl.flock(starting, fcntl.LOCK_EX)
        first = _alone(users)
        if first:
            user.make()
        else:
            user.settings()
        fcntl.flock(users, fcntl.LOCK_SH)
        if first and user.run("podman", "image", "exists", SMALL, code=None).returncode:
            with (images() / "small.tar").open("rb") as archive:
                subprocess.run(
                    user.command(["podman", "load", "--quiet"]), stdin=archive, check=True, env=user.environment,
                    cwd=user.home, capture_output=True, timeout=120,
                )  # fmt: skip
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield user
        fcntl.flock(starting, fcntl.LOCK_EX)
        if _alone(users):
            user.end()
    finally:
        os.close(users)
        os.close(starting)


def _alone(users: int) -> bool:
    """Whether no other test process holds this lock; if so this one does, exclusively."""
    try:
        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
