"""The workspace: a directory with a config.json, and the root where all records are kept.

No server, no account: what two processes know of each other lies in files below `Workspace.root`.
"""

from __future__ import annotations

import builtins
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from trainkit.boot.config import (
    DEFAULT_ROOT,
    FILE_NAME,
    FOLDERS,
    Config,
    check_name,
    find_config,
    load_config,
    parse_config,
    read_values,
    require_config,
    workspace_directory,
)
from trainkit.boot.newrun import make_root
from trainkit.boot.oldnames import refuse
from trainkit.boot.oldtable import REMEDIES
from trainkit.configfile import write_file
from trainkit.errors import UserErrorException, WorkspaceException

if TYPE_CHECKING:
    from trainkit.compute import ComputeTarget
    from trainkit.environment import Environment
    from trainkit.experiment import Experiment
    from trainkit.model import Model
    from trainkit.run import Run

_UNKNOWN = "local"  # the subscription and resource group of a workspace that was never in a cloud


class Workspace:
    """A workspace, found by its config.json; usually made by `Workspace.from_config()`.

    The constructor looks for the file from the current directory, as `from_config` does, and raises
    UserErrorException where the names it finds are others than those given; a workspace that was never in a cloud goes
    by any subscription and resource group. `auth` is not needed and not used.
    """

    config: Config

    def __init__(
        self,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        workspace_name: str | None = None,
        auth: object = None,
    ) -> None:
        config = load_config(require_config(Path()))
        asked = {"subscription_id": subscription_id, "resource_group": resource_group, "workspace_name": workspace_name}
        for key, value in asked.items():
            found = config.name if key == "workspace_name" else getattr(config, key)
            if key != "workspace_name" and found == _UNKNOWN:
                continue
            if value is not None and value != found:
                raise UserErrorException(
                    f"The workspace asked for has {key}={value!r}, but {config.path} says {found!r}. Go to the "
                    f"directory of that workspace, or load it with Workspace.from_config(path=...)."
                )
        self.config = config

    @classmethod
    def _of(cls, config: Config) -> Workspace:
        workspace = cls.__new__(cls)
        workspace.config = config
        return workspace

    @classmethod
    def from_config(
        cls,
        path: str | os.PathLike[str] | None = None,
        auth: object = None,
        _logger: object = None,
        _file_name: str | None = None,
    ) -> Workspace:
        """The workspace of the configuration file that is in force at `path` (the current directory).

        `path` is a file or a directory to begin at: .azureml/config.json is looked for up to the root directory,
        then aml_config/config.json, then config.json. `auth` is not needed and not used. Raises UserErrorException
        where there is none, or it is malformed.
        """
        return cls._of(load_config(require_config(Path(path or "."), _file_name)))

    @classmethod
    def create(
        cls,
        name: str,
        path: str | os.PathLike[str] = ".",
        exist_ok: bool = False,
        *,
        root: str | os.PathLike[str] | None = None,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        location: str | None = None,
        create_resource_group: bool = True,
        sku: str = "basic",
        tags: object = None,
        friendly_name: str | None = None,
        show_output: bool = True,
        storage_account: str | None = None,
        key_vault: str | None = None,
        app_insights: str | None = None,
        container_registry: str | None = None,
        hbi_workspace: bool = False,
    ) -> Workspace:
        """Make the directory `path` a workspace: a config.json, and `root` (".trainkit" beside it) for the records.

        With `exist_ok` a workspace of that name which is there already is returned. The arguments after `root` are
        those of a cloud's account: two are written down, the others have no effect. Raises UserErrorException.
        """
        directory = Path(os.path.abspath(os.path.expanduser(path)))
        file = directory / FILE_NAME
        check_name(name, "Workspace.create")
        values = {
            "subscription_id": subscription_id or _UNKNOWN,
            "resource_group": resource_group or _UNKNOWN,
            "workspace_name": name,
            "root": os.fspath(root) if root is not None else DEFAULT_ROOT,
        }
        config = parse_config(file, values, {})
        if not write_file(file, values, over=False):
            config = load_config(file)
            if not exist_ok or config.name != name:
                raise UserErrorException(
                    f"{file} exists: it is the workspace {config.name!r}. Load it with Workspace.from_config("
                    f"{os.fspath(directory)!r}), or choose another directory."
                )
        workspace = cls._of(config)
        workspace.prepare_root()
        return workspace

    @classmethod
    def get(
        cls,
        name: str,
        auth: object = None,
        subscription_id: str | None = None,
        resource_group: str | None = None,
        location: str | None = None,
    ) -> Workspace:
        """The workspace `name`, whose config.json is found from the current directory. Raises UserErrorException."""
        return cls(subscription_id, resource_group, name)

    @classmethod
    def list(
        cls, subscription_id: str | None = None, auth: object = None, resource_group: str | None = None
    ) -> dict[str, builtins.list[Workspace]]:
        """The workspace that is found from the current directory, by its name: there is no list of others."""
        path = find_config(Path())
        found = [cls._of(load_config(path))] if path is not None else []
        return {workspace.name: [workspace] for workspace in found}

    def write_config(self, path: str | os.PathLike[str] | None = None, file_name: str | None = None) -> None:
        """Write .azureml/config.json into the directory `path` (the current one), from where this workspace is found.

        What the workspace's own file holds is kept; the root it names stays the same directory.
        """
        directory = Path(os.path.abspath(os.path.expanduser(path or ".")))
        name = file_name or FILE_NAME
        if name != os.path.basename(name):
            raise UserErrorException(f"file_name={name!r} is a path; give the directory as `path`.")
        file = directory / FOLDERS[0] / name
        same_place = workspace_directory(file) == workspace_directory(self.config.path)
        values = dict(read_values(self.config.path))
        if not same_place or self.root != parse_config(self.config.path, values, {}).root:
            values["root"] = os.fspath(self.root)
        write_file(file, values, over=True)

    def prepare_root(self) -> Path:
        """The root directory, made where it is missing. Raises WorkspaceException where that cannot be."""
        try:
            return make_root(self.root)
        except OSError as error:
            raise WorkspaceException(
                f"The workspace's root {self.root} cannot be made ({error.strerror}). Name a directory that you can "
                f'write to as "root" in {self.config.path}.'
            ) from error

    @property
    def name(self) -> str:
        """The workspace's name."""
        return self.config.name

    @property
    def subscription_id(self) -> str:
        """As config.json has it; without effect."""
        return self.config.subscription_id

    @property
    def resource_group(self) -> str:
        """As config.json has it; without effect."""
        return self.config.resource_group

    @property
    def location(self) -> str:
        """Where the records are: always on this machine's own disks."""
        return "local"

    @property
    def root(self) -> Path:
        """The directory of all records, absolute."""
        return self.config.root

    @property
    def compute_targets(self) -> dict[str, ComputeTarget]:
        """All compute targets, by name."""
        from trainkit.compute import ComputeTarget

        return {target.name: target for target in ComputeTarget.list(self)}

    @property
    def experiments(self) -> dict[str, Experiment]:
        """All experiments that have runs, by name."""
        from trainkit.experiment import Experiment

        return {experiment.name: experiment for experiment in Experiment.list(self)}

    @property
    def environments(self) -> dict[str, Environment]:
        """The latest version of every registered environment, by name."""
        from trainkit.environment import Environment

        return Environment.list(self)

    @property
    def models(self) -> dict[str, Model]:
        """The latest version of every registered model, by name."""
        from trainkit.model import Model

        latest: dict[str, Model] = {}
        for model in Model.list(self):
            if model.name not in latest or latest[model.name].version < model.version:
                latest[model.name] = model
        return latest

    @property
    def datastores(self) -> dict[str, Any]:
        """None: scripts are given the paths of their data."""
        return {}

    @property
    def datasets(self) -> dict[str, Any]:
        """None: scripts are given the paths of their data."""
        return {}

    @property
    def webservices(self) -> dict[str, Any]:
        """None: models are not deployed from here yet."""
        return {}

    def get_default_datastore(self) -> NoReturn:
        """Raises UserErrorException: data sets are not built yet."""
        refuse("Workspace.get_default_datastore", REMEDIES["Datastore"])

    def get_default_keyvault(self) -> NoReturn:
        """Raises UserErrorException, which says where secrets are read from."""
        refuse("Workspace.get_default_keyvault", REMEDIES["Keyvault"])

    def get_mlflow_tracking_uri(self) -> NoReturn:
        """Raises UserErrorException: runs are not mirrored into MLflow yet."""
        refuse("Workspace.get_mlflow_tracking_uri", "runs are not in MLflow yet: log with Run.get_context().log")

    def get_run(self, run_id: str) -> Run:
        """The run of this id. Raises where there is none."""
        from trainkit.run import Run

        return Run.get(self, run_id)

    def get_details(self) -> dict[str, str]:
        """The workspace's own record, as plain values."""
        return {
            "name": self.name,
            "subscriptionId": self.subscription_id,
            "resourceGroup": self.resource_group,
            "location": self.location,
            "root": os.fspath(self.root),
        }

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Workspace) and other.root == self.root

    def __hash__(self) -> int:
        return hash(self.root)

    def __repr__(self) -> str:
        return f"Workspace(name={self.name!r}, root={os.fspath(self.root)!r})"
