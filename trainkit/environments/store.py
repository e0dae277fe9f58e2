"""A workspace's registered environments: `environments/<name>/<version>.json`, each written once, and labels on them.

A version appears by one link, so that of those who register at the same time each gets a number of its own; content
that the latest version has already gets that one's. Labels are one small file a name, replaced under its lock.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from trainkit.boot.processes import hold_lock
from trainkit.boot.rundir import make_private, publish, read_json, replace
from trainkit.environment import Environment
from trainkit.environments.definition import Definition, definition_of, environment_of
from trainkit.errors import UserErrorException, WorkspaceException

LATEST = "latest"
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,254}")
_CURATED = re.compile(r"AzureML|Microsoft")
_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,254}")


class EnvironmentStore:
    """All registered environments of one workspace, as files."""

    def __init__(self, root: Path) -> None:
        self.path = Path(root) / "environments"

    @classmethod
    def of(cls, workspace: object) -> EnvironmentStore:
        """Those of a workspace. Raises UserErrorException for anything else, such as its name."""
        root = getattr(workspace, "root", None)
        if not isinstance(root, Path):
            raise UserErrorException(f"workspace is a Workspace, as Workspace.from_config() gives, not {workspace!r}.")
        return cls(root)

    def names(self) -> list[str]:
        """The names that have a version."""
        found = os.listdir(self.path) if self.path.is_dir() else []
        return sorted(name for name in found if _NAME.fullmatch(name) and self.versions(name))

    def versions(self, name: str) -> list[int]:
        """The versions of one name, ascending."""
        found = (re.fullmatch(r"([1-9][0-9]*)\.json", path.name) for path in (self.path / name).glob("*.json"))
        return sorted(int(match[1]) for match in found if match)

    def register(self, environment: Environment) -> Environment:
        """The environment as a registered version: the latest where that is the same, else a new one.

        Raises UserErrorException where its name cannot be registered, or a file that it names is not there.
        """
        name = _checked(environment.name)
        definition = definition_of(environment)
        try:
            return self.read(name, self._written(name, definition))
        except OSError as error:
            raise WorkspaceException(
                f"The environment {name!r} was not registered in {self.path}: {error.strerror or error}."
            ) from error

    def _written(self, name: str, definition: Definition) -> int:
        """The version that has this content: the latest, or one that is written now."""
        folder = make_private(self.path / name)
        while True:
            latest = max(self.versions(name), default=0)
            if latest and self._read(name, latest) == definition:
                return latest
            if publish(folder / f"{latest + 1}.json", {"definition": definition, "created": time.time()}):
                return latest + 1

    def get(self, name: str, version: str | int | None = None, label: str | None = None) -> Environment:
        """One version: that of this number or label, else the latest. Raises UserErrorException where there is none."""
        if version is not None and label is not None:
            raise UserErrorException("Environment.get takes version= or label=, not both.")
        versions = self.versions(self._known(name))
        if label is not None and label != LATEST:
            labels = self.labels(name)
            if label not in labels:
                known = ", ".join(sorted([LATEST, *labels]))
                raise UserErrorException(f"The environment {name!r} has no label {label!r}; it has {known}.")
            version = labels[label]
        return self.read(name, versions[-1] if version is None else self._version(name, version))

    def read(self, name: str, version: int) -> Environment:
        """One version that exists."""
        environment = environment_of(self._read(name, version), str(self._file(name, version)))
        environment.version = str(version)
        return environment

    def labels(self, name: str) -> dict[str, int]:
        """Which version each label of a name is on."""
        found = (read_json(self.path / name / "labels.json", "labels") or {"labels": {}})["labels"]
        return {str(label): int(version) for label, version in found.items()}

    def label(self, name: str, version: str | int, labels: Sequence[str]) -> None:
        """Put labels on a version; each leaves the version that it was on. Raises UserErrorException."""
        number = self._version(self._known(name), version)
        if isinstance(labels, str) or not all(isinstance(label, str) and _LABEL.fullmatch(label) for label in labels):
            raise UserErrorException(f"labels is a list of words, such as ['stable'], not {labels!r}.")
        if LATEST in labels:
            raise UserErrorException(f"The label {LATEST!r} is always on the version registered last.")
        folder = self.path / name
        lock = hold_lock(folder / ".lock", wait=True)
        try:
            replace(folder / "labels.json", {"labels": {**self.labels(name), **dict.fromkeys(labels, number)}})
        finally:
            if lock is not None:
                os.close(lock)

    def _known(self, name: object) -> str:
        """The name, where it has a version. Raises UserErrorException that says which names have."""
        if isinstance(name, str) and _CURATED.match(name):
            raise UserErrorException(
                f"{name!r} is a curated environment of the old service, which nobody keeps any more. Describe it "
                "yourself, with Environment(name, pip_packages=[...]) or Environment.from_docker_image(name, image), "
                "and register it under a name of your own; its packages were listed as its conda_dependencies."
            )
        if not isinstance(name, str) or not _NAME.fullmatch(name) or not self.versions(name):
            raise UserErrorException(
                f"No environment {name!r} is registered in {self.path.parent}; registered are "
                f"{', '.join(self.names()) or 'none'}. environment.register(workspace) registers one."
            )
        return name

    def _version(self, name: str, version: object) -> int:
        known = self.versions(name)
        if not re.fullmatch(r"[1-9][0-9]*", str(version)) or int(str(version)) not in known:
            raise UserErrorException(
                f"The environment {name!r} has no version {version!r}; it has {', '.join(map(str, known))}."
            )
        return int(str(version))

    def _file(self, name: str, version: int) -> Path:
        return self.path / name / f"{version}.json"

    def _read(self, name: str, version: int) -> dict[str, Any]:
        return dict((read_json(self._file(name, version), "definition") or {"definition": {}})["definition"])


def _checked(name: str) -> str:
    if not _NAME.fullmatch(name):
        raise UserErrorException(
            f"The environment {name!r} cannot be registered under this name: it has letters, digits, '_', '-' and '.', "
            "and begins with a letter, a digit or '_'."
        )
    if _CURATED.match(name):
        raise UserErrorException(
            f"{name!r} cannot be registered: names that begin with AzureML or Microsoft meant environments of the old "
            "service. Give it another with environment.clone(name)."
        )
    return name
