"""Models that were registered: named, numbered 1, 2, ..., traced to their run, code, data and environment.

model = Model.register(ws, model_path="outputs/", model_name="birds")
Model(ws, "birds", version=1).download("./model")
"""

from __future__ import annotations

import builtins
import datetime
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainkit.errors import ModelNotFoundException, ModelPathNotFoundException, UserErrorException, WebserviceException
from trainkit.registry import fetch
from trainkit.registry.facts import (
    Filter,
    Labels,
    data_of,
    files_of,
    find,
    lineage_of,
    not_found,
    origin,
    parse_id,
    run_dir_of,
    store_of,
    text,
    texts,
)
from trainkit.registry.store import Record, check_name

if TYPE_CHECKING:
    from trainkit.workspace import Workspace


class Model:
    """One version of a registered model."""

    class Framework:
        """Names of frameworks, for `model_framework`; any other text is allowed too."""

        CUSTOM = "Custom"
        PYTORCH = "PyTorch"
        FASTAI = "fastai"
        ONNX = "Onnx"
        TENSORFLOW = "TensorFlow"
        SCIKITLEARN = "ScikitLearn"

    def __init__(
        self,
        workspace: Workspace,
        name: str | None = None,
        id: str | None = None,
        tags: Filter = None,
        properties: Filter = None,
        version: int | None = None,
        run_id: str | None = None,
        model_framework: str | None = None,
    ) -> None:
        """Fetch the newest registered model that fits; `id` is "name:version".

        Raises ModelNotFoundException where none fits, UserErrorException where nothing was asked.
        """
        if id is not None:
            name, version = parse_id(id, name, version)
        if not any((name, tags, properties, run_id, model_framework)):
            raise UserErrorException("Which model? Give at least a name, an id ('name:version'), tags or a run_id.")
        found = find(store_of(workspace), name, version, tags, properties, run_id, model_framework)
        if not found:
            raise ModelNotFoundException(not_found(store_of(workspace), name, version))
        self.workspace = workspace
        self._take(found[0])

    @classmethod
    def _of(cls, workspace: Workspace, record: Record) -> Model:
        model = cls.__new__(cls)
        model.workspace = workspace
        model._take(record)
        return model

    def _take(self, record: Record) -> None:
        self._record = record
        self.name: str = record["name"]
        self.version: int = record["version"]
        self.id = f"{self.name}:{self.version}"
        self.description: str | None = record.get("description")
        self.tags: dict[str, str] = dict(record.get("tags") or {})
        self.properties: dict[str, str] = dict(record.get("properties") or {})
        self.model_framework: str | None = record.get("framework")
        self.model_framework_version: str | None = record.get("framework_version")
        self.created_time = datetime.datetime.fromtimestamp(record["created"], datetime.timezone.utc)
        self.created_by: str = record.get("user", "")
        self.run_id: str | None = record.get("run_id")
        self.experiment_name: str | None = (record.get("lineage") or {}).get("experiment")
        self.lineage: dict[str, Any] = dict(record.get("lineage") or {})
        self.files: builtins.list[str] = [entry["name"] for entry in record["files"]]
        self.url = self._directory.absolute().as_uri()

    @property
    def _directory(self) -> Path:
        return store_of(self.workspace).directory(self.name, self.version)

    def __repr__(self) -> str:
        return f"Model(name={self.name}, id={self.id}, version={self.version}, tags={self.tags}, run_id={self.run_id})"

    @staticmethod
    def register(
        workspace: Workspace,
        model_path: str | Path,
        model_name: str,
        tags: Labels | None = None,
        properties: Labels | None = None,
        description: str | None = None,
        datasets: Sequence[tuple[str, object]] | None = None,
        model_framework: str | None = None,
        model_framework_version: str | None = None,
        child_paths: Sequence[str] | None = None,
    ) -> Model:
        """Register a file or a folder of this machine as the next version of `model_name`.

        With `child_paths`, only these files of the folder. Raises WebserviceException where name or path is wrong.
        """
        check_name(model_name)
        print(f"Registering model {model_name}", flush=True)
        return register_files(
            workspace,
            model_name,
            files_of(Path(model_path), child_paths),
            tags=tags,
            properties=properties,
            description=description,
            framework=model_framework,
            framework_version=model_framework_version,
            lineage=data_of(datasets),
        )

    @staticmethod
    def list(
        workspace: Workspace,
        name: str | None = None,
        tags: Filter = None,
        properties: Filter = None,
        run_id: str | None = None,
        latest: bool = False,
        model_framework: str | None = None,
    ) -> builtins.list[Model]:
        """The registered models that fit, newest first; with `latest` only the highest fitting version of each name."""
        found = find(store_of(workspace), name, None, tags, properties, run_id, model_framework)
        if latest:
            highest = {record["name"]: record for record in sorted(found, key=lambda r: int(r["version"]))}
            found = [record for record in found if record is highest[record["name"]]]
        return [Model._of(workspace, record) for record in found]

    def download(self, target_dir: str | Path = ".", exist_ok: bool = False) -> str:
        """Copy the model into `target_dir`, a registered folder as a folder; the path of that file or folder.

        Every file is checked against its sha256 before anything is put in place. Raises WebserviceException where a
        file is corrupted, or exists there and `exist_ok` is False.
        """
        return str(fetch.download(self._record, self._directory, Path(target_dir), exist_ok))

    def verified(self, name: str | None = None) -> Path:
        """The path, inside the registry, of the checked file `name`; without one, of the model's only file.

        For reading in place: who wants to change it downloads it.
        """
        if name is None and len(self.files) == 1:
            name = self.files[0]
        if name not in self.files:
            asked = "Name one of its files" if name is None else f"It has no file {name!r}"
            raise ModelPathNotFoundException(f"Model {self.id} has {len(self.files)} files: {self.files}. {asked}.")
        fetch.verify(self._record, self._directory, [name])
        return self._directory / "files" / name

    @staticmethod
    def get_model_path(model_name: str, version: int | None = None, _workspace: Workspace | None = None) -> str:
        """Where the model is for code that uses it: in `azureml-models/NAME/VERSION`, else `./NAME`, of this directory.

        Else, with a workspace or inside a job, it is downloaded to the first of them. Raises ModelNotFoundException.
        """
        from trainkit.registry.path import find

        return str(find(model_name, version, _workspace))

    @staticmethod
    def deploy(*args: object, **kwargs: object) -> NoReturn:
        """Raises UserErrorException: deployment is not built yet; it says what there is instead."""
        from trainkit.boot.oldnames import refuse
        from trainkit.boot.oldtable import REMEDIES

        refuse("Model.deploy", REMEDIES["Webservice"])

    def add_tags(self, tags: Labels) -> None:
        """Add tags, over those of the same key."""
        new = texts("tags", tags)
        self._edit(lambda record: record["tags"].update(new))

    def remove_tags(self, tags: Iterable[str]) -> None:
        """Remove the tags of these keys."""
        gone = [tags] if isinstance(tags, str) else list(tags)
        self._edit(lambda record: [record["tags"].pop(key, None) for key in gone])

    def add_properties(self, properties: Labels) -> None:
        """Add properties; one that exists never changes."""
        new = texts("properties", properties)

        def add(record: Record) -> None:
            for key in new.keys() & record["properties"].keys():
                if new[key] != record["properties"][key]:
                    raise WebserviceException(
                        f"Property {key!r} of model {self.id} is {record['properties'][key]!r} for good; use a tag."
                    )
            record["properties"].update(new)

        self._edit(add)

    def update_tags_properties(
        self,
        add_tags: Labels | None = None,
        remove_tags: Iterable[str] | None = None,
        add_properties: Labels | None = None,
    ) -> None:
        """Several edits in one call."""
        self.add_properties(add_properties or {})
        self.remove_tags(remove_tags or [])
        self.add_tags(add_tags or {})

    def update(self, tags: Labels | None = None, description: str | None = None) -> None:
        """Replace all tags, or the description, or both."""
        new = {"tags": None if tags is None else texts("tags", tags), "description": text("description", description)}
        self._edit(lambda record: record.update({key: value for key, value in new.items() if value is not None}))

    def _edit(self, change: Callable[[Record], object]) -> None:
        self._take(store_of(self.workspace).edit(self.name, self.version, change))

    def delete(self) -> None:
        """Remove this version from the registry; its number is not given again."""
        store_of(self.workspace).remove(self.name, self.version)

    def serialize(self) -> dict[str, Any]:
        """Everything that is known of the model, as plain values for JSON."""
        return {
            "name": self.name,
            "version": self.version,
            "id": self.id,
            "description": self.description,
            "tags": self.tags,
            "properties": self.properties,
            "framework": self.model_framework,
            "frameworkVersion": self.model_framework_version,
            "createdTime": self.created_time.isoformat(),
            "createdBy": self.created_by,
            "runId": self.run_id,
            "experimentName": self.experiment_name,
            "url": self.url,
            "files": self._record["files"],
            "lineage": self.lineage,
        }


def register_files(
    workspace: Workspace,
    name: str,
    files: Mapping[str, Path],
    *,
    run_id: str | None = None,
    tags: Labels | None = None,
    properties: Labels | None = None,
    description: str | None = None,
    framework: str | None = None,
    framework_version: str | None = None,
    lineage: Mapping[str, Any] | None = None,
) -> Model:
    """Register `files` (name in the model: path here) as the next version of `name`.

    A file is `{"model.pt": path}`, a folder `{"outputs/model.pt": path, ...}` (`registry.store.files_under` lists it).
    With a `run_id` of this workspace, `lineage` is completed from the run's own record. Files are copied: what happens
    to them later never changes the model.
    """
    if framework_version is not None and framework is None:
        raise WebserviceException(
            f"model_framework_version {framework_version!r} was given without model_framework; give both, or neither."
        )
    traced = lineage_of(run_dir_of(workspace, run_id)) if run_id else {}
    traced.update(lineage or {})
    facts = {
        "description": text("description", description),
        "tags": texts("tags", tags or {}),
        "properties": texts("properties", properties or {}),
        "framework": text("model_framework", framework),
        "framework_version": text("model_framework_version", framework_version),
        "run_id": run_id,
        "lineage": traced,
        **origin(),
    }
    return Model._of(workspace, store_of(workspace).add(check_name(name), files, facts))
