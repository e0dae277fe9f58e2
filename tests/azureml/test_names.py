"""The old import names: all that scripts import is there, and says what it is where it is not."""

from __future__ import annotations

import importlib
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import trainkit
from trainkit import errors
from trainkit.boot.oldtable import HOMES, MODULES, REMEDIES
from trainkit.bundle import bundle

# What scripts for the Azure ML SDK v1 import, by module.
IMPORTED = {
    "core": "Workspace Experiment Environment ScriptRunConfig Run Dataset Datastore Model VERSION",
    "core.workspace": "Workspace",
    "core.experiment": "Experiment",
    "core.run": "Run",
    "core.environment": "Environment",
    "core.compute": "ComputeTarget AmlCompute",
    "core.compute_target": "ComputeTargetException",
    "core.conda_dependencies": "CondaDependencies",
    "core.container_registry": "ContainerRegistry",
    "core.runconfig": "RunConfiguration MpiConfiguration PyTorchConfiguration TensorflowConfiguration "
    "ParallelTaskConfiguration DockerConfiguration DEFAULT_CPU_IMAGE DEFAULT_GPU_IMAGE",
    "core.script_run_config": "ScriptRunConfig",
    "core.model": "Model InferenceConfig",
    "core.image": "ContainerImage",
    "core.webservice": "Webservice LocalWebservice AciWebservice",
    "train.estimator": "Estimator",
    "train.dnn": "PyTorch Nccl Gloo Mpi",
    "train.hyperdrive": "RandomParameterSampling GridParameterSampling BayesianParameterSampling BanditPolicy "
    "MedianStoppingPolicy TruncationSelectionPolicy NoTerminationPolicy HyperDriveConfig HyperDriveRun "
    "PrimaryMetricGoal choice uniform quniform loguniform normal randint HyperDriveConfigException",
    "widgets": "RunDetails",
    "telemetry": "set_diagnostics_collection",
    "exceptions": "AzureMLException UserErrorException AuthenticationException ComputeTargetException "
    "TrainingException ExperimentExecutionException RunConfigurationException SnapshotException "
    "RunEnvironmentException WorkspaceException ProjectSystemException ActivityFailedException "
    "ActivityCanceledException ModelNotFoundException ModelPathNotFoundException WebserviceException",
}


@pytest.mark.parametrize("module", IMPORTED)
def test_all_that_scripts_import_is_there(module: str, old_names: None) -> None:
    for name in IMPORTED[module].split():
        found: dict[str, object] = {}
        exec(f"from azureml.{module} import {name}", found)
        ours = getattr(trainkit, name, None)
        if ours is not None and name not in REMEDIES:
            assert found[name] is ours, name


def test_the_whole_table_resolves(old_names: None) -> None:
    for module, names in MODULES.items():
        for name in names:
            assert getattr(importlib.import_module(module), name) is not None
    assert not HOMES.keys() & REMEDIES.keys()


def test_the_ways_to_import(old_names: None) -> None:
    import azureml.core
    import azureml.core as core
    import azureml.train.hyperdrive
    from azureml import train
    from azureml.core import compute

    assert azureml.core is core and train.hyperdrive is azureml.train.hyperdrive
    assert core.VERSION.endswith(trainkit.__version__) and int(core.VERSION.split(".")[1]) > 0
    assert azureml.core.compute.AmlCompute is compute.AmlCompute is trainkit.AmlCompute  # never imported by name
    found: dict[str, object] = {}
    exec("from azureml.train.dnn import *", found)
    assert found["PyTorch"] is trainkit.PyTorch
    assert {"Workspace", "compute"} <= set(dir(core))
    assert importlib.reload(core) is core


def test_classes_are_the_same_from_everywhere(old_names: None) -> None:
    from azureml.core import Run, compute_target, runconfig
    from azureml.core.run import Run as other
    from azureml.exceptions import AzureMLException, ComputeTargetException, ModelNotFoundException, WebserviceException

    assert Run is other is trainkit.Run
    assert compute_target.ComputeTargetException is ComputeTargetException is errors.ComputeTargetException
    with pytest.raises(AzureMLException) as caught:
        raise errors.ComputeTargetException("there is none")
    assert caught.value.message == "there is none"
    assert issubclass(ModelNotFoundException, WebserviceException)
    configuration = runconfig.MpiConfiguration()
    configuration.process_count_per_node = 3
    assert pickle.loads(pickle.dumps(configuration)) == configuration
    assert pickle.loads(pickle.dumps(runconfig.RunConfiguration)) is trainkit.RunConfiguration


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("from azureml.core import Workspce", "did you mean azureml.core.Workspace?"),
        ("from azureml.core import MpiConfiguration", "it is in azureml.core.runconfig"),
        ("import azureml.cor", "did you mean azureml.core?"),
        ("from azureml.nothing.known import anything", "trainkit has no azureml.nothing: no name is like it"),
        ("import azureml._restclient.snapshots_client", "trainkit has no azureml._restclient"),
    ],
)
def test_an_unknown_name_names_the_nearest(code: str, words: str, old_names: None) -> None:
    with pytest.raises(ImportError) as refused:
        exec(code)
    assert words in str(refused.value)


def test_an_unknown_attribute_is_no_attribute(old_names: None) -> None:
    import azureml.core

    assert not hasattr(azureml.core, "RunScripts") and not hasattr(azureml.core, "__file__")
    with pytest.raises(AttributeError, match=r"did you mean azureml\.core\.ScriptRunConfig\?"):
        azureml.core.ScriptRunConfigs  # noqa: B018


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("core.Dataset.File.from_files('x')", "Dataset.File cannot be used .* data's path in `arguments`"),
        ("hyperdrive.RandomParameterSampling({})", "RandomParameterSampling .* one job for each set of values"),
        ("hyperdrive.uniform(0.1, 0.2)", "uniform cannot be used"),
        ("hyperdrive.PrimaryMetricGoal.MAXIMIZE", "PrimaryMetricGoal.MAXIMIZE cannot be used"),
        ("model.InferenceConfig(entry_script='score.py')", "InferenceConfig .* trainkit.export.to_onnx"),
        ("core.Model.deploy(None, 'birds', [], overwrite=True)", "Model.deploy cannot .*to_onnx .*`trainkit predict`"),
        ("webservice.LocalWebservice.deploy_configuration(port=6789)", "deploy_configuration cannot be used"),
        ("runconfig.TensorflowConfiguration(worker_count=2)", "MpiConfiguration starts"),
        ("runconfig.ParallelTaskConfiguration()", "SpreadConfiguration"),
        ("core.Keyvault()", "Run.get_secret"),
    ],
)
def test_what_is_not_built_says_so_when_it_is_used(code: str, words: str, old_names: None) -> None:
    import azureml.core as core
    from azureml.core import model, runconfig, webservice
    from azureml.train import hyperdrive

    names = {"core": core, "model": model, "runconfig": runconfig, "webservice": webservice, "hyperdrive": hyperdrive}
    with pytest.raises(errors.UserErrorException, match=words):
        exec(code, names)
    assert not isinstance(1, core.Dataset)  # asking costs nothing


def test_what_has_no_meaning_is_accepted(workspace: trainkit.Workspace, old_names: None) -> None:
    from azureml.core import Workspace
    from azureml.core.authentication import InteractiveLoginAuthentication, ServicePrincipalAuthentication
    from azureml.core.run import Run, _OfflineRun
    from azureml.telemetry import set_diagnostics_collection

    set_diagnostics_collection(send_diagnostics=True)
    secret = ServicePrincipalAuthentication("tenant", "id", service_principal_password="pass" + "word")
    assert vars(secret) == {} and "password" not in repr(secret)
    login = InteractiveLoginAuthentication(tenant_id="tenant")
    asked = {"subscription_id": "0b5c", "resource_group": "lab"}
    assert Workspace.get("tests", auth=login, **asked) == Workspace.from_config(auth=login) == workspace
    assert Workspace(workspace_name="tests", auth=login, **asked) == workspace
    assert Workspace.list("0b5c") == {"tests": [workspace]}
    assert Workspace.create("tests", exist_ok=True, location="westeurope", key_vault=None, **asked) == workspace
    assert workspace.datastores == workspace.datasets == workspace.webservices == {}
    for unable in (workspace.get_default_datastore, workspace.get_default_keyvault):
        with pytest.raises(errors.UserErrorException, match="cannot be used with trainkit"):
            unable()
    assert not isinstance(Run.get_context(), _OfflineRun)  # it is whole: metrics can be read back


PROBE = """
import sys
sys.path.insert(0, sys.argv[1])
before = set(sys.modules)
from trainkit.boot import oldnames
oldnames.install({})
from azureml.core import Run
from azureml.core.run import Run as other
from azureml.exceptions import AzureMLException, UserErrorException
from azureml.core.compute_target import ComputeTargetException
from azureml.core import Dataset
import trainkit.azureml
assert Run is other and issubclass(ComputeTargetException, AzureMLException) and Run.get_submitted_run
try:
    Dataset.get_by_name(None, "x")
except UserErrorException as error:
    print(error)
for code in ("from azureml.core import Run, Workspace", "from azureml.train.dnn import PyTorch",
             "from trainkit import Run, Workspace"):
    try:
        exec(code)
    except ImportError as error:
        print(error)
print({"difflib", "subprocess", "multiprocessing", "socket", "logging"} & set(sys.modules) - before or "light")
"""


def _interpreters() -> list[str]:
    """Every Python of this machine that may be an image's: one for each version from 3.8 on."""
    there = [shutil.which(f"python3.{minor}") for minor in range(8, 16)]
    managed = sorted((Path.home() / ".pyenv" / "versions").glob("3.*/bin/python"))
    found = {"this": os.path.realpath(sys.executable)}  # outside its virtual environment
    for path in [*filter(None, there), *map(str, managed)]:
        name = subprocess.run([path, "-c", "import sys; print(*sys.version_info[:2])"], capture_output=True, text=True)
        if name.returncode == 0 and (version := tuple(map(int, name.stdout.split()))) >= (3, 8):
            found.setdefault(".".join(map(str, version)), path)
    return list(found.values())


def test_what_travels_has_the_names_that_travel(tmp_path: Path) -> None:
    zipped = bundle(tmp_path)
    asked = [
        subprocess.Popen([python, "-I", "-c", PROBE, zipped], text=True, stdout=subprocess.PIPE, cwd=tmp_path)
        for python in _interpreters()
    ]
    for python in asked:
        told, _ = python.communicate(timeout=60)
        assert python.returncode == 0, python.args
        later, *missing, weight = told.splitlines()
        assert "Dataset.get_by_name cannot be used with trainkit" in later
        assert len(missing) == 3 and all("install trainkit in " in line for line in missing)
        assert weight == "light"
