"""Programs in the shapes of the old SDK's public samples, as they were written for it: every import is azureml's.

`samples/` has the programs, `samples/code/` the scripts that they submit. All run at once, in one workspace.
"""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from PIL import Image

from trainkit import Experiment, Model, Run, Workspace

SAMPLES = Path(__file__).parent / "samples"
WITH_HOROVOD = ["horovod"] if importlib.util.find_spec("horovod") else []


class Played:
    """What the programs have left: the workspace, and what each has printed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.workspace = Workspace.create("samples", path=folder)
        self._programs = {name: self._start(name) for name in ("estimator", "distributed")}

    def _start(self, name: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "trainkit.azureml", f"{name}.py", *WITH_HOROVOD]
        return subprocess.Popen(command, cwd=self.folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)

    def printed(self, name: str) -> str:
        """What a program has printed, once it has ended well."""
        program = self._programs[name]
        output, _ = program.communicate(timeout=280)
        assert program.returncode == 0, output
        return output

    def close(self) -> None:
        """End what still runs."""
        for program in self._programs.values():
            if program.poll() is None:
                program.kill()
            program.communicate()

    def run(self, experiment: str) -> Run:
        """The experiment's newest run."""
        return next(Experiment(self.workspace, experiment).get_runs())


@pytest.fixture(scope="module")
def played(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Played]:
    """All programs of the folder, started at once."""
    folder = tmp_path_factory.mktemp("samples") / "here"
    shutil.copytree(SAMPLES, folder, ignore=shutil.ignore_patterns("__pycache__"))
    programs = Played(folder)
    yield programs
    programs.close()


def test_a_generic_estimator(played: Played) -> None:
    told = played.printed("estimator")
    run = played.run("generic")
    for words in (
        "SDK version: 1.", "Creating a new compute target...", "'provisioningState': 'Succeeded'", "Status: NotStarted",
        f"Goes on: run.wait_for_completion(show_output=True), or `trainkit logs -f {run.id}`.",
        f"This is {run.id} of generic in samples", "children: ['Completed', 'Completed', 'Completed', 'Completed']",
        "Execution Summary", "The end of azureml-logs/70_driver_log.txt:", "mse: ", "best alpha: ",
        "Not there: Could not locate the provided model_path outputs/nothing.npy", "ridge\tridge:2\t2",
        "latest: 2 of the run: [1, 1]", "Twice: File already exists", "No such model", "scoring: ",
        "{'by': 'hand', 'stage': 'tried'} by hand True",
    ):  # fmt: skip
        assert words in told
    assert told.count("Not registered: Error, provided model name is invalid.") == 2
    assert {path.suffix for path in (played.folder / "pictures").iterdir()} == {".png"}
    downloaded = sorted(path.name for path in (played.folder / "downloaded").iterdir())
    assert downloaded == [f"ridge_{alpha}.npy" for alpha in ("0.00", "0.25", "0.50", "0.75")]
    assert [path.name for path in (played.folder / "models").rglob("ridge_0.50.npy")] == ["ridge_0.50.npy"]
    assert run.get_tags() == {"quality": "fantastic run", "rate": "0.8", "more": None, "heard from": "child"}
    assert run.get_properties()["author"] == "azureml-user"
    assert Model(played.workspace, "ridge-in-job").tags == {"area": "lines"}


def test_metrics_of_every_kind_are_read_back(played: Played) -> None:
    played.printed("estimator")
    run = played.run("generic")
    found = run.get_metrics()
    assert found["alpha"] == [0.0, 0.25, 0.5, 0.75] and len(found["mse"]) == 4
    assert (found["regularization"], found["status"]) == (0.8, "trained")
    assert found["Fibonacci"] == [0, 1, 1, 2, 3, 5, 8]
    assert found["Cosine Wave"]["angle"] == [0.0, 0.5, 1.0] and found["Cosine Wave"]["cos"][0] == 1.0
    assert found["Sine Wave"] == {"angle": [0.0, 0.5], "sine": [0.0, 0.479]}
    assert found["Confusion matrix"]["data"]["matrix"] == [[80, 20], [10, 90]]
    for name, kind in (
        ("Accuracy table", "accuracy_table"),
        ("Residuals", "residuals"),
        ("Predictions", "predictions"),
    ):
        assert found[name]["schema_type"] == kind and found[name]["data"]
    for name in ("predicted", "residuals as a file"):
        path = run.download_file(found[name], str(played.folder / "pictures" / f"{name}.png"))
        assert Image.open(path).size == (640, 480)
    children = {child.id: child for child in run.get_children()}
    whole = run.get_metrics(recursive=True)
    assert set(whole) == {run.id, *children}
    assert sorted(whole[one]["score"] for one in children) == [0.7, 0.8, 0.8, 0.9]
    assert sorted(child.type for child in children.values()) == ["azureml.interactive"] * 3 + ["azureml.scriptrun"]
    assert {child.get_tags().get("fold") for child in children.values()} == {None, "second", "third"}


@pytest.mark.engine
def test_each_configuration_of_a_script(played: Played) -> None:
    told = played.printed("distributed")
    assert all(f"{name} Completed" in told for name in ("ddp", "mpi", "command"))
    assert "environment: plain" in told
    ddp = played.run("ddp")
    assert ddp.get_metrics(rank="all") == {rank: {"gradient": 32.0, "world": 2} for rank in (0, 1)}
    assert "outputs/cifar_net.pt" in ddp.get_file_names()
    assert played.run("mpi").get_metrics(rank="all") == {rank: {"sum": 3, "master": True} for rank in (0, 1)}
    assert played.run("command").get_metrics() == {"by": "command"}


@pytest.mark.engine
@pytest.mark.skipif(not WITH_HOROVOD, reason="Horovod is not installed; scripts/build-horovod builds it")
def test_pytorch_with_horovod(played: Played) -> None:
    assert "horovod Completed" in played.printed("distributed")
    run = played.run("horovod")
    metrics = run.get_metrics(rank="all")
    assert [metrics[rank]["rank"] for rank in (0, 1)] == [0, 1]
    assert metrics[0]["weights"] == metrics[1]["weights"]
    assert metrics[0]["loss"] != metrics[1]["loss"] and len(metrics[0]["loss"]) == 2
    (log,) = (path for path in run.get_all_logs(played.folder / "logs") if path.endswith("70_driver_log.txt"))
    assert "Test set: Average loss" in Path(log).read_text()


CELLS = (
    "import trainkit.azureml",
    "from azureml.core import Experiment, Workspace\n"
    "import matplotlib.pyplot as plt\n"
    "ws = Workspace.from_config()\n"
    "experiment = Experiment(workspace=ws, name='notebook')\n"
    "run = experiment.start_logging()\n"
    "run",
    "for step in range(3):\n    run.log('loss', 1 / (step + 1))\nplt.plot([1, 2, 3])\nrun.log_image('curve', plot=plt)",
    "from azureml.widgets import RunDetails\nRunDetails(run).show()",
    "with run.child_run(name='fold') as child:\n    child.log('score', 1)\n"
    "with open('outputs/model.txt', 'w') as file:\n    file.write('weights')\n"
    "run.upload_file('notes.txt', 'outputs/model.txt').serialize()\n"
    "run.take_snapshot('./')\nrun.complete()\nrun.log('late', 1)\nrun.get_status()",
    "model = run.register_model(model_name='model', model_path='outputs/model.txt')\nmodel.name, model.version",
    "with experiment.start_logging(snapshot_directory=None) as failing:\n    failing.log('before', 1)\n    1 / 0",
)


def test_start_logging_in_a_notebook(played: Played) -> None:
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(text) for text in CELLS])
    folder = played.folder / "notebook"
    folder.mkdir()
    client = NotebookClient(notebook, timeout=120, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        client.execute()
    assert "Status: Running" in notebook.cells[3].outputs[0].text
    assert notebook.cells[4].outputs[0].data["text/plain"] == "'Completed'"
    assert notebook.cells[5].outputs[0].data["text/plain"] == "('model', 1)"
    failed, completed = Experiment(played.workspace, "notebook").get_runs()
    assert completed.id in notebook.cells[1].outputs[0].data["text/plain"]
    assert completed.get_metrics() == {"loss": [1.0, 0.5, 1 / 3], "curve": "images/curve_1.png", "late": 1}
    assert completed.get_file_names() == ["images/curve_1.png", "notes.txt", "outputs/model.txt"]
    assert [child.get_metrics() for child in completed.get_children()] == [{"score": 1}]
    assert (failed.get_status(), failed.get_metrics()) == ("Failed", {"before": 1})
    assert "ZeroDivisionError" in failed.get_details()["error"]["text"]
