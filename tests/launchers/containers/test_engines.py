"""The laws of container engines, on real ones: what `run` promises holds inside, and nothing stays after its end."""

from __future__ import annotations

import json
import os
import subprocess
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.engines.containers import SMALL
from trainkit.boot.plugins import engine
from trainkit.job import Container, Inside
from trainkit.prepare.engines import ImageEngine, image_engine

pytestmark = pytest.mark.engine
DEADLINE_SECONDS = 120.0
TELL = """
import json, os, socket, sys
os.kill(os.getpid(), 0)
open("made", "w").close()
facts = {
    "pid": os.getpid(), "uid": os.getuid(), "gid": os.getgid(), "cwd": os.getcwd(), "words": sys.argv[1:],
    "home": os.environ["HOME"], "secret": os.environ.get("TELL_SECRET"), "others": os.environ.get("TELL_OTHERS"),
    "host": socket.gethostname(), "shm": os.statvfs("/dev/shm").f_blocks * os.statvfs("/dev/shm").f_frsize,
    "network": os.readlink("/proc/self/ns/net"), "said": sys.stdin.read(),
}
print(json.dumps(facts))
sys.exit(7)
"""


@dataclass(frozen=True)
class Place:
    """An engine, who runs it, and a folder of that user's."""

    engine: ImageEngine
    uid: int
    folder: Path
    call: Callable[..., subprocess.CompletedProcess[str]]

    def container(self, **changes: Any) -> Container:
        values: dict[str, Any] = {"mounts": (str(self.folder),), "shm_size": "48m", **changes}
        return Container(self.engine.program, SMALL, "small", "/usr/bin/python3", **values)

    def inside(self, *argv: str) -> Inside:
        return Inside(
            name=f"trainkit-laws-{uuid.uuid4().hex[:12]}",
            argv=("/usr/bin/python3", *argv),
            directory=str(self.folder),
            home=str(self.folder / "home"),
            uid=self.uid,
            gid=self.uid,
            variables=("TELL_SECRET",),
            labels={"trainkit.run": "laws", "trainkit.attempt": "1"},
        )


@pytest.fixture(params=["docker", "podman", "rootless"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """Each engine that trainkit runs, and podman as a user who is not root."""
    name = str(request.param)
    if name == "rootless":
        user = request.getfixturevalue("rootless")
        folder = Path(user.home) / f"laws, {uuid.uuid4().hex[:8]}"

        def as_user(argv: list[str], stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
            return subprocess.run(
                user.command(argv), input=stdin, capture_output=True, text=True, timeout=DEADLINE_SECONDS,
                cwd=user.home, env={**user.environment, **variables},
            )  # fmt: skip

        assert as_user(["mkdir", "-p", f"{folder}/home"]).returncode == 0
        return Place(image_engine("podman"), user.uid, folder, as_user)

    request.getfixturevalue(name)
    folder = tmp_path / 'a "b", c'
    (folder / "home").mkdir(parents=True)
    folder.chmod(0o777)

    def as_root(argv: list[str], stdin: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            argv, input=stdin, capture_output=True, text=True, timeout=DEADLINE_SECONDS, env={**os.environ, **variables}
        )

    # docker's containers need not be root's: with the ids of somebody else they own what that one would
    return Place(image_engine(name), 1234 if name == "docker" else 0, folder, as_root)


def test_what_runs_inside_is_who_and_where_it_would_be_outside(place: Place) -> None:
    inside = place.inside("-c", TELL, "a b", "$HOME", "--rm")
    argv = place.engine.run(place.container(), inside)
    done = place.call(argv, "hello", TELL_SECRET="the value", TELL_OTHERS="not named")
    assert done.returncode == 7, done.stderr
    facts = json.loads(done.stdout)
    assert facts["pid"] == 1
    assert (facts["uid"], facts["gid"], facts["cwd"]) == (place.uid, place.uid, inside.directory)
    assert (facts["home"], facts["words"]) == (inside.home, ["a b", "$HOME", "--rm"])
    assert (facts["secret"], facts["others"], facts["said"]) == ("the value", None, "hello")
    assert (facts["host"], facts["network"]) == (os.uname().nodename, os.readlink("/proc/self/ns/net"))
    assert facts["shm"] == 48 << 20
    assert (place.folder / "made").stat().st_uid == place.uid
    assert "the value" not in " ".join(argv)
    assert place.call([place.engine.program, "container", "inspect", inside.name]).returncode != 0


def test_a_container_is_entered_by_its_name_removed_by_it_and_no_other_is_pulled(place: Place) -> None:
    inside = place.inside("-c", "import sys; open('there', 'w').close(); sys.stdin.read()")
    argv = place.engine.run(place.container(arguments=("--env", "MINE=1")), inside)
    script = (
        "import os, pathlib, subprocess, sys, time\n"
        "run, enter, remove = (eval(words) for words in sys.argv[1:4])\n"
        "held = subprocess.Popen(run, stdin=subprocess.PIPE)\n"
        "deadline = time.monotonic() + 60\n"
        "while not os.path.exists(sys.argv[4]) and time.monotonic() < deadline: time.sleep(0.02)\n"
        "print(subprocess.run(enter, capture_output=True, text=True, stdin=subprocess.DEVNULL).stdout, end='')\n"
        "print(subprocess.run(remove, capture_output=True).returncode, held.wait(60) != 0)\n"
    )
    tell = ["/usr/bin/python3", "-c", "import os; print(os.getuid(), os.environ['MINE'])"]
    words = (argv, place.engine.enter(inside.name, tell, False), place.engine.remove(inside.name))
    done = place.call(["/usr/bin/python3", "-c", script, *map(repr, words), str(place.folder / "there")])
    assert done.stdout.splitlines() == [f"{place.uid} 1", "0 True"], done.stderr
    assert place.call([place.engine.program, "container", "inspect", inside.name]).returncode != 0
    place.call(place.engine.remove(inside.name))  # too late, and harmless
    absent = place.container()
    argv = place.engine.run(absent, inside)
    argv[argv.index(SMALL)] = "localhost/trainkit-nowhere:1"
    assert place.call(argv).returncode != 0


def test_an_image_goes_through_a_file_and_keeps_its_id(place: Place) -> None:
    here = place.call(place.engine.inspect(SMALL))
    assert here.returncode == 0, here.stderr
    image = json.loads(here.stdout)[0]["Id"]
    archive = str(place.folder / "image.tar")
    saved = place.call(place.engine.save(image, archive))
    assert saved.returncode == 0, saved.stderr
    loaded = place.call(place.engine.load(archive))
    assert loaded.returncode == 0 and image.removeprefix("sha256:") in loaded.stdout + loaded.stderr
    assert place.call(place.engine.inspect(f"localhost/trainkit-{uuid.uuid4().hex}:1")).returncode != 0


def test_gpus_are_shown_where_a_job_has_them() -> None:
    container, inside = Container("", "image", "image", "python3"), Inside("n", ("python3",), "/", "/", 5, 6, gpus=2)
    assert "--gpus all" in " ".join(engine("docker").run(container, inside))
    assert "--device nvidia.com/gpu=all --entrypoint python3 image" in " ".join(engine("podman").run(container, inside))
    assert "--nv image python3" in " ".join(engine("apptainer").run(container, inside))
