"""Keeps a dockerd and a registry for the tests of this machine, as long as any test session holds them.

As a program (`python -I container_keeper.py FOLDER IMAGES`) it starts, in FOLDER, a registry that serves the images of
the folder IMAGES to anybody (its storage is read only), a dockerd that asks this registry first, and writes the
settings that podman needs here. Then FOLDER/ready.json says where they are. Test sessions hold a shared lock on
FOLDER/users; when the last has let go, however it ended, everything is ended and what tests brought into the engines
is removed. The images that tests share stay in the engines' stores from one session to the next. Only the standard
library is used.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

START_SECONDS = 60.0
PORT = 25081  # of the registry, where it is free: names of images that carry it stay the same between sessions
KEPT = ("localhost/trainkit-small:1", "python:3.11-slim", "fastdotai/fastai2:latest")

_REGISTRY = """
version: 0.1
log: {{level: warn, accesslog: {{disabled: true}}}}
storage:
  filesystem: {{rootdirectory: {storage}}}
  maintenance: {{readonly: {{enabled: true}}}}
http: {{addr: "{address}", secret: tests}}
"""
# A machine without systemd whose root may not raise limits: runc works with any kind of cgroups, limits are those that
# are allowed, and builds make no namespaces.
_CONTAINERS = """
[containers]
default_ulimits = ["nofile=1024:{files}", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
tmp_dir = "{run}/libpod"
image_copy_tmp_dir = "{folder}/tmp"
[network]
network_config_dir = "{folder}/networks"
"""
_STORAGE = """
[storage]
driver = "overlay"
graphroot = "{folder}/root"
rootless_storage_path = "{folder}/root"
runroot = "{run}/containers"
"""
_REGISTRIES = """
unqualified-search-registries = ["docker.io"]
short-name-mode = "permissive"
[[registry]]
prefix = "docker.io"
location = "{mirror}"
insecure = true
"""


def free_port(wanted: int = 0) -> int:
    """A port of loopback that nothing listens on: the wanted one, if it is free."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise RuntimeError("no port of loopback is free")


def listens(address: str) -> bool:
    """Whether a server answers at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=1):
            return True
    except OSError:
        return False


def podman_settings(folder: Path, run: Path, mirror: str) -> dict[str, str]:
    """Write podman's settings into a folder, which will also hold its images; the variables that name them.

    `run` is for what lives no longer than the machine is on; podman takes no path longer than 50 characters for it.
    """
    import resource

    for place in (folder / "root", folder / "networks", folder / "tmp", run):
        place.mkdir(parents=True, exist_ok=True)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    texts = {
        "containers.conf": _CONTAINERS.format(folder=folder, run=run, files=files),
        "storage.conf": _STORAGE.format(folder=folder, run=run),
        "registries.conf": _REGISTRIES.format(mirror=mirror),
    }
    for name, text in texts.items():
        (folder / name).write_text(text.lstrip())
    return {
        "CONTAINERS_CONF": str(folder / "containers.conf"),
        "CONTAINERS_STORAGE_CONF": str(folder / "storage.conf"),
        "CONTAINERS_REGISTRIES_CONF": str(folder / "registries.conf"),
        "BUILDAH_ISOLATION": "chroot",
    }


def _started(words: list[str], log: Path) -> subprocess.Popen[bytes]:
    """A service that ends with this process, however this process ends."""
    with log.open("wb") as out:
        return subprocess.Popen(
            ["setpriv", "--pdeathsig", "TERM", *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out, cwd="/"
        )


def _ended(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(timeout=20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _answers(words: list[str], process: subprocess.Popen[bytes], log: Path, variables: dict[str, str]) -> None:
    """Wait until a command succeeds; RuntimeError with the service's last words where it ended instead."""
    deadline = time.monotonic() + START_SECONDS
    while subprocess.run(words, capture_output=True, env={**os.environ, **variables}).returncode:
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"{process.args!r} did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


def _clear(program: str, variables: dict[str, str]) -> None:
    """Remove all containers of an engine, and all images but those that are kept."""

    def call(*words: str) -> list[str]:
        done = subprocess.run(
            [program, *words], capture_output=True, text=True, env={**os.environ, **variables}, timeout=120
        )
        return done.stdout.split()

    containers = call("ps", "-aq")
    if containers:
        call("rm", "-f", *(["--time", "0"] if program == "podman" else []), *containers)
    kept = set(call("image", "inspect", "--format", "{{.Id}}", *KEPT))
    names = call("images", "--format", "{{.Repository}}:{{.Tag}}")
    unwanted = [name for name in names if "<none>" not in name and not name.endswith(KEPT)]
    if unwanted:
        call("rmi", "-f", *unwanted)
    nameless = set(call("images", "-aq", "--no-trunc")) - kept - {f"sha256:{image}" for image in kept}
    if nameless:
        call("image", "prune", "-f")


def _groups(name: str) -> list[Path]:
    """The control groups of this name and those in them, the innermost first."""
    base = Path("/sys/fs/cgroup")
    tops = (*base.glob(name), *base.glob(f"*/{name}"))  # of either version
    found = (Path(path) for top in tops for path, _, _ in os.walk(top))
    return sorted(found, key=lambda path: -len(path.parts))


def _remove_groups(*names: str) -> None:
    """Remove the empty control groups that the engines leave."""
    for group in (group for name in names for group in _groups(name)):
        try:
            group.rmdir()
        except OSError:
            pass  # somebody else's, and in use


def _sweep(folder: Path, run: Path) -> None:
    """End what a keeper that was killed has left: nobody else wants it, else another one would be running."""
    if (run / "podman").exists():
        _clear("podman", podman_settings(folder / "podman", run / "podman", "127.0.0.1:1"))
    deadline = time.monotonic() + START_SECONDS
    while left := _left(folder, run):
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"processes {left} of engines that a session before has started do not end")
        time.sleep(0.02)
    shutil.rmtree(run, ignore_errors=True)


def _left(folder: Path, run: Path) -> list[int]:
    """Processes of the engines in these folders, and of dockerd's containers, but this one and its parents."""
    mine, pid = set(), os.getpid()
    while pid:
        mine.add(pid)
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    names = [str(place).encode() + b"/" for place in (folder, run)]
    pids = [int(name) for name in os.listdir("/proc") if name.isdigit()]
    inside = {int(pid) for group in _groups(run.name) for pid in (group / "cgroup.procs").read_text().split()}
    return [pid for pid in pids if pid not in mine and (pid in inside or any(name in _command(pid) for name in names))]


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""  # it has ended


def serve(folder: Path, images: Path) -> None:
    """Start all, say where it is, wait until nobody wants it any more, and end all."""
    users = os.open(folder / "users", os.O_RDWR | os.O_CREAT)
    run = Path("/run", f"trainkit-{hashlib.sha256(bytes(folder)).hexdigest()[:8]}")  # short, and always the same
    _sweep(folder, run)
    run.mkdir()
    (folder / "docker").mkdir(exist_ok=True)
    mirror, host = f"127.0.0.1:{free_port(PORT)}", f"unix://{run}/docker.sock"
    (folder / "mirror.yml").write_text(_REGISTRY.format(storage=images / "registry", address=mirror))
    podman, docker = podman_settings(folder / "podman", run / "podman", mirror), {"DOCKER_HOST": host}
    # What it mounts for containers is nobody else's, and goes with it.
    dockerd = ["unshare", "--mount", "--propagation", "slave", "dockerd"]
    dockerd += ["--data-root", str(folder / "docker"), "--exec-root", str(run / "docker"), "--host", host]
    dockerd += ["--pidfile", str(run / "docker.pid"), "--registry-mirror", f"http://{mirror}"]
    dockerd += ["--iptables=false", "--ip6tables=false", "--bridge=none", f"--cgroup-parent=/{run.name}"]
    logs = [folder / "mirror.log", folder / "docker.log"]
    services = [
        _started(["docker-registry", "serve", str(folder / "mirror.yml")], logs[0]),
        _started(dockerd, logs[1]),
    ]
    try:
        _answers(["docker", "info"], services[1], logs[1], docker)
        ready = folder / "ready.json.new"
        ready.write_text(json.dumps({"keeper": os.getpid(), "mirror": mirror, "docker": docker, "podman": podman}))
        ready.rename(folder / "ready.json")
        fcntl.flock(users, fcntl.LOCK_EX)  # given when the last user has let go
        for program, variables in (("docker", docker), ("podman", podman)):
            _clear(program, variables)
    finally:
        (folder / "ready.json").unlink(missing_ok=True)
        for service in reversed(services):
            _ended(service)
        subprocess.run(["umount", str(folder / "podman/root/overlay")], capture_output=True)
        for place in (run, folder / "podman/tmp"):  # a client that was killed leaves what it was fetching
            shutil.rmtree(place, ignore_errors=True)
        _remove_groups(run.name, "libpod_parent")


if __name__ == "__main__":
    try:
        serve(Path(sys.argv[1]), Path(sys.argv[2]))
    except Exception as error:
        (Path(sys.argv[1]) / "failed").write_text(str(error))
        raise
