"""A guide written for the Azure ML SDK v1, read from the folder that TRAINKIT_TEST_DOCUMENTS names and run whole.

Three things differ from what it prints: the import lines, the pin of pillow that has no build for today's Python, and
the train script, which is the birds recipe under the guide's name.
"""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import trainkit_recipes.birds
from trainkit import ActivityFailedException, Experiment, Model, MpiConfiguration, TrainingException, Workspace
from trainkit.boot.rundir import RunDir, read_lines
from trainkit_recipes.birds.sample import picture

IMPORTS = (
    "import os, shutil\n"
    "from trainkit import Workspace, Experiment, ComputeTarget, AmlCompute, ComputeTargetException, PyTorch\n"
)
PIN = "'pillow==5.4.1'"
DISTRIBUTED = """
import os
import torch, torch.distributed as dist
from trainkit import Run
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
run = Run.get_context()
run.log("loss", total.item() + dist.get_rank())
run.log("mpi", os.environ["OMPI_COMM_WORLD_RANK"] + "/" + os.environ["OMPI_COMM_WORLD_SIZE"])
run.log("node", os.environ["TRAINKIT_NODE_NAME"])
dist.destroy_process_group()
"""
MPI4PY = """
from mpi4py import MPI
from trainkit import Run
world = MPI.COMM_WORLD
Run.get_context().log("loss", world.allreduce(1) + world.rank)
"""


def blocks(documents: Path) -> list[str]:
    """The guide's Python blocks in order."""
    text = (documents / "004.md").read_text(encoding="utf-8")
    return re.findall(r"```[Pp]ython\s*\n(.*?)```", text, flags=re.DOTALL)


def edited(block: str) -> str:
    """A block without its import lines and without the pin."""
    lines = [line for line in block.splitlines() if not re.match(r"(import|from) ", line)]
    return "\n".join(lines).replace(PIN, "'pillow'")


@pytest.fixture
def folder(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: a configured workspace and the train script, as the guide asks for."""
    here = Path.cwd()
    for split, kind, number in product(("train", "val"), ("chicken", "turkey"), range(8)):
        (here / "birds" / split / kind).mkdir(parents=True, exist_ok=True)
        picture(split, kind, number).save(here / "birds" / split / kind / f"{number}.jpg")
    recipe = (Path(trainkit_recipes.birds.__file__).parent / "train.py").read_text(encoding="utf-8")
    assert 'default="sample"' in recipe
    fewer = recipe.replace('default="sample"', f"default={str(here / 'birds')!r}")  # 30 epochs are to take seconds
    (here / "pytorch_train.py").write_text(fewer, encoding="utf-8")
    return here


@pytest.mark.engine
def test_the_guide_runs_whole_and_in_order(documents: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = blocks(documents)
    horovod = next(n for n, block in enumerate(code) if "MpiConfiguration" in block)
    names: dict[str, Any] = {}
    exec(IMPORTS, names)
    for block in code[1:horovod]:
        exec(compile(edited(block), "guide", "exec"), names)
    shown = capsys.readouterr().out
    run, model = names["run"], names["model"]
    assert "Creating a new compute target..." in shown
    for words in ("RunId: " + run.id, "Web View: ", "Streaming ", "Epoch 0/29", "Execution Summary"):
        assert words in shown
    assert run.get_status() == "Completed"
    stages = [line["status"] for line in read_lines(RunDir(run.directory).stages)]
    order = list(dict.fromkeys(stages))
    assert order == ["Preparing", "Queued", "Running", "Finalizing"]
    metrics = run.get_metrics()
    assert (metrics["lr"], metrics["momentum"]) == (0.001, 0.9)
    assert len(metrics["best_val_acc"]) == 60
    assert "outputs/model.pt" in run.get_file_names()
    assert (model.name, model.version) == ("pt-dnn", 1)
    assert run.register_model(model_name="pt-dnn", model_path="outputs/").version == 2
    downloaded = Path(Model(names["ws"], "pt-dnn").download(target_dir=str(folder / "registered")))
    registered = next(downloaded.rglob("model.pt")) if downloaded.is_dir() else downloaded
    assert (folder / "model" / "model.pt").read_bytes() == registered.read_bytes()
    again = next(block for block in code if "Creating a new compute target" in block)
    exec(compile(edited(again), "guide", "exec"), names)
    assert "Found existing compute target" in capsys.readouterr().out
    _horovod_block(code[horovod], names, folder)


def _horovod_block(block: str, names: dict[str, Any], folder: Path) -> None:
    """The guide's distributed block: two nodes of one rank."""
    names["MpiConfiguration"] = MpiConfiguration
    with pytest.raises(TrainingException) as refused:
        exec(
            compile(
                edited(block).replace("entry_script='script.py'", "entry_script='pytorch_train.py'"), "guide", "exec"
            ),
            names,
        )
    import torch

    assert "1.13" in str(refused.value) and torch.__version__.partition("+")[0] in str(refused.value)
    names["script_params"] = {}
    for name, script in (("ddp.py", DISTRIBUTED), ("mpi.py", MPI4PY)):
        (folder / "pytorch-birds" / name).write_text(script)
        text = edited(block).replace("framework_version='1.13',", "").replace("'script.py'", repr(name))
        exec(compile(text, "guide", "exec"), names)
        run = Experiment(names["ws"], "horovod").submit(names["estimator"])
        run.wait_for_completion()
        metrics = run.get_metrics(rank="all")
        assert [metrics[rank]["loss"] for rank in (0, 1)] == [2, 3]
        if name == "ddp.py":
            assert [metrics[rank]["mpi"] for rank in (0, 1)] == ["0/2", "1/2"]
            assert metrics[0]["node"] != metrics[1]["node"]


def test_the_pin_that_has_no_build_is_named_with_what_to_ask_for(documents: Path, folder: Path) -> None:
    code = blocks(documents)
    names: dict[str, Any] = {}
    exec(IMPORTS, names)
    wanted = ("from_config", "project_folder", "shutil.copy", "cluster_name", "pip_packages", "experiment.submit")
    for word in wanted:
        block = next(block for block in code if word in block)
        text = "\n".join(line for line in block.splitlines() if not re.match(r"(import|from) ", line))
        try:
            exec(compile(text, "guide", "exec"), names)
        except ActivityFailedException as error:
            failed = error
    verdict = failed.verdict
    assert names["run"].get_status() == "Failed"
    assert verdict["stage"] == "Preparing"
    for words in ("pillow==5.4.1", "no build"):
        assert words in str(failed)
    assert re.search(r"pillow==?\s?\d+\.\d", str(failed).replace("pillow==5.4.1", "")), (
        "the version to ask for is named"
    )


def test_workspace_is_found_from_the_current_directory(folder: Path) -> None:
    assert Workspace.from_config().name == "tests"
