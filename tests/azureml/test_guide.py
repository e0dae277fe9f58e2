"""A guide written for the Azure ML SDK v1, read from the folder that TRAINKIT_TEST_DOCUMENTS names and run unedited.

Two things differ from what it prints: pins of versions that have no build for today's Python, and the train script,
which is the birds recipe under the guide's name.
"""

from __future__ import annotations

import re
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import pytest

import trainkit_recipes.birds
from trainkit import ActivityFailedException, Experiment, ExperimentExecutionException, Model, TrainingException
from trainkit.boot.rundir import RunDir, read_lines
from trainkit_recipes.birds.sample import picture

PIN = "'pillow==5.4.1'"
DISTRIBUTED = """
import os
import torch, torch.distributed as dist
from mpi4py import MPI
from azureml.core.run import Run
world = MPI.COMM_WORLD
dist.init_process_group("gloo")
total = torch.ones(1)
dist.all_reduce(total)
run = Run.get_context()
run.log("loss", total.item() + dist.get_rank())
run.log("mpi", "%d/%d" % (world.rank, world.allreduce(1)))
run.log("openmpi", os.environ["OMPI_COMM_WORLD_RANK"] + "/" + os.environ["OMPI_COMM_WORLD_SIZE"])
run.log("node", os.environ["TRAINKIT_NODE_NAME"])
dist.destroy_process_group()
"""


def blocks(documents: Path) -> list[str]:
    """The guide's Python blocks in order."""
    text = (documents / "004.md").read_text(encoding="utf-8")
    return re.findall(r"```[Pp]ython\s*\n(.*?)```", text, flags=re.DOTALL)


def before(code: list[str], words: str) -> int:
    """The number of the first block with these words."""
    return next(number for number, block in enumerate(code) if words in block)


@pytest.fixture
def folder(workspace: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folder: a configured workspace and the train script, as the guide asks for."""
    here = Path.cwd()
    for split, kind, number in product(("train", "val"), ("chicken", "turkey"), range(2)):
        (here / "birds" / split / kind).mkdir(parents=True, exist_ok=True)
        drawn = picture(split, kind, number).resize((32, 32))
        drawn.save(here / "birds" / split / kind / f"{number}.png")
    recipe = (Path(trainkit_recipes.birds.__file__).parent / "train.py").read_text(encoding="utf-8")
    assert 'default="sample"' in recipe
    fewer = recipe.replace('default="sample"', f"default={str(here / 'birds')!r}")  # 30 epochs are to take seconds
    (here / "pytorch_train.py").write_text(fewer, encoding="utf-8")
    return here


@pytest.mark.engine
def test_the_guide_runs_whole_and_in_order(
    documents: Path, folder: Path, workspace: Any, old_names: None, capsys: pytest.CaptureFixture[str]
) -> None:
    code = blocks(documents)
    horovod = before(code, "MpiConfiguration")
    assert (horovod, len(code)) == (9, 11)
    (folder / "guide.py").write_text("\n".join(code[:horovod]).replace(PIN, "'pillow'"), encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "trainkit.azureml", "guide.py"], capture_output=True, text=True, timeout=240
    )
    assert done.returncode == 0, done.stderr
    run = next(Experiment(workspace, "pytorch-birds").get_runs())
    assert "Creating a new compute target..." in done.stdout
    for words in ("RunId: " + run.id, "Web View: ", "Streaming ", "Epoch 0/29", "Execution Summary"):
        assert words in done.stdout
    assert run.get_status() == "Completed"
    stages = [line["status"] for line in read_lines(RunDir(run.directory).stages)]
    order = list(dict.fromkeys(stages))
    assert order == ["Preparing", "Queued", "Running", "Finalizing"]
    metrics = run.get_metrics()
    assert (metrics["lr"], metrics["momentum"]) == (0.001, 0.9)
    assert len(metrics["best_val_acc"]) == 60
    assert "outputs/model.pt" in run.get_file_names()
    assert Model(workspace, "pt-dnn").version == 1
    assert run.register_model(model_name="pt-dnn", model_path="outputs/").version == 2
    downloaded = Path(Model(workspace, "pt-dnn").download(target_dir=str(folder / "registered")))
    registered = next(downloaded.rglob("model.pt"))
    assert (folder / "model" / "model.pt").read_bytes() == registered.read_bytes()
    names: dict[str, Any] = {}
    for block in code[: before(code, "pip_packages")]:  # once more, and now the target is there
        exec(compile(block, "guide", "exec"), names)
    assert "Found existing compute target" in capsys.readouterr().out
    _horovod_block(code[horovod], names, folder)


def _horovod_block(block: str, names: dict[str, Any], folder: Path) -> None:
    """The guide's distributed block, two nodes of one rank. As it is printed it never ran: it lacks an import, its
    version is not what is installed, and nothing makes its script.
    """
    names["script_params"] = {}
    with pytest.raises(NameError, match="MpiConfiguration"):
        exec(compile(block, "guide", "exec"), names)
    exec("from azureml.core.runconfig import MpiConfiguration", names)
    with pytest.raises(TrainingException) as refused:
        exec(compile(block, "guide", "exec"), names)
    import torch

    assert "1.13" in str(refused.value) and torch.__version__.partition("+")[0] in str(refused.value)
    text = block.replace("framework_version='1.13',", "")
    exec(compile(text, "guide", "exec"), names)
    with pytest.raises(ExperimentExecutionException, match="script.py"):
        Experiment(names["ws"], "horovod").submit(names["estimator"])
    (folder / "pytorch-birds" / "script.py").write_text(DISTRIBUTED)
    run = Experiment(names["ws"], "horovod").submit(names["estimator"])
    run.wait_for_completion()
    metrics = run.get_metrics(rank="all")
    assert [metrics[rank]["loss"] for rank in (0, 1)] == [2, 3]
    for way in ("mpi", "openmpi"):
        assert [metrics[rank][way] for rank in (0, 1)] == ["0/2", "1/2"]
    assert metrics[0]["node"] != metrics[1]["node"]


def test_the_pin_that_has_no_build_is_named_with_what_to_ask_for(
    documents: Path, folder: Path, old_names: None
) -> None:
    code = blocks(documents)
    names: dict[str, Any] = {}
    with pytest.raises(ActivityFailedException) as failed:
        for block in code[: before(code, "experiment.submit") + 1]:
            exec(compile(block, "guide", "exec"), names)
    verdict = failed.value.verdict
    assert names["run"].get_status() == "Failed"
    assert verdict["stage"] == "Preparing"
    for words in ("pillow==5.4.1", "no build"):
        assert words in str(failed.value)
    without = str(failed.value).replace("pillow==5.4.1", "")
    assert re.search(r"pillow==?\s?\d+\.\d", without), "the version to ask for is named"
