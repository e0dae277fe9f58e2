"""What is said of a model: its texts checked, its lineage read from its run, filters over all models' records."""

from __future__ import annotations

import getpass
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trainkit
from trainkit.boot.newrun import find_run
from trainkit.boot.rundir import RunDir, read_json
from trainkit.errors import UserErrorException, WebserviceException
from trainkit.registry.store import ModelStore, Record, check_file_name, check_name, files_under

if TYPE_CHECKING:
    from trainkit.workspace import Workspace

Labels = Mapping[str, object]
Filter = str | Labels | Iterable[Any] | None  # "key", {"key": "value"} or ["key", ["key2", "value"]]


def store_of(workspace: Workspace) -> ModelStore:
    """The workspace's registry."""
    root = getattr(workspace, "root", None)
    if not isinstance(root, Path):
        raise UserErrorException(f"A Workspace is needed, as Workspace.from_config() returns it, not {workspace!r}.")
    return ModelStore(root)


def text(what: str, value: object) -> str | None:
    """`value` where it is None, or text that a file can hold."""
    if value is None:
        return None
    if not isinstance(value, str):
        raise UserErrorException(f"{what} is a text, not {value!r}.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as e:
        raise UserErrorException(f"{what} {value!r} is not valid Unicode text.") from e
    return value


def texts(what: str, values: object) -> dict[str, str]:
    """Tags or properties as they are stored: texts by non-empty text."""
    if not isinstance(values, Mapping):
        raise UserErrorException(f"{what} are given as a dictionary of texts, not as {values!r}.")
    if "" in values or not all(isinstance(key, str) for key in values):
        raise UserErrorException(f"{what} have non-empty texts as keys; {list(values)} were given.")
    return {text(what, key) or "": text(what, str(value)) or "" for key, value in values.items()}


def data_of(datasets: Sequence[tuple[str, object]] | None) -> dict[str, Any]:
    """The lineage that `datasets`, pairs of purpose and data, adds."""
    try:
        return {"data": [[str(purpose), str(data)] for purpose, data in datasets]} if datasets else {}
    except (TypeError, ValueError) as e:
        raise UserErrorException(
            f"datasets is a list of pairs, as in [('training', 'birds-2019')], not {datasets!r}."
        ) from e


def parse_id(id: str, name: str | None, version: int | None) -> tuple[str, int]:
    """Name and version of a "name:version"."""
    head, _, tail = id.rpartition(":") if isinstance(id, str) else ("", "", "")
    if not head or not (tail.isascii() and tail.isdecimal()) or int(tail) < 1:
        raise UserErrorException(f"A model's id is 'name:version', as in 'birds:3'; {id!r} was given.")
    if name not in (None, head) or version not in (None, int(tail)):
        raise UserErrorException(f"The id {id!r} contradicts name {name!r} or version {version!r}; give one of them.")
    return check_name(head), int(tail)


def files_of(model_path: Path, child_paths: Sequence[str] | None = None) -> dict[str, Path]:
    """The files that registering `model_path` takes: one, or a folder's under the folder's name."""
    try:
        path = model_path.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as e:
        raise WebserviceException(
            f"Error, provided model path {model_path} cannot be found; it was looked for in {Path.cwd()}."
        ) from e
    if path.is_file():
        if child_paths is not None:
            raise WebserviceException(f"child_paths names files of a folder, but {model_path} is a file.")
        return {path.name: path}
    name = model_path.name if model_path.name not in ("", "..") else path.name
    if child_paths is None:
        return files_under(path, name)
    found = {f"{name}/{check_file_name(child)}": path / child for child in child_paths}
    for child in found.values():
        if not child.exists() or child.resolve() != child:
            raise WebserviceException(f"Error, provided model path {child} cannot be found, or is a link.")
    return {
        key: file
        for child_name, child in found.items()
        for key, file in (files_under(child, child_name) if child.is_dir() else {child_name: child}).items()
    }


def origin() -> dict[str, str]:
    """Who registers, where, with which trainkit."""
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container's user without a name
        user = str(os.getuid())
    return {"user": user, "host": socket.gethostname(), "trainkit": trainkit.__version__}


def run_dir_of(workspace: Workspace, run_id: str) -> Path:
    """The directory of a run of this workspace, by its id. Raises WebserviceException where there is none."""
    path = find_run(workspace.root, run_id)
    if path is None:
        raise WebserviceException(
            f"Run {run_id!r} is not in this workspace; a model's run_id is that of one of its runs."
        )
    return path


def lineage_of(run_dir: Path) -> dict[str, Any]:
    """What a model of this run comes from: run, experiment, script, snapshot, environment digest, data, git."""
    names = RunDir(run_dir)
    run = read_json(names.run) or {}
    data = read_json(names.property("data")) or {}
    return {
        "run": run.get("id"),
        "experiment": run.get("experiment"),
        "script": run.get("script"),
        "arguments": run.get("arguments"),
        "snapshot": (run.get("snapshot") or {}).get("id"),
        "environment": (run.get("environment") or {}).get("digest"),
        "data": run.get("data") or data.get("value"),
        "git": run.get("git"),
    }


def find(
    store: ModelStore,
    name: str | None = None,
    version: int | None = None,
    tags: Filter = None,
    properties: Filter = None,
    run_id: str | None = None,
    framework: str | None = None,
) -> list[Record]:
    """The records that fit all that is asked, newest first."""
    if version is not None and (type(version) is not int or version < 1):
        raise UserErrorException(f"A model's version is a whole number from 1, not {version!r}.")
    wanted_tags, wanted_properties = _pairs("tags", tags), _pairs("properties", properties)
    found = []
    for each in [check_name(name)] if name is not None else store.names():
        for number in [version] if version is not None else store.versions(each):
            record = store.read(each, number)
            if (
                record is not None
                and run_id in (None, record.get("run_id"))
                and framework in (None, record.get("framework"))
                and _fits(record.get("tags") or {}, wanted_tags)
                and _fits(record.get("properties") or {}, wanted_properties)
            ):
                found.append(record)
    return sorted(found, key=lambda record: (record["created"], record["name"], record["version"]), reverse=True)


def _pairs(what: str, wanted: Filter) -> list[tuple[str, str | None]]:
    """A filter as pairs of key and value, the value None for any."""
    if wanted is None:
        return []
    items = [wanted] if isinstance(wanted, str) else wanted.items() if isinstance(wanted, Mapping) else wanted
    pairs: list[tuple[str, str | None]] = []
    for item in items:
        if isinstance(item, str):
            pairs.append((item, None))
        elif isinstance(item, (list, tuple)) and len(item) == 2:
            pairs.append((str(item[0]), str(item[1])))
        else:
            raise UserErrorException(f"{what} to look for are given as ['key', ['key', 'value']]; not {item!r}.")
    return pairs


def _fits(labels: Mapping[str, str], wanted: list[tuple[str, str | None]]) -> bool:
    return all(key in labels and value in (None, labels[key]) for key, value in wanted)


def not_found(store: ModelStore, name: str | None, version: int | None) -> str:
    """The sentence that says which model is missing, and which there are."""
    if name is None:
        return f"No registered model fits; registered are: {', '.join(store.names()) or 'none'}."
    versions = store.versions(name)
    if not versions:
        return f"Model {name} is not registered; registered are: {', '.join(store.names()) or 'none'}."
    asked = f"{name}:{version} is not registered" if version is not None else f"{name} has no version that fits"
    return f"Model {asked}; its versions are: {', '.join(map(str, versions))}."
