"""A job's environment, for hosts that do not have it: built there from its lock, at the same path.

Beside an environment that stands on nothing but a Python lies what is needed for that (rebuild.json); one that stands
on the packages of an interpreter has none, and hosts without it refuse the job. uv builds it: the host's own, else this
machine's, which is sent there once. Wheels that lie on this machine alone travel too.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from trainkit.errors import LaunchError
from trainkit.job import Job

from .asking import Line, Reply
from .hosts import Host
from .sending import Archive, send

_BUILD_SECONDS = 2 * 3600.0


@dataclass(frozen=True)
class Recipe:
    """What an environment is made of: the Python below it, uv here, requirements, local files, or why it cannot be."""

    environment: str
    python: str
    uv: str
    requirements: str
    files: tuple[str, ...] = ()
    refusal: str = ""


def recipe_of(interpreter: str) -> Recipe | None:
    """The recipe of an interpreter's environment; None where it can only be used where it is."""
    environment = Path(interpreter).parent.parent
    try:
        told = json.loads((environment / "rebuild.json").read_bytes())
        return Recipe(
            str(environment), told["python"], told["uv"], told["requirements"], tuple(told["files"]), told["refusal"]
        )
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise LaunchError(
            f"{environment}/rebuild.json is damaged ({error}). Remove {environment}, and submit the job again."
        ) from error


def build(line: Line, hosts: Sequence[Host], job: Job, directory: str) -> None:
    """See to it that each host has the job's environment. Raises LaunchError, naming the host that cannot have it."""
    recipe = recipe_of(job.interpreter) if job.container is None else None
    if recipe is None:
        return
    looks = _well(line.ask([(host, _request("environment", recipe, directory)) for host in hosts]), recipe)
    lacking = [look for look in looks if not look.values["there"]]
    if not lacking:
        return
    if recipe.refusal:
        raise LaunchError(f"{lacking[0].host.text} lacks the job's environment {recipe.environment}: {recipe.refusal}.")
    name = _name(recipe.uv)
    ready = [look.host for look in lacking if look.values["uv"] or name in look.values["programs"]]
    bare = [look.host for look in lacking if look.host not in ready]
    for those, uv in ((ready, ""), (bare, recipe.uv)):
        if those:
            request = {**_request("build", recipe, directory), "uv": name, "seconds": _BUILD_SECONDS}
            with Archive(request, functools.partial(_pack, recipe, uv, name)) as path:
                _well(send(line, those, path, _BUILD_SECONDS), recipe)


def _request(act: str, recipe: Recipe, directory: str) -> dict[str, Any]:
    told = {"environment": recipe.environment, "python": recipe.python, "requirements": recipe.requirements}
    return {"act": act, "directory": directory, **told}


def _well(replies: Sequence[Reply], recipe: Recipe) -> Sequence[Reply]:
    failed = next((reply for reply in replies if reply.error), None)
    if failed is not None:
        raise LaunchError(
            f"{failed.host.text} has not got the job's environment {recipe.environment}: {failed.error}.",
            transient=failed.transient,
        )
    return replies


def _name(uv: str) -> str:
    """What this machine's uv is called where it is sent to."""
    digest = hashlib.sha256()
    try:
        with open(uv, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise LaunchError(f"uv, which builds environments on hosts, is gone from this machine: {error}") from error
    return f"uv-{digest.hexdigest()[:16]}"


def _pack(recipe: Recipe, uv: str, name: str, file: BinaryIO) -> None:
    """The archive: local wheels, and uv where one is named."""
    with tarfile.open(fileobj=file, mode="w|") as tar:
        for path in recipe.files:
            tar.add(path, f"wheels/{os.path.basename(path)}", filter=_plain)
        if uv:
            tar.add(os.path.realpath(uv), name, filter=_plain)


def _plain(member: tarfile.TarInfo) -> Any:
    if not member.isreg():
        raise LaunchError(f"{member.name} is no file.")
    return member
