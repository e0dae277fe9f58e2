"""`CondaDependencies`: packages of conda and pip, as conda's environment files hold them.

Those files use a small part of YAML (three keys, lists of texts); that part is read and written here, and anything
else in a file is refused with its line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path

from trainkit.errors import UserErrorException
from trainkit.requirements import check, normalised, parse

_PYTHON = re.compile(r"^python\s*(?:={1,2}\s*([0-9][0-9.*]*))?$")
_PACKAGE = re.compile(r"^(?:[A-Za-z0-9_./-]+::)?[A-Za-z0-9_][A-Za-z0-9._-]*\s*([=<>!~ ].*)?$")


class CondaDependencies:
    """Packages to be installed by conda and pip; built step by step, or read from a conda environment file."""

    __slots__ = ("conda_channels", "conda_packages", "pip_options", "pip_packages", "python_version")

    def __init__(self, conda_dependencies_file_path: str | os.PathLike[str] | None = None) -> None:
        self.python_version: str | None = None
        self.conda_channels: list[str] = []
        self.conda_packages: list[str] = []
        self.pip_packages: list[str] = []
        self.pip_options: list[str] = []
        if conda_dependencies_file_path is not None:
            self._read(Path(conda_dependencies_file_path))

    @staticmethod
    def create(
        pip_indexurl: str | None = None,
        pip_packages: Iterable[str] | None = None,
        conda_packages: Iterable[str] | None = None,
        python_version: str | None = None,
        pin_sdk_version: bool = True,
    ) -> CondaDependencies:
        """Dependencies with these packages; raises UserErrorException naming the one that is none."""
        made = CondaDependencies()
        for line in check(pip_packages or ()):
            made.add_pip_package(line)
        if isinstance(conda_packages, (str, bytes)):
            raise UserErrorException(f"conda_packages is a list of strings, not {conda_packages!r}.")
        for line in conda_packages or ():
            made.add_conda_package(line)
        if python_version:
            made.set_python_version(python_version)
        if pip_indexurl:
            made.set_pip_index_url(pip_indexurl)
        return made

    @property
    def is_empty(self) -> bool:
        """Whether nothing is asked for."""
        return not (self.python_version or self.conda_packages or self.pip_packages or self.pip_options)

    def add_pip_package(self, pip_package: str) -> None:
        """Add a package ("timm>=1.0") or an option ("--find-links DIR"); takes the place of one of the same name."""
        (line,) = check([pip_package])
        requirement = parse(line)
        if not requirement.name:
            self.set_pip_option(line)
            return
        self.remove_pip_package(requirement.name)
        self.pip_packages.append(line)

    def remove_pip_package(self, pip_package: str) -> None:
        """Take a package out; nothing happens where it is not there."""
        name = parse(pip_package).name
        self.pip_packages = [line for line in self.pip_packages if parse(line).name != name]

    def add_conda_package(self, conda_package: str) -> None:
        """Add a conda package ("ffmpeg=7"); "python=3.11" sets the Python version."""
        text = conda_package.strip() if isinstance(conda_package, str) else conda_package
        if not isinstance(text, str) or not _PACKAGE.match(text) or not text.isprintable():
            raise UserErrorException(
                f"{conda_package!r} is no conda package: write 'name', 'name=1.2' or 'channel::name'."
            )
        python = _PYTHON.match(text)
        if python:
            self.python_version = python[1] or self.python_version
        elif text not in ("pip", *self.conda_packages):
            self.conda_packages.append(text)

    def remove_conda_package(self, conda_package: str) -> None:
        """Take a conda package out; nothing happens where it is not there."""
        self.conda_packages = [line for line in self.conda_packages if line != conda_package]

    def add_channel(self, channel: str) -> None:
        """Add a conda channel."""
        if not isinstance(channel, str) or not channel.strip() or channel.startswith("-") or not channel.isprintable():
            raise UserErrorException(f"{channel!r} is no conda channel.")
        if re.search(r"://[^/]*@|/t/[^/]+/", channel):
            raise UserErrorException(
                "A conda channel's address holds a password or token, and channels are stored with the run. Take it "
                "out of the address, and log in with the tool that installs from the channel (rattler auth login, "
                "micromamba auth login, ~/.condarc), which keeps it."
            )
        if channel not in self.conda_channels:
            self.conda_channels.append(channel)

    def set_python_version(self, version: str) -> None:
        """Ask for a version of Python, such as "3.11"."""
        if not isinstance(version, str) or not re.fullmatch(r"[0-9]+(\.[0-9]+){0,2}(\.\*)?", version):
            raise UserErrorException(f"{version!r} is no version of Python: write a text such as '3.11'.")
        self.python_version = version

    def set_pip_index_url(self, index_url: str) -> None:
        """The package index to take pip packages from, instead of the one that is configured."""
        self.pip_options = [o for o in self.pip_options if not o.startswith("--index-url")]
        self.set_pip_option(f"--index-url {index_url}")

    def set_pip_option(self, pip_option: str) -> None:
        """Add an option of requirements files, such as "--find-links DIR"."""
        (line,) = check([pip_option])
        if parse(line).name:
            raise UserErrorException(f"{pip_option!r} is a package: use add_pip_package.")
        if line not in self.pip_options:
            self.pip_options.append(line)

    def remove_pip_option(self, pip_option: str) -> None:
        """Take an option out; nothing happens where it is not there."""
        self.pip_options = [o for o in self.pip_options if o != pip_option]

    def serialize_to_string(self) -> str:
        """As the text of a conda environment file."""
        python = f"python={self.python_version}" if self.python_version else "python"
        lines = ["name: project_environment"]
        if self.conda_channels:
            lines += ["channels:", *(f"- {_quoted(c)}" for c in self.conda_channels)]
        lines += ["dependencies:", f"- {python}", *(f"- {_quoted(p)}" for p in self.conda_packages)]
        pip = [*self.pip_options, *self.pip_packages]
        if pip:
            lines += ["- pip", "- pip:", *(f"  - {_quoted(p)}" for p in pip)]
        return "\n".join(lines) + "\n"

    def save(self, path: str | os.PathLike[str] | None = None) -> str:
        """Write a conda environment file, by default ./conda_dependencies.yml; returns its path."""
        file = Path(path if path is not None else "conda_dependencies.yml")
        file.write_text(self.serialize_to_string(), encoding="utf-8")
        return str(file)

    def save_to_file(self, base_directory: str | os.PathLike[str], conda_file_path: str | None = None) -> str:
        """Write a conda environment file under `base_directory`; returns its name there."""
        name = conda_file_path or "conda_dependencies.yml"
        self.save(Path(base_directory) / name)
        return name

    def _read(self, path: Path) -> None:
        try:
            text = path.read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as e:
            raise UserErrorException(f"The conda file {path.absolute()} cannot be read: {e}.") from e
        try:
            items = list(_items(text))
            for section, item in items:
                add = {"channels": self.add_channel, "dependencies": self.add_conda_package}.get(section)
                (add or self.add_pip_package)(item)
        except UserErrorException as e:
            raise UserErrorException(f"{path.absolute()}: {e.message}") from e

    def __eq__(self, other: object) -> bool:
        return isinstance(other, CondaDependencies) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    def __repr__(self) -> str:
        names = [normalised(parse(line).name) for line in self.pip_packages]
        return f"CondaDependencies(python={self.python_version}, conda={self.conda_packages}, pip={names})"


def _items(text: str) -> Iterable[tuple[str, str]]:
    """(section, item) of each list item; the section is channels, dependencies or pip."""
    section, pip_indent = "", -1
    for number, raw in enumerate(text.splitlines(), 1):
        line = re.sub(r"(^|\s)#.*$", "", raw).rstrip()
        if not line.strip() or line.strip() == "---":
            continue
        key = re.match(r"^([A-Za-z_]+):\s*(.*)$", line)
        item = re.match(r"^(\s*)-\s+(\S.*)$", line)
        if (
            key
            and key[1] in ("name", "prefix", "channels", "dependencies")
            and (key[1] in ("name", "prefix") or not key[2])
        ):
            section, pip_indent = key[1], -1
        elif item and section == "dependencies" and re.fullmatch(r"pip\s*:", item[2]):
            pip_indent = len(item[1])
        elif item and section in ("channels", "dependencies"):
            if pip_indent >= 0 and len(item[1]) <= pip_indent:
                pip_indent = -1
            yield ("pip" if pip_indent >= 0 else section), _unquoted(item[2])
        else:
            raise UserErrorException(
                f"line {number} ({raw.strip()!r}) is not understood; a conda file has name, channels and dependencies, "
                "with one package a line and pip's packages under '- pip:'."
            )


def _unquoted(text: str) -> str:
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def _quoted(text: str) -> str:
    """Texts that YAML would take for something else get quotes."""
    return text if re.fullmatch(r"[A-Za-z0-9_./~][^#:{}\[\],&*'\"]*", text) else '"' + text.replace('"', "'") + '"'
