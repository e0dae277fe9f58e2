"""The old names inside jobs, where the interpreter has nothing but Python, and where the old SDK is there itself."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from trainkit import Environment, Experiment, Run, ScriptRunConfig, Workspace

SCRIPT = """
import multiprocessing, subprocess, sys
from azureml.core import Run
from azureml.core.run import Run as other
from azureml.exceptions import UserErrorException


def log_from_a_spawned_process(name):
    from azureml.core import Run

    Run.get_context().log(name, 2)


if __name__ == "__main__":
    assert Run is other
    run = Run.get_context()
    run.log("here", 1)
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        pool.map(log_from_a_spawned_process, ["spawned"])
    command = "from azureml.core import Run; Run.get_context().log('started', 3)"
    subprocess.run([sys.executable, "-c", command], check=True)
    try:
        run.log("", 1)
    except UserErrorException as error:
        print(error)
    from azureml.core import Workspace
"""
REAL = """
import azureml.core
print("version", azureml.core.VERSION)
"""


def bare(workspace: Workspace, name: str, **job: object) -> Run:
    """A job in the Python that this virtual environment was made with: it has no package at all."""
    environment = Environment("bare")
    environment.python.interpreter_path = os.path.realpath(sys.executable)
    environment.python.user_managed_dependencies = True
    return Experiment(workspace, name).submit(ScriptRunConfig("code", environment=environment, **job))


def test_jobs_in_an_interpreter_without_trainkit(workspace: Workspace) -> None:
    code = Path("code")
    (code / "azureml" / "core").mkdir(parents=True)
    (code / "azureml" / "__init__.py").touch()
    (code / "azureml" / "core" / "__init__.py").write_text("VERSION = 'the real one'\n")
    (code / "real.py").write_text(REAL)
    real = bare(workspace, "real", script="real.py")
    shutil.rmtree(code / "azureml")
    (code / "train.py").write_text(SCRIPT)
    script = bare(workspace, "script", script="train.py")
    command = bare(workspace, "command", command=["python", "train.py"])
    for run in (script, command):
        details = run.wait_for_completion(raise_on_error=False)
        assert details["status"] == "Failed"
        assert run.get_metrics() == {"here": 1, "spawned": 2, "started": 3}
        log = run.get_details_with_logs()["logFiles"]["azureml-logs/70_driver_log.txt"]
        assert "A metric's name must be a text" in log
        assert "azureml.core.Workspace needs the whole of trainkit" in log
        assert "install trainkit in this image or environment" in log
    assert "azureml.core.Workspace needs the whole of trainkit" in script.get_details()["error"]["text"]
    real.wait_for_completion()
    log = real.get_details_with_logs()["logFiles"]["azureml-logs/70_driver_log.txt"]
    assert "version the real one" in log
    assert "what it logged is not in this run. Take azureml-core out" in log
