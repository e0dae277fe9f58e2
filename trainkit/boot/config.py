"""config.json: where a workspace is, found from a directory as the Azure ML SDK v1 finds it.

A file with that SDK's three keys alone is a whole configuration. More keys of trainkit's own:

    "root"                  the directory of all records, by default ".trainkit"; relative to the workspace's directory
    "vm_sizes"              {"STANDARD_NC6": {"launcher": "ssh", "options": {...}}}: where such machines are
    "default_image"         the container image of environments that want a container and name none
    "container_engine"      what runs containers ("docker", "podman"), where an environment does not say
    "snapshot_limit_bytes"  "snapshot_limit_files"
    "log_limit_bytes"       of each rank's log: the first and the last half of a larger one are kept
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple

from trainkit.errors import UserErrorException

DEFAULT_ROOT = ".trainkit"
FILE_NAME = "config.json"
FOLDERS = (".azureml", "aml_config", "")  # a kind of folder is looked for in all parents before the next kind
_FILE_NAMES = {".azureml": (FILE_NAME, "project.json"), "aml_config": (FILE_NAME, "project.json"), "": (FILE_NAME,)}
_REQUIRED = ("subscription_id", "resource_group", "workspace_name")
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_\-]{2,32}")
_SCOPE = re.compile(
    r"/subscriptions/([^/]+)/resourceGroups/([^/]+)/providers/[^/]+/workspaces/([^/]+)/?", re.IGNORECASE
)


@dataclass(frozen=True)
class VmSize:
    """What config.json says of one `vm_size` name: the launcher that reaches such machines, and its options."""

    name: str  # as config.json spells it
    launcher: str
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Config:
    """One config.json; `root` is absolute and does not depend on the current directory."""

    path: Path
    name: str
    subscription_id: str
    resource_group: str
    root: Path
    vm_sizes: Mapping[str, VmSize] = field(default_factory=dict)  # by name in lower case
    default_image: str = ""
    container_engine: str = ""  # empty: chosen among those that are installed
    snapshot_limit_bytes: Optional[int] = None
    snapshot_limit_files: Optional[int] = None
    log_limit_bytes: Optional[int] = None

    def vm_size(self, name: str) -> Optional[VmSize]:
        """Where machines of this size are, upper or lower case; None where config.json does not say."""
        return self.vm_sizes.get(name.lower())


def find_config(start: Path, file_name: Optional[str] = None) -> Optional[Path]:
    """The configuration file that is in force at `start`, or None.

    `start` itself where it is a file. Else .azureml/config.json (or project.json) in `start` and its parents, then
    aml_config, then a bare config.json: the kind of folder decides before the distance does.
    """
    start = _absolute(start)
    if start.is_file():
        return start
    for folder in FOLDERS:
        for directory in [start] + list(start.parents):
            for name in (file_name,) if file_name else _FILE_NAMES[folder]:
                path = directory / folder / name
                if os.path.isfile(str(path)):
                    return path
    return None


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(os.path.expanduser(str(path))))


def require_config(start: Path, file_name: Optional[str] = None) -> Path:
    """As `find_config`; raises UserErrorException where there is none."""
    place = _absolute(start)
    if place.suffix == ".json" and not place.exists():
        raise UserErrorException(
            "There is no file %s. Give the path of a workspace's configuration, or leave it out to have config.json "
            "looked for in the current directory and its parents." % place
        )
    path = find_config(start, file_name)
    if path is None:
        raise UserErrorException(
            "The workspace configuration file %s could not be found in %s or its parent directories. Make one with "
            "`trainkit init` or Workspace.create, or give its path: Workspace.from_config(path=...)."
            % (file_name or FILE_NAME, place)
        )
    return path


def workspace_directory(path: Path) -> Path:
    """The directory that a configuration file speaks for: its own, or that of the folder made to hold it."""
    return path.parent.parent if path.parent.name in FOLDERS else path.parent


def load_config(path: Path, env: Optional[Mapping[str, str]] = None) -> Config:
    """Read and check one configuration file. Raises UserErrorException, naming the file and what is wrong in it.

    In a rank, whose code directory may hold a copy of the file, the root stays that of the run's own workspace.
    """
    path = Path(os.path.abspath(str(path)))
    return parse_config(path, read_values(path), os.environ if env is None else env)


def parse_config(path: Path, values: Mapping[str, Any], env: Mapping[str, str]) -> Config:
    """The configuration that a file at `path` with these values is. Raises UserErrorException."""
    values = _with_scope(values)
    missing = [key for key in _REQUIRED if key not in values]
    if missing:
        raise UserErrorException(
            "The config file found in: %s does not seem to contain the required parameters. Please make sure it "
            "contains your subscription_id, resource_group and workspace_name (missing: %s)."
            % (path, ", ".join(missing))
        )
    name = _text(path, values, "workspace_name")
    check_name(name, str(path))
    return Config(
        path=path,
        name=name,
        subscription_id=_text(path, values, "subscription_id"),
        resource_group=_text(path, values, "resource_group"),
        root=_root(path, values, env),
        vm_sizes=_vm_sizes(path, values),
        default_image=_text(path, values, "default_image") if values.get("default_image") is not None else "",
        container_engine=_text(path, values, "container_engine") if values.get("container_engine") is not None else "",
        snapshot_limit_bytes=_count(path, values, "snapshot_limit_bytes"),
        snapshot_limit_files=_count(path, values, "snapshot_limit_files"),
        log_limit_bytes=_count(path, values, "log_limit_bytes"),
    )


def check_name(name: str, where: str) -> None:
    """Raise UserErrorException where `name` cannot be a workspace's."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UserErrorException(
            "%s: the workspace name %r is not possible. It has 3 to 33 characters: letters, digits, hyphens and "
            "underscores, the first a letter or a digit." % (where, name)
        )


def read_values(path: Path) -> Dict[str, Any]:
    """The JSON object in a configuration file. Raises UserErrorException."""
    try:
        with open(str(path), encoding="utf-8-sig") as file:
            values = json.load(file)
    except OSError as error:
        raise UserErrorException("The config file %s cannot be read: %s." % (path, error.strerror)) from error
    except UnicodeDecodeError as error:
        raise UserErrorException("The config file %s is not UTF-8 text: %s." % (path, error)) from error
    except ValueError as error:
        raise UserErrorException("The config file %s is not valid JSON: %s." % (path, error)) from error
    except RecursionError:
        raise UserErrorException("The config file %s is nested too deeply to be a configuration." % path) from None
    if not isinstance(values, dict):
        raise UserErrorException("The config file %s holds %s, not a JSON object in braces." % (path, _kind(values)))
    return values


def _with_scope(values: Mapping[str, Any]) -> Mapping[str, Any]:
    """The three keys also where the file spells them as one "Scope", as project.json did."""
    scope = _SCOPE.fullmatch(values["Scope"]) if isinstance(values.get("Scope"), str) else None
    return {**dict(zip(_REQUIRED, scope.groups())), **values} if scope else values


def _kind(value: Any) -> str:
    """A JSON value's type, in words."""
    kinds: Sequence[Tuple[Any, str]] = (
        (bool, "true or false"), (str, "a text"), ((int, float), "a number"), (list, "a list"), (dict, "an object"),
    )  # fmt: skip
    return next((words for types, words in kinds if isinstance(value, types)), "null")


def _wrong(path: Path, key: str, value: Any, wanted: str) -> UserErrorException:
    return UserErrorException(
        'The config file %s has %s as "%s", where %s is needed.' % (path, _kind(value), key, wanted)
    )


def _text(path: Path, values: Mapping[str, Any], key: str) -> str:
    value = values[key]
    if not isinstance(value, str):
        raise _wrong(path, key, value, "a text")
    return value


def _count(path: Path, values: Mapping[str, Any], key: str) -> Optional[int]:
    value = values.get(key)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
        raise _wrong(path, key, value, "a whole number of at least 1")
    return value


def _root(path: Path, values: Mapping[str, Any], env: Mapping[str, str]) -> Path:
    """Where the workspace's records are."""
    run_dir, root = env.get("TRAINKIT_RUN_DIR", ""), env.get("TRAINKIT_ROOT", "")
    if run_dir and root and Path(os.path.realpath(run_dir)) in Path(os.path.realpath(str(path))).parents:
        return Path(root)
    text = _text(path, values, "root") if values.get("root") is not None else DEFAULT_ROOT
    directory = workspace_directory(path)
    expanded = os.path.expanduser(text)
    found = Path(os.path.abspath(os.path.join(str(directory), expanded)))
    if expanded.startswith("~"):
        raise UserErrorException(
            'The config file %s has "root": %s, which begins with the home directory of nobody here; write the whole '
            "path." % (path, json.dumps(text))
        )
    if not text.strip() or "\0" in text or found == directory or found in directory.parents:
        raise UserErrorException(
            'The config file %s has "root": %s, which is no directory of its own: it would hold the workspace itself. '
            "Name a directory in or beside it, as %s is." % (path, json.dumps(text), json.dumps(DEFAULT_ROOT))
        )
    return found


def _vm_sizes(path: Path, values: Mapping[str, Any]) -> Dict[str, VmSize]:
    """The mapping of machine sizes to launchers."""
    sizes = values.get("vm_sizes")
    if sizes is None:
        return {}
    if not isinstance(sizes, dict):
        raise _wrong(path, "vm_sizes", sizes, 'an object such as {"STANDARD_NC6": {"launcher": "local"}}')
    found: Dict[str, VmSize] = {}
    for name, value in sizes.items():
        value = {"launcher": value} if isinstance(value, str) else value
        key = "vm_sizes.%s" % name
        if not isinstance(value, dict) or not isinstance(value.get("launcher"), str) or not value["launcher"]:
            raise _wrong(path, key, value, 'a launcher\'s name or {"launcher": name, "options": {...}}')
        unknown: List[str] = sorted(set(value) - {"launcher", "options"})
        if unknown:
            raise UserErrorException(
                'The config file %s has %s in "%s"; what belongs there is "launcher" and "options", which holds the '
                "launcher's own settings." % (path, ", ".join(map(json.dumps, unknown)), key)
            )
        options = value.get("options", {})
        if not isinstance(options, dict):
            raise _wrong(path, key + ".options", options, "an object")
        if name.lower() in found:
            raise UserErrorException('The config file %s has "%s" twice, in upper and lower case.' % (path, key))
        found[name.lower()] = VmSize(name, value["launcher"], options)
    return found
