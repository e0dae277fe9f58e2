"""The table of the Azure ML SDK v1's import names: which module has which, what each is here, what is not built yet.

Names only: nothing is imported. `trainkit.boot.oldnames` makes modules of it.
"""

from __future__ import annotations

from typing import Dict, List, Tuple

VERSION = "1.61.0"  # of the SDK whose names these are

_ERRORS = """AzureMLException UserErrorException AuthenticationException ComputeTargetException TrainingException
    ExperimentExecutionException RunConfigurationException SnapshotException RunEnvironmentException
    WorkspaceException ProjectSystemException ActivityFailedException ActivityCanceledException
    ModelNotFoundException ModelPathNotFoundException WebserviceException ServiceException
    DiscoveryUrlNotFoundException AzureMLAggregatedException"""
_CREDENTIALS = "InteractiveLoginAuthentication ServicePrincipalAuthentication MsiAuthentication AzureCliAuthentication"
_SERVICES = "Webservice LocalWebservice AciWebservice AksWebservice AksEndpoint"
_SAMPLINGS = "HyperParameterSampling RandomParameterSampling GridParameterSampling BayesianParameterSampling"
_POLICIES = """EarlyTerminationPolicy BanditPolicy MedianStoppingPolicy TruncationSelectionPolicy
    NoTerminationPolicy"""
_SPACES = "choice randint uniform quniform loguniform qloguniform normal qnormal lognormal qlognormal"
_SWEEPS = "HyperDriveConfig HyperDriveRunConfig HyperDriveRun PrimaryMetricGoal %s %s %s" % (
    _SAMPLINGS, _POLICIES, _SPACES,
)  # fmt: skip
_CLOUDS = """RemoteCompute AksCompute ComputeInstance BatchCompute DsvmCompute HDInsightCompute DatabricksCompute
    SynapseCompute AdlaCompute DataFactoryCompute KustoCompute"""
_IMAGES = "DEFAULT_CPU_IMAGE DEFAULT_GPU_IMAGE"
_PIPELINES = "Pipeline PipelineData PipelineParameter PublishedPipeline StepSequence"
_STEPS = "PythonScriptStep EstimatorStep HyperDriveStep DataTransferStep ParallelRunStep ParallelRunConfig"

_MODULES: Dict[str, str] = {
    "azureml": "",
    "azureml.core": """Workspace Experiment Environment ScriptRunConfig Run Model RunConfiguration ComputeTarget
        ContainerRegistry ScriptRun get_run Dataset Datastore Webservice Image Keyvault VERSION __version__""",
    "azureml.core.authentication": _CREDENTIALS,
    "azureml.core.compute": "ComputeTarget AmlCompute KubernetesCompute " + _CLOUDS,
    "azureml.core.compute.aks": "AksCompute",
    "azureml.core.compute.amlcompute": "AmlCompute AmlComputeProvisioningConfiguration AmlComputeStatus",
    "azureml.core.compute.compute": "ComputeTarget",
    "azureml.core.compute.computeinstance": "ComputeInstance",
    "azureml.core.compute.kubernetescompute": "KubernetesCompute",
    "azureml.core.compute.remote": "RemoteCompute",
    "azureml.core.compute_target": "ComputeTargetException",
    "azureml.core.conda_dependencies": "CondaDependencies",
    "azureml.core.container_registry": "ContainerRegistry",
    "azureml.core.databricks": "PyPiLibrary",
    "azureml.core.dataset": "Dataset",
    "azureml.core.datastore": "Datastore",
    "azureml.core.environment": "Environment CondaDependencies DockerSection DockerBuildContext PythonSection "
    + _IMAGES,
    "azureml.core.experiment": "Experiment",
    "azureml.core.image": "ContainerImage Image",
    "azureml.core.keyvault": "Keyvault",
    "azureml.core.model": "Model InferenceConfig",
    "azureml.core.resource_configuration": "ResourceConfiguration",
    "azureml.core.run": "Run get_run _OfflineRun",
    "azureml.core.runconfig": """RunConfiguration MpiConfiguration PyTorchConfiguration TensorflowConfiguration
        ParallelTaskConfiguration DockerConfiguration DataReferenceConfiguration EnvironmentDefinition Environment
        CondaDependencies ContainerRegistry MPI_CPU_IMAGE MPI_GPU_IMAGE """
    + _IMAGES,
    "azureml.core.script_run": "ScriptRun",
    "azureml.core.script_run_config": "ScriptRunConfig",
    "azureml.core.webservice": _SERVICES,
    "azureml.core.workspace": "Workspace",
    "azureml.data": "FileDataset TabularDataset OutputFileDatasetConfig",
    "azureml.data.data_reference": "DataReference",
    "azureml.data.datapath": "DataPath DataPathComputeBinding",
    "azureml.data.output_dataset_config": "OutputFileDatasetConfig",
    "azureml.data.dataset_factory": "FileDatasetFactory TabularDatasetFactory",
    "azureml.exceptions": _ERRORS,
    "azureml.pipeline": "",
    "azureml.pipeline.core": _PIPELINES,
    "azureml.pipeline.steps": _STEPS,
    "azureml.tensorboard": "Tensorboard",
    "azureml.telemetry": "set_diagnostics_collection",
    "azureml.train": "",
    "azureml.train.automl": "AutoMLConfig",
    "azureml.train.dnn": "PyTorch Nccl Gloo Mpi TensorFlow Chainer ParameterServer",
    "azureml.train.estimator": "Estimator",
    "azureml.train.hyperdrive": _SWEEPS + " HyperDriveConfigException",
    "azureml.train.hyperdrive.exceptions": "HyperDriveConfigException",
    "azureml.train.hyperdrive.parameter_expressions": _SPACES,
    "azureml.train.hyperdrive.policy": _POLICIES,
    "azureml.train.hyperdrive.run": "HyperDriveRun",
    "azureml.train.hyperdrive.runconfig": "HyperDriveConfig HyperDriveRunConfig PrimaryMetricGoal",
    "azureml.train.hyperdrive.sampling": _SAMPLINGS,
    "azureml.train.sklearn": "SKLearn",
    "azureml.widgets": "RunDetails",
}
MODULES: Dict[str, List[str]] = {module: names.split() for module, names in _MODULES.items()}

_HOMES: Dict[str, str] = {  # the module of trainkit, ":" and the name there where that is another one
    "attached:AttachedCompute": "KubernetesCompute",
    "azureml.rest": "set_diagnostics_collection get_run " + _IMAGES,
    "azureml.rest:DEFAULT_CPU_IMAGE": "MPI_CPU_IMAGE",
    "azureml.rest:DEFAULT_GPU_IMAGE": "MPI_GPU_IMAGE",
    "azureml.rest:Credentials": _CREDENTIALS,
    "azureml.widgets": "RunDetails",
    "compute": "ComputeTarget AmlCompute",
    "compute:ProvisioningConfiguration": "AmlComputeProvisioningConfiguration",
    "environment": "Environment CondaDependencies ContainerRegistry DockerSection DockerBuildContext PythonSection",
    "environment:Environment": "EnvironmentDefinition",
    "errors": _ERRORS + " HyperDriveConfigException",
    "errors:TrainkitError": "AzureMLException",
    "estimators": "Estimator PyTorch Nccl Gloo Mpi",
    "experiment": "Experiment",
    "model": "Model",
    "provisioning": "AmlComputeStatus",
    "run": "Run ScriptRun",
    "runconfig": """ScriptRunConfig RunConfiguration MpiConfiguration PyTorchConfiguration DockerConfiguration""",
    "workspace": "Workspace",
}
HOMES: Dict[str, str] = {name: home for home, names in _HOMES.items() for name in names.split()}

_REMEDIES: Tuple[Tuple[str, str], ...] = (  # names that can be imported but not used, and what they say
    (
        """Dataset Datastore FileDataset TabularDataset OutputFileDatasetConfig DataReference DataPath
        DataPathComputeBinding FileDatasetFactory TabularDatasetFactory DataReferenceConfiguration""",
        "data sets are not built yet: give the script the data's path in `arguments` or `script_params`",
    ),
    (
        "InferenceConfig ContainerImage Image ResourceConfiguration " + _SERVICES,
        "deployment is not built yet: trainkit.export.to_onnx writes a checked file that onnxruntime serves anywhere, "
        "and `trainkit predict` asks it, as a file or as a registered model (Model.register)",
    ),
    (_SWEEPS, "sweeps are not built yet: submit one job for each set of values, in a loop over Experiment.submit"),
    (
        _PIPELINES + " " + _STEPS,
        "pipelines are not built: call Experiment.submit and Run.wait_for_completion for each step in turn",
    ),
    (
        _CLOUDS,
        "a cloud's machines do not exist here: attach a cluster with ComputeTarget.attach(ws, name, launcher)",
    ),
    (
        "TensorflowConfiguration ParameterServer",
        "parameter servers are not built: MpiConfiguration starts the ranks of Horovod, TensorFlow's too",
    ),
    (
        "ParallelTaskConfiguration",
        "tasks with retries of their own are not built: SpreadConfiguration('fork', N) starts N processes on each "
        "node, and max_restarts= starts a job again that has failed",
    ),
    (
        "TensorFlow Chainer SKLearn",
        "there is no estimator for this framework: Estimator(..., pip_packages=[...]) runs any script",
    ),
    ("Tensorboard", "`tensorboard --logdir` on the folder logs/ of Run.directory shows what a script writes there"),
    ("AutoMLConfig", "automated machine learning is not built: submit a script that searches, as with scikit-learn"),
    ("PyPiLibrary", "Databricks is not reached from here: Environment(name, pip_packages=[...]) names packages"),
    ("_OfflineRun", "a script that is started by hand gets a whole run from Run.get_context()"),
    (
        "Keyvault",
        "there is no key vault here: Run.get_secret reads a secret from an environment variable or the machine's "
        "keyring",
    ),
)
REMEDIES: Dict[str, str] = {name: remedy for names, remedy in _REMEDIES for name in names.split()}
