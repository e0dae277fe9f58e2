"""`python -m trainkit.azureml`, and what the programs that it runs start in their turn."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainkit import Experiment, Workspace

PROGRAM = """
import multiprocessing, subprocess, sys
import azureml.core
from azureml.core import Run


def in_a_spawned_process(number):
    from azureml.core.run import Run

    return Run.__module__


if __name__ == "__main__":
    print(sys.argv, sys.path[0])
    other = "import azureml.core as c; from azureml.train.dnn import PyTorch; print(c.VERSION, PyTorch.__module__)"
    subprocess.run([sys.executable, "-c", other], check=True)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        print(pool.map(in_a_spawned_process, [1]))
    if "fail" in sys.argv:
        raise ValueError("the program's own")
    sys.exit(7)
"""


def run(folder: Path, *words: str, path: str = "") -> subprocess.CompletedProcess[str]:
    """`python -m trainkit.azureml` with these words in a folder."""
    return subprocess.run(
        [sys.executable, "-m", "trainkit.azureml", *words],
        cwd=folder, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with the program in it."""
    (tmp_path / "jobs" / "azureml").mkdir(parents=True)  # a folder of that name is no package
    (tmp_path / "jobs" / "azureml" / "job.yml").touch()
    (tmp_path / "jobs" / "old.py").write_text(PROGRAM)
    return tmp_path


def test_a_program_runs_as_python_runs_it(folder: Path) -> None:
    done = run(folder, "jobs/old.py", "--lr", "0.1")
    assert done.returncode == 7, done.stderr
    first, child, spawned = done.stdout.splitlines()
    assert first == f"{['jobs/old.py', '--lr', '0.1']} {folder / 'jobs'}"
    assert child.endswith("trainkit.estimators.pytorch") and spawned == "['trainkit.run']"
    assert done.stderr == ""


def test_a_module_and_its_traceback(folder: Path) -> None:
    done = run(folder, "-m", "jobs.old", "fail")
    assert done.returncode == 1
    assert done.stdout.splitlines()[0] == f"{[str(folder / 'jobs' / 'old.py'), 'fail']} {folder}"
    head, place, *_, last = done.stderr.splitlines()
    assert head == "Traceback (most recent call last):" and last == "ValueError: the program's own"
    assert place.startswith(f'  File "{folder / "jobs" / "old.py"}", line ')


@pytest.mark.parametrize(
    ("end", "code", "words"),
    [
        ("raise SystemExit('no good')", 1, "no good"),
        ("raise KeyboardInterrupt", -signal.SIGINT, "KeyboardInterrupt"),
        ("def f(:", 1, "SyntaxError"),
    ],
)
def test_how_a_program_ends_is_told_and_recorded(end: str, code: int, words: str, workspace: Workspace) -> None:
    Path("old.py").write_text("from azureml.core import Run\nRun.get_context().log('here', 1)\n" + end)
    done = run(Path.cwd(), "old.py")
    assert done.returncode == code
    assert words in done.stderr and "azureml/__main__.py" not in done.stderr
    ended = list(Experiment(workspace, "old").get_runs())
    assert len(ended) == (words != "SyntaxError")
    assert all(one.status == "Failed" for one in ended)


@pytest.mark.parametrize(
    ("words", "told"), [((), "usage:"), (("nowhere.py",), "there is no file"), (("-x",), "usage:")]
)
def test_wrong_usage(words: tuple[str, ...], told: str, tmp_path: Path) -> None:
    done = run(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert told in done.stderr


def test_the_sdk_itself_comes_first(tmp_path: Path) -> None:
    core = tmp_path / "installed" / "azureml" / "core"
    core.mkdir(parents=True)
    (core.parent / "__init__.py").touch()
    (core / "__init__.py").write_text("VERSION = 'the real one'\n")
    (tmp_path / "old.py").write_text(
        "import subprocess, sys\nimport azureml.core\nprint(azureml.core.VERSION)\n"
        "try:\n    import azureml.train.dnn\nexcept ModuleNotFoundError as error:\n    print(error)\n"
        "subprocess.run([sys.executable, '-c', 'import azureml.core as c; print(c.VERSION)'], check=True)\n"
    )
    done = run(tmp_path, "old.py", path=str(core.parents[1]))
    assert done.stdout.splitlines() == ["the real one", "No module named 'azureml.train'", "the real one"]
    assert f"the Azure ML SDK is installed here ({core / '__init__.py'})" in done.stderr


def test_beside_a_part_of_the_sdk_the_rest_is_trainkits(tmp_path: Path) -> None:
    part = tmp_path / "installed" / "azureml" / "mlflow"
    part.mkdir(parents=True)
    (part.parent / "__init__.py").touch()
    (part / "__init__.py").write_text("PART = 1\n")
    (tmp_path / "core").mkdir()  # what is called as a module of it elsewhere is none of it
    (tmp_path / "core" / "__init__.py").touch()
    (tmp_path / "old.py").write_text(
        "import azureml.mlflow\nfrom azureml.core import Run\nprint(azureml.mlflow.PART, Run.__module__)\n"
        "try:\n    import azureml.mlflow.more\nexcept ModuleNotFoundError as error:\n    print(error)\n"
    )
    done = run(tmp_path, "old.py", path=str(part.parents[1]))
    assert done.stdout.splitlines() == ["1 trainkit.run", "No module named 'azureml.mlflow.more'"], done.stderr
    assert done.stderr == ""
