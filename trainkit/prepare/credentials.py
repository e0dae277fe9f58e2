"""A private registry's password on its way to the engine: never in a file, a word of a command, a variable or a log.

It lies in memory that has no name (memfd), which the engine's client inherits: podman reads it as its list of logins
from standard input, docker through a credential helper of two lines that prints it. Writes a private temporary folder
without the password, which goes when the pull has ended.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from trainkit.errors import EnvironmentBuildError
from trainkit.imagespec import RegistrySpec
from trainkit.prepare.imagenames import DEFAULT_DOMAIN, ImageName, host_of
from trainkit.prepare.installer import Surroundings

__all__ = ["Access", "Login", "access", "login_for"]

HELPER = "trainkit"  # docker looks for the program docker-credential-trainkit
_DOCKER_HUB = "https://index.docker.io/v1/"  # what docker's client calls its own registry
_KEPT = ("currentContext", "proxies", "HttpHeaders", "cliPluginsExtraDirs")  # of the user's own settings of docker
_KEYRING_SECONDS = 60.0


@dataclass(frozen=True)
class Login:
    """A user of one registry."""

    address: str  # host and port, without a folder
    username: str
    password: str = field(repr=False)
    variable: str = ""  # of the environment, that the password came from: it goes no further


@dataclass(frozen=True)
class Access:
    """How the engine's client is called so that it has the password: words after its name, and what it is given."""

    words: tuple[str, ...] = ()
    given: Surroundings = Surroundings()


def login_for(registry: RegistrySpec | None, password: str) -> Login | None:
    """Who to be for the registry; None where nobody was named. Raises EnvironmentBuildError that says what to do."""
    if registry is None or not registry.username:
        return None
    address = host_of(registry.address)
    if password:
        return Login(address, registry.username, password)
    kind, _, name = registry.reference.partition(":")
    if kind == "env":
        if not os.environ.get(name):
            raise EnvironmentBuildError(
                f"The password for {registry.username} at {address} is to come from the environment variable {name}, "
                "which is not set where the job was submitted: set it there, and submit again."
            )
        return Login(address, registry.username, os.environ[name], name)
    if kind == "keyring":
        return Login(address, registry.username, _from_keyring(name, registry.username, address))
    raise EnvironmentBuildError(
        f"The password for {registry.username} at {address} was given by value, which lives in memory only, and the "
        "process that had it is gone. Submit the job again; a password by reference ('env:NAME' or 'keyring:SERVICE') "
        "outlives restarts."
    )


@contextmanager
def access(engine: str, name: ImageName, login: Login | None) -> Iterator[Access]:
    """The way to the registry of the image `name`: with the login where it is of that registry, else as the user's own.

    Raises EnvironmentBuildError for an engine that takes no password without a file.
    """
    if login is None or login.address != name.domain:
        yield Access()
        return
    variables = {key: value for key, value in os.environ.items() if key != login.variable}
    if engine == "podman":
        with _memory(_logins(login)) as memory:
            yield Access(("--authfile", "/proc/self/fd/0"), Surroundings(variables, memory))
    elif engine == "docker":
        with _memory(_answer(login)) as memory, _docker_folder(login, memory) as folder:
            variables["PATH"] = f"{folder}{os.pathsep}{variables.get('PATH', os.defpath)}"
            variables["DOCKER_CONFIG"] = str(folder)
            yield Access((), Surroundings(variables, subprocess.DEVNULL, (memory,)))
    else:
        raise EnvironmentBuildError(
            f"trainkit cannot give {engine} a password without writing it down: log in with {engine} itself, and leave "
            "user name and password out."
        )


@contextmanager
def _memory(text: str) -> Iterator[int]:
    """A descriptor of memory that holds `text`, for children that are given it."""
    memory = os.memfd_create("trainkit", os.MFD_CLOEXEC)
    try:
        os.write(memory, text.encode())
        os.lseek(memory, 0, os.SEEK_SET)
        yield memory
    finally:
        os.close(memory)


def _logins(login: Login) -> str:
    """podman's list of logins."""
    secret = base64.b64encode(f"{login.username}:{login.password}".encode()).decode("ascii")
    return json.dumps({"auths": {login.address: {"auth": secret}}})


def _answer(login: Login) -> str:
    """What docker expects of a credential helper."""
    return json.dumps({"ServerURL": login.address, "Username": login.username, "Secret": login.password})


@contextmanager
def _docker_folder(login: Login, memory: int) -> Iterator[Path]:
    """Settings for docker's client that ask a helper for the registry's password; the user's contexts stay known."""
    folder = Path(tempfile.mkdtemp(prefix="trainkit-docker-"))
    try:
        own = _own_docker_folder()
        settings: dict[str, object] = {}
        with suppress(OSError, ValueError):
            theirs = json.loads((own / "config.json").read_text(encoding="utf-8"))
            settings = {key: theirs[key] for key in _KEPT if key in theirs}
        for name in ("contexts", "cli-plugins"):
            if (own / name).is_dir():
                (folder / name).symlink_to(own / name)
        known_as = _DOCKER_HUB if login.address == DEFAULT_DOMAIN else login.address
        settings["credHelpers"] = {known_as: HELPER}
        (folder / "config.json").write_text(json.dumps(settings), encoding="utf-8")
        helper = folder / f"docker-credential-{HELPER}"
        helper.write_text(f'#!/bin/sh\n[ "$1" = get ] && exec cat /proc/self/fd/{memory}\n', encoding="utf-8")
        helper.chmod(0o700)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _own_docker_folder() -> Path:
    """Where the user's own settings of docker's client are."""
    return Path(os.environ.get("DOCKER_CONFIG") or Path.home() / ".docker")


def _from_keyring(service: str, username: str, address: str) -> str:
    """The password in the system's keyring: asked of the package keyring, else of secret-tool."""
    found: str | None = None
    problem = "it holds none"
    try:
        import keyring  # type: ignore[import-not-found,unused-ignore]

        found = keyring.get_password(service, username)
    except ImportError:
        found, problem = _from_secret_tool(service, username)
    except Exception as error:
        problem = f"{type(error).__name__}: {error}"
    if found:
        return found
    raise EnvironmentBuildError(
        f"The password for {username} at {address} is to come from the keyring's service {service!r}: {problem}. Put "
        f"it there with 'keyring set {service} {username}', or give it by reference to a variable, 'env:NAME'."
    )


def _from_secret_tool(service: str, username: str) -> tuple[str | None, str]:
    """The password and, where there is none, why."""
    program = shutil.which("secret-tool")
    if program is None:
        return None, "neither the Python package keyring nor secret-tool is installed here"
    argv = [program, "lookup", "service", service, "username", username]
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_KEYRING_SECONDS)
    except (OSError, subprocess.TimeoutExpired) as error:
        return None, f"secret-tool failed ({type(error).__name__})"
    return done.stdout.rstrip("\n") or None, "it holds none"
