"""One process, two ranks and four learn the same over every backend, and go on exactly after interruptions."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.loops import ranks, worlds
from trainkit.loops.digest import expected
from trainkit.loops.order import Order

ROOT = Path(__file__).parents[2]
BACKENDS = ("gloo", "mpi", "horovod")
SCRIPT = """
import sys
from pathlib import Path
sys.path.insert(0, {root!r})
from tests.loops import ranks
folder = Path({folder!r})
for backend in {backends!r}:
    report(**{{
        backend: ranks.learned(backend),
        backend + " normalised": ranks.normalised(backend),
        backend + " interrupted": ranks.interrupted(backend, folder, {size} - 1),
    }})
ranks.begun("gloo", folder / "begun by {size}")
report(gone_on=ranks.gone_on("mpi", folder / "begun by one"))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("conformance")


@pytest.fixture(scope="module")
def alone(folder: Path) -> dict[str, Any]:
    """What one process learns."""
    found = {"auto": ranks.learned("auto"), "normalised": ranks.normalised("auto")}
    ranks.begun("auto", folder / "begun by one, kept")
    shutil.copytree(folder / "begun by one, kept", folder / "resumed by one")
    found["gone_on"] = ranks.gone_on("auto", folder / "resumed by one")
    return found


@pytest.fixture(scope="module", params=[2, 4], ids=["2 ranks", "4 ranks"])
def world(request: pytest.FixtureRequest, folder: Path, alone: dict[str, Any]) -> worlds.Outcome:
    """What so many ranks under mpirun learn, over each backend in turn."""
    size = request.param
    here = folder / str(size)
    shutil.copytree(folder / "begun by one, kept", here / "begun by one")
    script = SCRIPT.format(root=str(ROOT), folder=str(here), backends=BACKENDS, size=size)
    outcome = worlds.run(here, script, size, "mpirun", seconds=240)
    outcome.ranks = [{**rank, "size": size} for rank in outcome.ranks]
    return outcome


def _furthest(one: list[float], other: list[float]) -> float:
    assert len(one) == len(other)
    return max(abs(a - b) for a, b in zip(one, other, strict=True))


@pytest.mark.engine
@pytest.mark.parametrize("backend", BACKENDS)
def test_the_same_weights_after_fifty_steps(backend: str, world: worlds.Outcome, alone: dict[str, Any]) -> None:
    for kind, bound in (("float64", 1e-9), ("float32", 1e-5)):
        for accumulate in (1, 3):
            name = f"{kind} x {accumulate}"
            found = [rank[backend][name] for rank in world.ranks]
            assert len({each["bits"] for each in found}) == 1, "all ranks have the same bits"
            assert _furthest(found[0]["weights"], alone["auto"][name]["weights"]) <= bound
            for ours, theirs in zip(found[0]["rows"], alone["auto"][name]["rows"], strict=True):
                for metric in ("train_accuracy", "val_accuracy"):
                    assert ours[metric] == theirs[metric]
                for metric in ("train_loss", "val_loss"):
                    assert abs(ours[metric] - theirs[metric]) <= 1e-6


@pytest.mark.engine
@pytest.mark.parametrize("backend", BACKENDS)
def test_evaluation_and_prediction_are_those_of_one_process(
    backend: str, world: worlds.Outcome, alone: dict[str, Any]
) -> None:
    for rank in world.ranks:
        assert rank[backend]["evaluated"]["accuracy"] == alone["auto"]["evaluated"]["accuracy"]
        assert abs(rank[backend]["evaluated"]["loss"] - alone["auto"]["evaluated"]["loss"]) <= 1e-9
        assert _furthest(rank[backend]["predicted"], alone["auto"]["predicted"]) <= 1e-12


@pytest.mark.engine
@pytest.mark.parametrize("backend", BACKENDS)
def test_batch_normalisation_over_all_ranks(backend: str, world: worlds.Outcome, alone: dict[str, Any]) -> None:
    for values in world.each(f"{backend} normalised"):
        assert _furthest(values, alone["normalised"]) <= 1e-9


@pytest.mark.engine
@pytest.mark.parametrize("backend", BACKENDS)
def test_all_ranks_end_together_and_go_on_to_the_same_bits(backend: str, world: worlds.Outcome) -> None:
    found = world.same(f"{backend} interrupted")
    assert found["same"] and found["rows"]
    # the question travels in the next sum: of the next step, or of the evaluation after an epoch's last one
    assert found["stopped"] == [f"Asked to end at step {step} of 21" for step in (4, 11, 14)]


@pytest.mark.engine
def test_a_world_of_another_size_goes_on(world: worlds.Outcome, alone: dict[str, Any], folder: Path) -> None:
    found, size = world.same("gone_on"), world.ranks[0]["size"]
    assert _furthest(found["weights"], alone["gone_on"]["weights"]) <= 1e-9
    here = folder / f"resumed from {size}"
    shutil.copytree(folder / str(size) / f"begun by {size}", here)
    (checkpoint,) = here.glob("step-*10")
    state = json.loads((checkpoint / "state.json").read_text())
    position = next(v for v in _dictionaries(state) if "parts" in v)
    (part,) = position["parts"]
    assert part["world_size"] == size and part["start"] == 0
    assert int(part["digest"], 16) == expected(Order(50, 8, 0), position["epoch"], 0, part["stop"])
    back = ranks.gone_on("auto", here)
    assert _furthest(back["weights"], alone["gone_on"]["weights"]) <= 1e-9
    assert [row["val_accuracy"] for row in back["rows"]] == [row["val_accuracy"] for row in alone["gone_on"]["rows"]]


def _dictionaries(value: Any) -> list[dict[str, Any]]:
    """All dictionaries in a JSON value."""
    if isinstance(value, dict):
        return [value, *(inner for each in value.values() for inner in _dictionaries(each))]
    return [inner for each in value for inner in _dictionaries(each)] if isinstance(value, list) else []
