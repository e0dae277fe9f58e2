"""Everything that can be wrong with a job, found before anything of it is written or started."""

from __future__ import annotations

import ast
import os
import shlex
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from trainkit.distributed import World
from trainkit.errors import (
    ExperimentExecutionException,
    RunConfigurationException,
    UnsupportedJob,
    UserErrorException,
)
from trainkit.sources import inside

MOST_RANKS_PER_CPU = 32
FEWEST_ALLOWED_RANKS = 64
MOST_RESTARTS = 10_000
GRACE_SECONDS, RESUMING_GRACE_SECONDS, MOST_GRACE_SECONDS = 4.0, 30.0, 3600
MOST_ARGUMENT_BYTES = 1_000_000  # the kernel takes about 2 MB of arguments and environment
_SHELL_WORDS = ("|", "||", "&", "&&", ";", "<", ">", ">>", "2>", "2>&1")
# A script of one of these names would be imported in place of the package by whatever it imports itself.
FRAMEWORKS = frozenset(
    ("torch", "torchvision", "torchaudio", "numpy", "scipy", "pandas", "sklearn", "PIL", "cv2", "matplotlib", "horovod",
     "mpi4py", "fastai", "fastcore", "timm", "transformers", "accelerate", "lightning", "onnx", "onnxruntime",
     "safetensors", "tensorflow", "mlflow", "ray", "trainkit")
)  # fmt: skip


def script_in(source: Path, script: object) -> str:
    """The script's path relative to the source directory. Raises ExperimentExecutionException where it is not there."""
    if not isinstance(script, (str, os.PathLike)) or not str(script).strip():
        raise UserErrorException(
            f"A job needs a script: a path relative to {source}, such as 'train.py', not {script!r}."
        )
    found = inside(source, script)
    if found is None:
        raise ExperimentExecutionException(
            f"{source / str(script)} script path doesn't exist. The script should be inside the project "
            f"folder {source}."
        )
    if found.endswith(".ipynb"):
        raise UnsupportedJob(
            f"{script} is a notebook. Make a script of it with 'jupyter nbconvert --to script {script}', and "
            "submit that."
        )
    return found


def refuse_shadowing(source: Path, script: str) -> None:
    """Raises UserErrorException where the script has the name of a package that it, or what it imports, needs."""
    name = Path(script).stem
    if name in FRAMEWORKS or name in _imports(source / script):
        raise UserErrorException(
            f"The script {script} has the name of the package {name!r}: its own `import {name}`, and that of every "
            f"package it uses, would import the script instead. Rename it, for example to train_{name}.py."
        )


def _imports(path: Path) -> set[str]:
    """Top-level names that the file imports absolutely; none where it is no valid Python, which its run will tell."""
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return set()
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names.update(alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module.split(".")[0])
    return names


def arguments_of(values: object, what: str = "arguments") -> tuple[str, ...]:
    """Arguments as texts, `$NAME` in them untouched; one text is split as a shell would, without running one.

    Raises UserErrorException naming the one that cannot be an argument.
    """
    if isinstance(values, str):
        try:
            values = shlex.split(values)
        except ValueError as e:
            raise UserErrorException(f"{what} cannot be split into words ({e}): give a list.") from e
    if isinstance(values, (bytes, Mapping)) or not isinstance(values, Iterable):
        raise UserErrorException(f"{what} is a list, such as ['--lr', 0.1], not {values!r}.")
    words = tuple(_word(value, f"{what}[{n}]") for n, value in enumerate(values))
    size = sum(len(os.fsencode(word)) + 1 for word in words)
    if size > MOST_ARGUMENT_BYTES:
        raise UserErrorException(
            f"{what} are {size:,} bytes; a process takes about {MOST_ARGUMENT_BYTES:,}. Put them into a file."
        )
    return words


def _word(value: Any, where: str) -> str:
    if hasattr(value, "as_mount") or hasattr(value, "as_download") or type(value).__name__ == "DataReference":
        raise UnsupportedJob(f"{where}: data sets come in a later version. Give the data's path as a text.")
    if hasattr(value, "item") and getattr(value, "shape", None) == ():
        value = value.item()  # numpy's scalars, and tensors with one
    if not isinstance(value, (str, int, float, os.PathLike)):
        raise UserErrorException(f"{where} is {value!r}: an argument is a text, a number or a path.")
    text = os.fspath(value) if isinstance(value, os.PathLike) else str(value)
    if not isinstance(text, str) or "\0" in text:
        raise UserErrorException(f"{where} holds a NUL character, which no process can be given.")
    try:
        os.fsencode(text)
    except UnicodeEncodeError:
        raise UserErrorException(f"{where} is {text!r}, which has no form in this system's encoding.") from None
    return text


def command_of(value: object) -> tuple[str, ...]:
    """A command's words. It is run as it is, without a shell: raises UserErrorException where it needs one."""
    words = arguments_of(value, "command")
    shell = sorted({w for w in words if w in _SHELL_WORDS})
    if not words or shell:
        what = f"has {', '.join(shell)}, which only a shell understands" if shell else "is empty"
        raise UserErrorException(f"The command {what}. Put it into a script in the source directory, and submit that.")
    return words


def refuse_both(script: object, command: object, loop: object = None) -> None:
    """Raises RunConfigurationException where a job has two of a script, a command and a loop; none is wrong too."""
    if loop is not None:
        if script is not None or command is not None:
            raise RunConfigurationException("A job runs either 'loop' or a script or command; give one of them.")
        return
    if script is not None and command is not None:
        raise RunConfigurationException("A job runs either 'script' or 'command'; give one of the two.")
    if script is None and command is None:
        raise UserErrorException("A job needs a script (script='train.py', entry_script='train.py') or a command.")


def refuse_too_many(world: World, max_nodes: int | None, target: str, here: bool) -> None:
    """Raises UnsupportedJob where the target can never have so many nodes, or this machine so many processes."""
    if max_nodes is not None and world.nodes > max_nodes:
        raise UnsupportedJob(
            f"{world.nodes} nodes were asked of {target}, which has at most {max_nodes}. Ask for fewer, or raise its "
            "max_nodes."
        )
    cpus = os.cpu_count() or 1
    most = max(FEWEST_ALLOWED_RANKS, MOST_RANKS_PER_CPU * cpus)
    if here and world.size > most:
        raise UnsupportedJob(
            f"{world.size:,} ranks were asked of this machine, which has {cpus} CPUs and takes at most {most:,}. Ask "
            "for fewer nodes, or fewer ranks on each."
        )


def seconds_of(value: object) -> float:
    """A run's time limit, 0 for none; raises UserErrorException unless it is a positive number."""
    if value is None:
        return 0.0
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise UserErrorException(f"max_run_duration_seconds is a positive number of seconds, not {value!r}.")
    return float(value)


def restarts_of(value: object) -> int:
    """How often a job may be started again; raises UserErrorException unless it is a number that can be meant."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MOST_RESTARTS:
        raise UserErrorException(f"max_restarts is a whole number from 0 to {MOST_RESTARTS:,}, not {value!r}.")
    return value


def min_nodes_of(value: object, nodes: int, goes_on: bool) -> int:
    """The fewest nodes that a job goes on with, 0 for all; raises UserErrorException where that cannot be meant."""
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= nodes:
        raise UserErrorException(f"min_nodes is a whole number from 0 to the job's {nodes} node(s), not {value!r}.")
    if value and not goes_on:
        raise UserErrorException(
            f"min_nodes={value} is for restarts, and max_restarts is 0: give both, or take the spread horovod-elastic, "
            "which goes on by itself."
        )
    return value


def hang_of(value: object) -> str:
    """What a rank that hangs brings about; raises UserErrorException for anything but "report" and "end"."""
    if value not in ("report", "end"):
        raise UserErrorException(f"hang is 'report' or 'end', not {value!r}.")
    return str(value)


def flag_of(name: str, value: object) -> bool:
    """A setting that is on or off; raises UserErrorException for anything but True and False."""
    if not isinstance(value, bool):
        raise UserErrorException(f"{name} is True or False, not {value!r}.")
    return value


def grace_of(value: object, resumes: bool) -> float:
    """The seconds that a script has to end; `resumes` says that it may save its state to go on later."""
    if value is None:
        return RESUMING_GRACE_SECONDS if resumes else GRACE_SECONDS
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value <= MOST_GRACE_SECONDS:
        raise UserErrorException(f"grace_seconds is a number above 0, at most {MOST_GRACE_SECONDS}, not {value!r}.")
    return float(value)


def tags_of(tags: object) -> dict[str, str]:
    """Tags as texts; raises UserErrorException where they are no dictionary of names."""
    if tags is None:
        return {}
    if not isinstance(tags, Mapping) or not all(isinstance(key, str) and key for key in tags):
        raise UserErrorException(f"tags is a dictionary of names and texts, such as {{'stage': 'test'}}, not {tags!r}.")
    return {key: "" if value is None else str(value) for key, value in tags.items()}
