"""An environment as a folder of files that people edit, by the names that the Azure ML SDK v1 gives them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from trainkit.condafile import CondaDependencies
from trainkit.environment import Environment
from trainkit.environments.definition import definition_of, environment_of
from trainkit.errors import UserErrorException

DEFINITION, CONDA, DOCKERFILE = "azureml_environment.json", "conda_dependencies.yml", "BaseDockerfile"


def save(environment: Environment, path: str | os.PathLike[str], overwrite: bool) -> None:
    """Write the environment's files into a folder, which is made. Raises UserErrorException where it has some."""
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    there = [name for name in (DEFINITION, CONDA, DOCKERFILE) if (folder / name).exists()]
    if there and not overwrite:
        raise UserErrorException(f"{folder} has {there[0]} already; give overwrite=True to replace what is there.")
    values = definition_of(environment)
    dockerfile = values["docker"].pop("baseDockerfile")
    values["python"].pop("condaDependencies")
    texts = {
        CONDA: environment.python.dependencies().serialize_to_string(),
        DOCKERFILE: dockerfile,
        DEFINITION: json.dumps({"version": environment.version, **values}, indent=4) + "\n",
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            if text is None:
                (folder / name).unlink(missing_ok=True)
            else:
                (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserErrorException(f"{error.filename or folder} cannot be written: {error.strerror}.") from error


def load(path: str | os.PathLike[str]) -> Environment:
    """The environment of a folder. Raises UserErrorException where its files are missing or damaged."""
    folder = Path(os.path.abspath(os.path.expanduser(path)))
    file = folder / DEFINITION
    try:
        values = json.loads(file.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise UserErrorException(f"{folder} holds no environment: there is no {file}.") from error
    except (OSError, ValueError) as error:
        raise UserErrorException(f"{file} cannot be read: {error}.") from error
    if not isinstance(values, dict):
        raise UserErrorException(f"{file} describes no environment: it holds no object in braces.")
    environment = environment_of(_with_dockerfile(values, folder), str(file))
    conda = folder / ((values.get("python") or {}).get("condaDependenciesFile") or CONDA)
    if conda.is_file():
        environment.python.conda_dependencies = CondaDependencies(conda)
    environment.version = str(values["version"]) if values.get("version") else None
    return environment


def _with_dockerfile(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """The values with the text of the folder's Dockerfile, where it has one."""
    file = folder / DOCKERFILE
    if not file.is_file():
        return values
    return {**values, "docker": {**(values.get("docker") or {}), "baseDockerfile": file.read_text(encoding="utf-8")}}
