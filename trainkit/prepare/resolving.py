"""From an image's name to the one image that it means now: by id, which never moves.

A name without a digest may mean another image tomorrow: where the local image came from a registry, the registry is
asked again, each time.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from trainkit.errors import EnvironmentBuildError
from trainkit.imagespec import RegistrySpec
from trainkit.prepare.credentials import Login, access, login_for
from trainkit.prepare.engines import ASK_SECONDS, ImageEngine, ask
from trainkit.prepare.imagenames import LOCAL_DOMAIN, ImageName, host_of, parse
from trainkit.prepare.installer import POLL_SECONDS, Installer, Result
from trainkit.sentences import last_line

SILENCE_SECONDS = 8.0  # of a registry, where the image is here anyway
_SILENT = 124

_UNREACHABLE = re.compile(
    r"no such host|connection refused|i/o timeout|network is unreachable|no route to host|TLS handshake timeout|"
    r"Client\.Timeout|connection reset|server misbehaving|request canceled|deadline exceeded|did not answer|EOF|"
    r"certificate|server gave HTTP response|toomanyrequests|received unexpected HTTP status: 5|503 Service|502 Bad",
    re.IGNORECASE,
)
_ACCESS = re.compile(
    r"unauthorized|authentication required|denied|incorrect username|no basic auth|invalid username|\b40[13]\b|"
    r"forbidden",
    re.IGNORECASE,
)
_UNKNOWN = re.compile(
    r"manifest unknown|not found|does not exist|name unknown|no such image|no such object|image not known|\b404\b",
    re.IGNORECASE,
)
_ANSWERED = re.compile(r"Pulling from|Getting image source|Copying blob|Copying config")  # the registry has
_UNCHANGED = "Image is up to date"  # docker's words; podman prints the id
_PREFIX = re.compile(r"^(?:Error response from daemon: |Error: |initializing source docker://\S+: )+")


@dataclass(frozen=True)
class Image:
    """An image that is here. `digest` is its registry's name@sha256:..., empty for one made here."""

    name: str  # as the user wrote it
    id: str
    digest: str
    words: str  # how it was found, for the log

    @property
    def short(self) -> str:
        """The id as people know it."""
        return self.id.removeprefix("sha256:")[:12]


@dataclass(frozen=True)
class Source:
    """Where images come from, for one build: the engine, the registry that was named, and who to be there."""

    engine: ImageEngine
    kind: str  # of engine: "docker", "podman"
    registry: RegistrySpec | None
    password: str = field(repr=False)
    installer: Installer = field(repr=False)

    def fetch(self, name: ImageName) -> Result:
        """Have the engine fetch an image; what it prints goes into the log. Raises EnvironmentBuildError."""
        with access(self.kind, name, self._login(name)) as way:
            return self.installer.run(self.engine.pull(name.full, way.words), Path("/"), way.given)

    def ask(self, name: ImageName) -> Result:
        """Have the engine ask the registry for an image that is here, and fetch the one that has its name now.

        A registry that says nothing for a while is as good as gone: the image is here. Raises EnvironmentBuildError.
        """
        with access(self.kind, name, self._login(name)) as way, tempfile.TemporaryFile() as output:
            process = subprocess.Popen(
                self.engine.pull(name.full, way.words), stdin=way.given.stdin, stdout=output, stderr=output, cwd="/",
                env=way.given.variables, pass_fds=way.given.descriptors,
            )  # fmt: skip
            try:
                code = self._answered(process, output)
            finally:
                if process.poll() is None:
                    process.kill()
                    process.wait()
            said = _read(output)
            return Result(
                code, said if code != _SILENT else f"{said}\nit did not answer within {SILENCE_SECONDS:.0f} s"
            )

    def _login(self, name: ImageName) -> Login | None:
        ours = self.registry is not None and host_of(self.registry.address) == name.domain
        return login_for(self.registry, self.password) if ours else None

    def _answered(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> int:
        """The exit code, or that of a registry which says nothing."""
        deadline = time.monotonic() + SILENCE_SECONDS
        while True:
            try:
                return process.wait(POLL_SECONDS)
            except subprocess.TimeoutExpired:
                self.installer.check_cancelled()
                if time.monotonic() > deadline and not _ANSWERED.search(_read(output)):
                    return _SILENT


def _read(output: IO[bytes]) -> str:
    return os.pread(output.fileno(), 1 << 20, 0).decode("utf-8", "replace")


def resolve(name: str, source: Source, within: str = "") -> Image:
    """The image that `name` means now, fetched where it is not here; without a registry it is in `within`.

    Raises EnvironmentBuildError with a verdict.
    """
    engine = source.engine
    wanted = parse(name, within)
    here = facts(engine, wanted.full)
    if here is None and not wanted.is_fixed and not within and engine.program == "podman":
        made_here = wanted.in_local_store()  # `podman build -t NAME` names it so
        here = facts(engine, made_here.full)
        wanted = made_here if here is not None else wanted
    if here is not None and (wanted.is_fixed or wanted.domain == LOCAL_DOMAIN or not here.get("RepoDigests")):
        return _image(name, wanted, here, "is here")
    if here is None and (not wanted.domain or wanted.domain == LOCAL_DOMAIN):
        raise EnvironmentBuildError(
            f"There is no image {name} on this machine, and its name says that it is in no registry. Check it with "
            f"'{engine.program} image ls'."
        )
    return _asked(name, wanted, here, source)


def _asked(name: str, wanted: ImageName, here: dict[str, Any] | None, source: Source) -> Image:
    """The image after its registry was asked; the local one where the registry cannot be reached."""
    engine, registry = source.engine, source.registry
    answer = source.fetch(wanted) if here is None else source.ask(wanted)
    if answer.code == 0:
        unchanged = here is not None and (here["Id"] in answer.output.split() or _UNCHANGED in answer.output)
        if here is not None and unchanged:
            return _image(name, wanted, here, "is unchanged in its registry")
        there = facts(engine, wanted.full)
        if there is None:
            raise EnvironmentBuildError(f"{engine.program} fetched {name}, but has it no longer: submit again.")
        if here is None:
            return _image(name, wanted, there, "was fetched")
        if here["Id"] == there["Id"]:
            return _image(name, wanted, there, "is unchanged in its registry")
        return _image(name, wanted, there, f"has moved in its registry, from {_short(here)}; the new one was fetched")
    said = answer.output
    refused = _ACCESS.search(said) and registry is not None and registry.username and not _unreachable(said)
    if here is not None and not refused:
        why = "cannot be reached" if _unreachable(said) else "did not give it"
        return _image(name, wanted, here, f"is as it was fetched before: {wanted.domain} {why} now ({_last(said)})")
    raise EnvironmentBuildError(verdict(name, wanted, registry, said), said)


def facts(engine: ImageEngine, name: str) -> dict[str, Any] | None:
    """What the engine knows of a local image; None where it is not here. Raises EnvironmentBuildError."""
    answer = ask(engine.inspect(name), ASK_SECONDS)
    if answer.code == 0:
        found = json.loads(answer.output)
        return dict(found[0]) if found else None
    if answer.code in (124, 127) or not _UNKNOWN.search(answer.error):
        raise EnvironmentBuildError(
            f"{engine.program} does not answer ({answer.words.rstrip('.')}). Start it, or see that you may use it.",
            answer.error,
        )
    return None


def verdict(name: str, wanted: ImageName, registry: RegistrySpec | None, said: str) -> str:
    """Why an image could not be had, in one sentence, and what to do."""
    if _unreachable(said):
        return (
            f"The registry {wanted.domain} of the image {name} cannot be reached ({_last(said)}), and the image is not "
            "here. Check the address and the network, and submit again."
        )
    theirs = registry is not None and bool(registry.username) and host_of(registry.address) == wanted.domain
    if _ACCESS.search(said) and theirs:
        assert registry is not None
        return (
            f"The registry {wanted.domain} refuses the image {name} to the user {registry.username!r}: the password "
            "is wrong, or this user may not read it."
        )
    if _ACCESS.search(said):
        return (
            f"The registry {wanted.domain} has no image {name} for everybody: check the name, or give user name and "
            "password in docker.base_image_registry."
        )
    if _UNKNOWN.search(said):
        return f"The registry {wanted.domain} has no image {name}: check the name and its tag."
    return f"The image {name} could not be fetched from {wanted.domain}: {_last(said)}."


def _last(said: str) -> str:
    """The last line that says something, without what begins each of an engine's errors."""
    return _PREFIX.sub("", last_line(said) or "nothing was said").rstrip(".")


def _unreachable(said: str) -> bool:
    return _UNREACHABLE.search(said) is not None


def _image(name: str, wanted: ImageName, found: dict[str, Any], words: str) -> Image:
    digests = found.get("RepoDigests") or []
    ours = [d for d in digests if d.partition("@")[0] in (wanted.repository, _familiar(wanted))]
    digest = "" if wanted.domain == LOCAL_DOMAIN else next(iter(ours), "")
    return Image(name, str(found["Id"]), digest, words)


def _familiar(name: ImageName) -> str:
    """The repository as docker shows it: without its own registry's name."""
    return name.path.removeprefix("library/") if name.domain == "docker.io" else name.repository


def _short(found: dict[str, Any]) -> str:
    return str(found["Id"]).removeprefix("sha256:")[:12]
