"""The files of a testbed, written before its nodes start: who the nodes and users are, and the keys of ssh."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from tests.engines.nodes import PATH

USER_ID = 64999
_NAMES = "hosts: files\npasswd: files\ngroup: files\nshadow: files\n"
# What a user's shell does to PATH on many clusters: a command line without an absolute interpreter meets this one.
_BASHRC = 'PATH="$HOME/.other-python/bin:$PATH"\n'
_OTHER_PYTHON = '#!/bin/sh\necho "this is not the job\'s Python: $0 was found on PATH" >&2\nexit 97\n'


def write(bed: Path, nodes: int, user: str) -> None:
    """Write the files of a testbed of so many nodes into its folder."""
    number = int(bed.name.partition("-")[0])
    names = ["ctl", *(f"node{index}" for index in range(1, nodes + 1))]
    addresses = {name: f"10.77.{number}.{100 + index}" for index, name in enumerate(names)}
    shared = bed / "shared"
    shared.mkdir()
    shared.chmod(0o1777)
    (bed / "nodes").mkdir()
    (bed / "nodes" / "addresses").write_text("".join(f"{name} {addresses[name]}\n" for name in names))
    (bed / "keys").mkdir()
    keys = _keys(bed / "keys", ["user", *names[1:]])
    known = "".join(f"{name},{addresses[name]} {keys[name]}\n" for name in names[1:])
    hosts = "127.0.0.1 localhost\n" + "".join(f"{addresses[name]} {name}\n" for name in names)
    for name in names:
        _node(bed, name, addresses[name], hosts, user)
    for owner, owner_id in (("root", 0), (user, USER_ID)):
        _home(bed, owner, owner_id, keys["user"], known)


def _keys(folder: Path, names: list[str]) -> dict[str, str]:
    """Make key pairs side by side; return the public ones."""
    making = [
        subprocess.Popen(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(folder / name)])
        for name in names
    ]
    for process in making:
        if process.wait(timeout=20):
            raise RuntimeError("ssh-keygen made no key")
    return {name: " ".join((folder / f"{name}.pub").read_text().split()[:2]) for name in names}


def _node(bed: Path, name: str, address: str, hosts: str, user: str) -> None:
    folder = bed / "nodes" / name
    etc = folder / "etc"
    etc.mkdir(parents=True)
    files = {"hosts": hosts, "hostname": f"{name}\n", "resolv.conf": "", "nsswitch.conf": _NAMES}
    for file, text in {**files, **_accounts(bed, user)}.items():
        (etc / file).write_text(text)
        (etc / file).chmod(0o600 if file == "shadow" else 0o644)
    settings = [
        "Port 22", f"ListenAddress {address}", f"HostKey {bed}/keys/{name}", "PidFile none", "UsePAM no",
        "PermitRootLogin prohibit-password", "PasswordAuthentication no", "StrictModes no",
        f"AuthorizedKeysFile {bed}/keys/user.pub", "MaxStartups 100:30:200", f"SetEnv PATH={PATH}",
        "Subsystem sftp /usr/lib/openssh/sftp-server",
    ]  # fmt: skip
    (folder / "sshd_config").write_text("\n".join(settings) + "\n")


def _accounts(bed: Path, user: str) -> dict[str, str]:
    """The machine's accounts, with homes in the testbed for root and one more user."""
    lines = [line for line in Path("/etc/passwd").read_text().splitlines() if not line.startswith("root:")]
    root = f"root:x:0:0:root:{bed}/home/root:/bin/bash"
    other = f"{user}:x:{USER_ID}:{USER_ID}:{user}:{bed}/home/{user}:/bin/bash"
    shadow = "".join(f"{line.partition(':')[0]}:*:19000:0:99999:7:::\n" for line in [root, *lines, other])
    group = Path("/etc/group").read_text() + f"{user}:x:{USER_ID}:\n"
    return {"passwd": "\n".join([root, *lines, other]) + "\n", "group": group, "shadow": shadow}


def _home(bed: Path, owner: str, owner_id: int, public: str, known: str) -> None:
    home = bed / "home" / owner
    ssh = home / ".ssh"
    other = home / ".other-python" / "bin"
    ssh.mkdir(parents=True)
    other.mkdir(parents=True)
    shutil.copy(bed / "keys" / "user", ssh / "id_ed25519")
    (ssh / "id_ed25519.pub").write_text(public + "\n")
    (ssh / "authorized_keys").write_text(public + "\n")
    (ssh / "known_hosts").write_text(known)
    (home / ".bashrc").write_text(_BASHRC)
    for name in ("python", "python3"):
        (other / name).write_text(_OTHER_PYTHON)
        (other / name).chmod(0o755)
    for secret in (ssh / "id_ed25519", ssh / "authorized_keys"):
        secret.chmod(0o600)
    ssh.chmod(0o700)
    for folder, _, files in os.walk(home):
        os.chown(folder, owner_id, owner_id)
        for file in files:
            os.chown(os.path.join(folder, file), owner_id, owner_id)
