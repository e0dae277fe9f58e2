"""A guide that trains a classifier of pets in an image of its own, written for the Azure ML SDK v1.

Its code is read from the folder that TRAINKIT_TEST_DOCUMENTS names and run as it is printed: once by docker, without
the blocks that it calls optional, and once by podman, with all of them. The image's name is answered by a registry on
loopback. What the guide asks for besides is here: the training script in the shape of the one that it links to, whose
photographs are some of TRAINKIT_TEST_DATA, and a Dockerfile.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from itertools import chain
from pathlib import Path
from typing import Any

import pytest

from tests.engines import containers
from tests.engines.containers import TRAINING, Engine
from trainkit import Experiment
from trainkit.boot.rundir import RunDir

pytestmark = pytest.mark.engine
EACH = 24  # photographs of cats, and of dogs
TRAIN = """
from fastai.vision.all import *
from azureml.core import Run

path = Path(__file__).parent / "pets"
files = get_image_files(path / "images")


def label_func(f):
    return f[0].isupper()


dls = ImageDataLoaders.from_name_func(path, files, label_func, item_tfms=Resize(64), bs=16)

learn = cnn_learner(dls, resnet34, metrics=error_rate, pretrained=False)
learn.fine_tune(1)

run = Run.get_context()
run.log("error_rate", float(learn.recorder.values[-1][-1]))
run.log("torch", torch.__version__)
"""


def blocks(documents: Path) -> list[str]:
    """The guide's Python blocks in order."""
    text = (documents / "000.md").read_text(encoding="utf-8")
    return re.findall(r"```[Pp]ython *\n(.*?)```", text, flags=re.DOTALL)


@pytest.fixture
def folder(workspace: Any, photographs: Path) -> Path:
    """The user's folder: a configured workspace, and the source directory that the guide names."""
    reason = containers.missing("training")
    if reason:
        pytest.skip(reason)
    pictures = sorted((photographs / "pets" / "images").glob("*.jpg"))
    cats, dogs = ([file for file in pictures if file.name[0].isupper() is cat] for cat in (True, False))
    images = Path.cwd() / "fastai-example" / "pets" / "images"
    images.mkdir(parents=True)
    for file in chain(cats[:: len(cats) // EACH], dogs[:: len(dogs) // EACH]):
        shutil.copy(file, images)
    (images.parents[1] / "train.py").write_text(TRAIN)
    return Path.cwd()


def trained(workspace: Any, words: list[str]) -> tuple[str, dict[str, Any]]:
    """What the guide printed, and what was prepared for the run that it has made, which went well."""
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, timeout=400)
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    (run,) = Experiment(workspace, "fastai-custom-image").get_runs()
    assert run.get_status() == "Completed"
    metrics = run.get_metrics()
    assert 0 <= metrics["error_rate"] <= 1 and metrics["torch"].startswith("1.13"), metrics
    assert "Creating a new compute target..." in done.stdout and "Epoch" in done.stdout
    prepared: dict[str, Any] = json.loads(RunDir(run.directory).environment.read_text())
    entry: dict[str, Any] = json.loads((workspace.root / "envs" / prepared["digest"] / "ready.json").read_text())
    return done.stdout, {**prepared, "bases": entry["bases"]}


def test_the_guide_runs_in_the_image_that_it_names(
    documents: Path, folder: Path, workspace: Any, docker: Engine
) -> None:
    optional = ("base_image_registry", "base_dockerfile")
    code = [block for block in blocks(documents) if not any(word in block for word in optional)]
    assert (len(blocks(documents)), len(code)) == (8, 6)
    (folder / "guide.py").write_text("\n".join(code), encoding="utf-8")
    _, prepared = trained(workspace, ["-m", "trainkit.azureml", "guide.py"])
    assert prepared["container"]["engine"] == "docker" and prepared["container"]["name"] == TRAINING
    (base,) = prepared["bases"]
    assert re.fullmatch(r"fastdotai/fastai2@sha256:[0-9a-f]{64}", base["digest"])  # what `latest` meant


def test_the_whole_guide_runs_in_the_image_of_its_dockerfile(
    documents: Path, folder: Path, workspace: Any, podman: Engine
) -> None:
    (folder / "Dockerfile").write_text(f"FROM {TRAINING}\n")
    (folder / "guide.py").write_text("import trainkit.azureml\n" + "\n".join(blocks(documents)), encoding="utf-8")
    shown, prepared = trained(workspace, ["guide.py"])
    assert prepared["container"]["engine"] == "podman" and "Hello from custom container!" not in shown
    (base,) = prepared["bases"]
    assert base["name"] == TRAINING and base["digest"].startswith("docker.io/fastdotai/fastai2@sha256:")
