"""The reference pages say what the code says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

import trainkit
import trainkit.loops.images
from trainkit import events, outcome
from trainkit.boot.identity import job_environment, node_environment, rank_environment
from trainkit.boot.ranks import Rank
from trainkit.cli.runs import runs as runs_command
from trainkit.job import Job, Node

sys.path.insert(0, str(Path(__file__).parent))
import python_reference

PAGES = Path(__file__).resolve().parents[2] / "docs" / "reference"


def _text(name: str) -> str:
    return (PAGES / name).read_text(encoding="utf-8")


def _in_tables(name: str) -> set[str]:
    """Everything in code marks in the first cells of a page's tables."""
    rows = re.findall(r"^\| (.*?) \|", _text(name), re.MULTILINE)
    return {word for row in rows for word in re.findall(r"`([^`]+)`", row)}


def test_the_python_reference_is_what_the_code_says() -> None:
    assert _text("python.md") == python_reference.page(), f"docs/reference/python.md: run {python_reference.COMMAND}"


def test_every_public_name_is_in_the_python_reference() -> None:
    text = _text("python.md")
    missing = [name for name in trainkit.__all__ if name != "__version__" and not re.search(rf"\b{name}\b", text)]
    missing += [name for name in trainkit.export.__all__ if f"`{name}(" not in text]
    loops = {*trainkit.loops.__all__, *trainkit.loops.images.__all__} - {"Pair"}
    missing += [
        name for name in loops if f"`{name}(" not in text and f"| `{name}` |" not in text and f"\n{name}(" not in text
    ]
    assert not missing


@pytest.mark.parametrize("name", sorted(python_reference.ATTRIBUTES))
def test_the_attributes_named_by_hand_are_those_of_the_code(name: str) -> None:
    cls = getattr(trainkit, name)
    source = "\n".join(Path(sys.modules[base.__module__].__file__ or "").read_text() for base in cls.__mro__[:-1])
    for attribute in python_reference.ATTRIBUTES[name][0].split(", "):
        assert re.search(rf"\b{attribute}\b\s*[:=]", source), f"{name}.{attribute}"


def test_the_job_environment_page_names_every_variable() -> None:
    job = Job("pets_1_a", "pets", "/runs/pets_1_a", 1, "/bin/python", nodes=2, ranks_per_node=2, gpus_per_node=1)
    shared = job_environment(job, Node(0, ("a", "b"), "10.0.0.1", 29500, "eth0", (0, 1)))
    found = {*shared, *node_environment(job, 0), *rank_environment(job, Rank(world_size=4), shared)}
    text = _text("job-environment.md")
    assert not [name for name in sorted(found) if f"`{name}`" not in text]
    given_by_others = {"TRAINKIT_ROOT", "TRAINKIT_MPI", "TRAINKIT_RELAY"} | {
        n for n in _in_tables("job-environment.md") if "_ARM_" in n
    }
    assert _in_tables("job-environment.md") - found - given_by_others == {"AZUREML_WORKSPACE_ID"} - found


def test_the_records_page_names_every_status_kind_of_metric_and_part_of_a_verdict() -> None:
    named = _in_tables("records.md")
    (statuses,) = [option.type.choices for option in runs_command.params if option.name == "statuses"]  # type: ignore[attr-defined]
    assert {str(status).lower() for status in statuses} <= {word.lower() for word in named}
    metrics = {"log", *(f"log_{kind}" for kind in events._METRIC_KINDS if kind != "metric")}
    assert metrics <= named
    verdict = outcome.of_rank({"rank": 0, "exit_code": 1})
    assert {*verdict, "output"} <= named
