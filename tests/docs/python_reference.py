"""Writes docs/reference/python.md from the code itself: signatures and the docstrings' words.

`python tests/docs/python_reference.py` renews the page; a test compares the two.
"""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import textwrap
from pathlib import Path
from typing import Any

import trainkit
import trainkit.errors
import trainkit.export
import trainkit.loops
import trainkit.loops.images

PAGE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "python.md"
COMMAND = "python tests/docs/python_reference.py"
_WIDTH = 110
_HEAD = f"""# The Python API

Every public name, with what it takes and gives. `{COMMAND}` writes this page from the code
itself, and a test keeps the two the same.

All of these are imported from `trainkit`, and loaded when they are first used: `import trainkit` itself costs nothing.
Where a class is shown with its parameters, `...` is a value made anew for each object. Errors are
[at the end](#errors).
"""
# Each noun: the name of its object in examples, and the titles of the tables that its classes' members go into.
NOUNS: dict[str, tuple[str, dict[str, str]]] = {
    "Workspace": ("ws", {}),
    "Experiment": ("experiment", {}),
    "ScriptRunConfig": ("config", {}),
    "RunConfiguration": ("run_config", {}),
    "MpiConfiguration": ("mpi", {}),
    "PyTorchConfiguration": ("pytorch", {}),
    "Estimator": ("estimator", {}),
    "PyTorch": ("estimator", {}),
    "Fastai": ("estimator", {}),
    "Environment": ("environment", {}),
    "CondaDependencies": ("dependencies", {}),
    "ContainerRegistry": ("registry", {}),
    "DockerBuildContext": ("context", {}),
    "DockerConfiguration": ("docker", {}),
    "ComputeTarget": ("target", {}),
    "AmlCompute": ("target", {}),
    "AttachedCompute": ("target", {}),
    "Run": (
        "run",
        {
            "MetricLog": "Record metrics",
            "RunContext": "Tags, files and the end, inside a job and outside",
            "RecordedRun": "Read",
            "Run": "Find, wait, end, register, children",
        },
    ),
    "Model": ("model", {}),
}
ATTRIBUTES = {  # set in constructors, so that no docstring of their own tells them
    "Workspace": ("config", "its configuration file, read"),
    "Experiment": ("name, workspace", "as given"),
    "ScriptRunConfig": ("source_directory, script, arguments, command, run_config, distributed_job_config, use_gpu",
                        "as given; they may be changed until the job is submitted"),
    "Estimator": ("run_config", "the RunConfiguration that was made of the arguments"),
    "Environment": ("name, python, docker, environment_variables, inherit, version",
                    "may be changed until a job is submitted; `version` is a registered one's, as text"),
    "AmlCompute": ("name, workspace", "as given"),
    "AttachedCompute": ("name, workspace, launcher_name, options", "as attached; options are the launcher's fields"),
    "Model": ("name, version, id, tags, properties, description, created_time, created_by, run_id, experiment_name, "
              "lineage, files, url, model_framework, model_framework_version",
              "what is recorded of it; `version` is an int, `id` is name:version, `files` are names"),
}  # fmt: skip
_EXPORT = ("to_onnx", "to_onnx_file", "Report", "Preprocessing", "Classifier", "Prediction", "load_checkpoint",
           "Checkpoint", "build")  # fmt: skip
# Of the loops, what they are used by; their other methods are for the rest of trainkit.loops.
_LOOPS = {
    "TorchLoop": ("fit", "evaluate", "predict", "world"),
    "FastaiLoop": ("fine_tune", "fit_one_cycle", "fit", "validate", "predictions", "world"),
}
_WITH_MEMBERS = ("Callback", "History", "Metric", "Source", "Tree")
OTHERS = {
    "trainkit.runconfig": ("SpreadConfiguration",),
    "trainkit.estimators": ("Gloo", "Mpi", "Nccl"),
    "trainkit.environment": ("DockerSection", "PythonSection"),
    "trainkit.environments.build": ("ImageBuildDetails",),
    "trainkit.loops.fastailoop": ("FineTune", "FitOneCycle", "FitPlan"),
    "trainkit.loops.schedules": ("OneCycleMomentum",),
    "trainkit.submit": ("plan",),
    "trainkit.dryrun": ("dry_run", "preview"),
    "trainkit.events": ("metrics", "points"),
    "trainkit.outcome": ("status_of",),
    "trainkit.sentences": ("describe",),
}


def signature(function: Any, name: str, bound: bool) -> str:
    """`name(a, b=1)`: parameters with their defaults, without types and without those that begin with "_"."""
    shown: list[str] = []
    star = False
    for parameter in list(inspect.signature(function).parameters.values())[int(bound) :]:
        if parameter.name.startswith("_"):
            continue
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            star = True
            shown.append("*")
        star = star or parameter.kind is parameter.VAR_POSITIONAL
        prefix = "*" if parameter.kind is parameter.VAR_POSITIONAL else ""
        prefix = "**" if parameter.kind is parameter.VAR_KEYWORD else prefix
        shown.append(prefix + parameter.name + _default(parameter.default))
    return f"{name}({', '.join(shown)})"


def _default(value: Any) -> str:
    if value is inspect.Parameter.empty:
        return ""
    if repr(value) == "<factory>":
        return "=..."
    return f"={value!r}" if not isinstance(value, str) else '="' + value + '"'


def words(thing: Any) -> str:
    """A docstring as one paragraph, made safe for a cell of a table."""
    text = " ".join((inspect.getdoc(thing) or "").split())
    return text.replace("|", "\\|").strip()


def _members(cls: type, owner: type) -> list[tuple[str, Any]]:
    """The public members that `owner`, one of the bases of `cls`, defines and no class nearer to `cls` does."""
    nearer = {name for base in cls.__mro__[: cls.__mro__.index(owner)] for name in vars(base)}
    return [(name, value) for name, value in vars(owner).items() if not name.startswith("_") and name not in nearer]


def _row(cls: type, instance: str, name: str, value: Any) -> str | None:
    """A member's line; None for what is no method and no property."""
    if isinstance(value, (staticmethod, classmethod)):
        call = signature(value.__func__, f"{cls.__name__}.{name}", bound=isinstance(value, classmethod))
        return f"| `{call}` | {words(value.__func__)} |"
    if isinstance(value, property):
        return f"| `{instance}.{name}` | {words(value.fget)} |"
    if inspect.isfunction(value):
        return f"| `{signature(value, f'{instance}.{name}', bound=True)}` | {words(value)} |"
    return None


def rows(cls: type, instance: str, owner: type) -> list[str]:
    """The lines of the table of what `owner` gives to `cls`."""
    found = (_row(cls, instance, name, value) for name, value in _members(cls, owner))
    return [row for row in found if row is not None]


def _constructor(cls: type) -> list[str]:
    text = signature(cls.__init__, cls.__name__, bound=True)  # type: ignore[misc]
    lines = textwrap.wrap(text, _WIDTH, subsequent_indent="    ", break_on_hyphens=False, break_long_words=False)
    return ["```python output", *lines, "```"]


def _paragraphs(thing: Any) -> list[str]:
    """A docstring's paragraphs, wrapped for the page."""
    found = (inspect.getdoc(thing) or "").split("\n\n")
    return [part for text in found for part in ("\n".join(textwrap.wrap(" ".join(text.split()), 120)), "")]


def noun(name: str) -> list[str]:
    """One class: its words, its constructor, its tables."""
    instance, titles = NOUNS[name]
    cls: type = getattr(trainkit, name)
    lines = [f"## {name}", "", *_paragraphs(cls), *_constructor(cls), ""]
    own = vars(cls).get("__init__")
    if own is not None and own.__doc__ and not dataclasses.is_dataclass(cls):
        lines += _paragraphs(own)
    for title, table in _tables(cls, instance, titles):
        lines += [*([f"**{title}**", ""] if title else []), "| | |", "|---|---|", *table, ""]
    return lines


def _tables(cls: type, instance: str, titles: dict[str, str]) -> list[tuple[str, list[str]]]:
    """The class's tables: one, or one for each of the bases that has a title."""
    bases = [base for base in cls.__mro__ if base.__module__.startswith("trainkit")]
    if titles:
        ordered = [base for title in titles for base in bases if base.__name__ == title]
        return [(titles[base.__name__], rows(cls, instance, base)) for base in ordered]
    names, meaning = ATTRIBUTES.get(cls.__name__, ("", ""))
    shown = ", ".join(f"`{name.strip()}`" for name in names.split(",")) if names else ""
    table = [f"| {shown} | {meaning} |"] if names else []
    table += [row for base in bases for row in rows(cls, instance, base)]
    return [("", table)] if table else []


def _others() -> list[str]:
    lines = ["## Further names", "", "Each is imported from its own module.", "", "| | |", "|---|---|"]
    for module, names in OTHERS.items():
        for name in names:
            thing = getattr(importlib.import_module(module), name)
            function = thing.__init__ if isinstance(thing, type) else thing  # type: ignore[misc]
            lines.append(f"| `{module}`: `{signature(function, name, isinstance(thing, type))}` | {words(thing)} |")
    return [*lines, ""]


def _export() -> list[str]:
    lines = ["## trainkit.export", "", *_paragraphs(trainkit.export)]
    lines += ["| | |", "|---|---|"]
    for name in _EXPORT:
        thing = getattr(trainkit.export, name)
        if not isinstance(thing, type):
            lines.append(f"| `{signature(thing, name, bound=False)}` | {words(thing)} |")
            continue
        lines.append(f"| `{signature(thing.__init__, name, bound=True)}` | {words(thing)} |")  # type: ignore[misc]
        lines += rows(thing, name.lower(), thing)
    return [*lines, ""]


def _call(thing: Any, name: str) -> str:
    """A class or a function with what it takes; what takes nothing is its name."""
    if getattr(thing, "_is_protocol", False) or getattr(thing, "__init__", None) is object.__init__:
        return name
    function = thing.__init__ if isinstance(thing, type) else thing  # type: ignore[misc]
    return signature(function, name, isinstance(thing, type))


def _loops() -> list[str]:
    lines = ["## trainkit.loops", "", *_paragraphs(trainkit.loops)]
    for name, members in _LOOPS.items():
        cls = getattr(trainkit.loops, name)
        lines += [f"### {name}", "", *_paragraphs(cls), *_constructor(cls), "", "| | |", "|---|---|"]
        found = (_row(cls, "loop", member, vars(cls)[member]) for member in members)
        lines += [*(row for row in found if row is not None), ""]
    for module, title in ((trainkit.loops, "Beside them"), (trainkit.loops.images, "trainkit.loops.images")):
        lines += [
            f"### {title}",
            "",
            *(_paragraphs(module) if module is not trainkit.loops else ()),
            "| | |",
            "|---|---|",
        ]
        for name in sorted(set(module.__all__) - set(_LOOPS)):
            thing = getattr(module, name)
            if thing is not trainkit.loops.images.Pair:  # (file, class)
                lines.append(f"| `{_call(thing, name)}` | {words(thing)} |")
                if name in _WITH_MEMBERS:
                    lines += rows(thing, name.lower(), thing)
        lines.append("")
    return lines


def _errors() -> list[str]:
    """The tree of errors, each with what it stands on."""
    about = "Every error raised on purpose is a `TrainkitError`; its `message` is the whole sentence."
    lines = ["## Errors", "", about, "", "| error | is a | meaning |", "|---|---|---|"]
    for name in (n for n in vars(trainkit.errors) if n in trainkit.__all__):
        cls = getattr(trainkit, name)
        lines.append(f"| `{name}` | `{cls.__bases__[0].__name__}` | {words(cls)} |")
    return lines


def page() -> str:
    """The whole page."""
    lines = [_HEAD, *(line for name in NOUNS for line in noun(name)), *_loops(), *_export(), *_others(), *_errors()]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
