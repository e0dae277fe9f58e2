"""An image with an environment's packages: a few lines of Dockerfile over a base, and the folder that they copy from.

Packages are installed with the image's own Python, by its own pip, conda's by the program of conda's that the image
has. No shell reads any of it: what is asked for stands in files or in lists of words.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import tempfile
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.building import failing_step
from trainkit.prepare.contexts import context_digest, copied
from trainkit.prepare.entries import Record
from trainkit.requirements import links_folder

FOLDER = "/opt/trainkit"  # in the image
DEFAULT_CHANNELS = ("conda-forge",)
_LOCAL_FILE = re.compile(r"^(.*@\s*)file://(/[^\s;#]*)(.*)$")
_PIP = ("--no-cache-dir", "--no-input", "--disable-pip-version-check", "--progress-bar", "off")


@dataclass(frozen=True)
class Derived:
    """What is to be installed, and what the base offers for that."""

    pip_packages: tuple[str, ...]
    conda_packages: tuple[str, ...]
    conda_channels: tuple[str, ...]
    interpreter: str
    conda: str
    prefix: str
    local: tuple[tuple[str, str], ...]  # folders and files of this machine that packages come from, with digests
    envs: Path  # the workspace's, which is never among them

    @staticmethod
    def of(spec: EnvironmentSpec, base: Record, image: str, envs: Path) -> Derived | None:
        """What `spec` asks for beyond the image of `base`; None for nothing. Raises EnvironmentBuildError.

        People know the image as `image`.
        """
        if spec.user_managed or not (spec.pip_packages or spec.conda_packages):
            return None
        python = base["python"]
        brings_pip = any(re.match(r"pip\b", package) for package in spec.conda_packages)
        if spec.pip_packages and not (python["pip"] or brings_pip):
            raise EnvironmentBuildError(
                f"pip packages are asked for, but {python['path']} in the {image} has no pip: add pip to the "
                "image, or set python.user_managed_dependencies and install the packages there."
            )
        if spec.conda_packages and not python["conda"]:
            raise EnvironmentBuildError(
                f"conda_packages asks for {', '.join(spec.conda_packages)}, but {python['path']} in the {image} "
                "is not conda's, or there is neither micromamba, mamba nor conda beside it. Ask for the packages with "
                "pip_packages, or take an image with conda."
            )
        return Derived(
            spec.pip_packages,
            spec.conda_packages,
            spec.conda_channels or DEFAULT_CHANNELS if spec.conda_packages else (),
            python["path"],
            python["conda"],
            python["prefix"],
            tuple((path, _digest(path, envs)) for path in _local(spec.pip_packages)),
            envs,
        )

    @property
    def inputs(self) -> dict[str, object]:
        """What the image's digest covers of it."""
        return {
            "pip_packages": list(self.pip_packages),
            "conda_packages": sorted(self.conda_packages),
            "conda_channels": list(self.conda_channels),
            "local_packages": [list(pair) for pair in self.local],
        }

    def dockerfile(self, base: str, user: str) -> str:
        """The Dockerfile; `user` is the base's own, who may not be allowed to install."""
        lines = [f"FROM {base}"]
        if user not in ("", "root", "0"):
            lines.append("USER root")
        if self.conda_packages:
            channels = [word for channel in self.conda_channels for word in ("--channel", channel)]
            lines.append(
                _run(self.conda, "install", "--yes", "--prefix", self.prefix, "--override-channels", *channels,
                     *self.conda_packages)
            )  # fmt: skip
        if self.pip_packages:
            lines.append(f"COPY . {FOLDER}/")
            # a distribution's own Python refuses pip unless told that this is meant
            pip = (self.interpreter, "-m", "pip", "install", *_PIP, "--requirement", f"{FOLDER}/requirements.txt")
            lines.append(_run("/usr/bin/env", "PIP_BREAK_SYSTEM_PACKAGES=1", "PIP_ROOT_USER_ACTION=ignore", *pip))
        if user not in ("", "root", "0"):
            lines.append(f"USER {user}")
        return "\n".join(lines) + "\n"

    def verdict(self, error: EnvironmentBuildError, image: str) -> str:
        """Why the packages could not be installed, by the last that the installer said."""
        step = failing_step(error.output)
        if not step.words.startswith("RUN"):
            return error.message
        of_conda = self.conda and json.dumps(self.conda) in step.words and "pip" not in step.words
        said = step.said[-1].rstrip(".") if step.said else f"it ended with exit status {step.status}"
        program = Path(self.conda).name if of_conda else "pip"
        return f"{program} could not install the packages into the {image}: {said}."

    @contextmanager
    def context(self) -> Iterator[Path]:
        """The folder that the Dockerfile copies: the requirements, and packages that are files of this machine."""
        with tempfile.TemporaryDirectory(prefix="trainkit-") as work:
            folder = Path(work)
            places = {}
            for number, (path, _) in enumerate(self.local):
                name = f"packages-{number}"
                if Path(path).is_dir():
                    copied(Path(path), self.envs, folder / name)
                    places[path] = f"{FOLDER}/{name}"
                else:
                    (folder / name).mkdir()
                    shutil.copyfile(path, folder / name / Path(path).name)
                    places[path] = f"{FOLDER}/{name}/{Path(path).name}"
            lines = [_placed(line, places) for line in self.pip_packages]
            (folder / "requirements.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
            for made in folder.rglob("*"):  # whoever runs containers of it reads it
                made.chmod(0o755 if made.is_dir() else 0o644)
            yield folder


def _run(*words: str) -> str:
    return "RUN " + json.dumps(words)


def _local(lines: tuple[str, ...]) -> list[str]:
    """The folders and files of this machine that requirements name."""
    return list(dict.fromkeys(path for line in lines if (path := _path_in(line))))


def _path_in(line: str) -> str:
    file = _LOCAL_FILE.match(line)
    return links_folder(line) or (urllib.parse.unquote(file[2]) if file else "")


def _placed(line: str, places: dict[str, str]) -> str:
    """A requirement with the path that it has in the image."""
    path = _path_in(line)
    if not path:
        return line
    if links_folder(line):
        return f"--find-links {places[path]}"
    return _LOCAL_FILE.sub(lambda match: f"{match[1]}file://{urllib.parse.quote(places[path])}{match[3]}", line)


def _digest(path: str, envs: Path) -> str:
    """Of a folder's or file's content. Raises EnvironmentBuildError where there is none."""
    if Path(path).is_dir():
        return context_digest(Path(path), envs, (), follows=True)
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise EnvironmentBuildError(f"The package {path} cannot be read: {error.strerror}.") from error
