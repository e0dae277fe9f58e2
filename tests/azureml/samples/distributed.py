"""Distributed jobs: an estimator with Horovod, and a ScriptRunConfig with each configuration; all at once."""

import sys

from azureml.core import Environment, Experiment, ScriptRunConfig, Workspace
from azureml.core.conda_dependencies import CondaDependencies
from azureml.core.runconfig import DockerConfiguration, MpiConfiguration, PyTorchConfiguration, RunConfiguration
from azureml.train.dnn import Mpi, PyTorch

ws = Workspace.from_config()
environment = Environment("plain")
environment.python.conda_dependencies = CondaDependencies.create(pip_packages=["azureml-defaults"])
src = ScriptRunConfig(source_directory="code",
                      script="ddp.py",
                      arguments=["--rank", "$RANK", "--local", "$LOCAL_RANK"],
                      compute_target="local",
                      environment=environment,
                      distributed_job_config=PyTorchConfiguration(
                          communication_backend="Gloo", process_count=2, node_count=1),
                      docker_runtime_config=DockerConfiguration(use_docker=False))  # fmt: skip
runs = [Experiment(ws, "ddp").submit(src)]

mpi = MpiConfiguration()  # without arguments, as the first versions had it
mpi.process_count_per_node = 2
run_config = RunConfiguration(conda_dependencies=CondaDependencies())
run_config.target = "local"
run_config.environment.python.user_managed_dependencies = True
run_config.auto_prepare_environment = True
src = ScriptRunConfig(source_directory="code", script="mpi.py", run_config=run_config, distributed_job_config=mpi)
runs.append(Experiment(ws, "mpi").submit(src))

command = "python -c \"from azureml.core import Run; Run.get_context().log('by', 'command')\""
src = ScriptRunConfig(source_directory="code", command=command, compute_target="local")
runs.append(Experiment(ws, "command").submit(src))

if "horovod" in sys.argv:
    estimator = PyTorch(source_directory="code",
                        compute_target="local",
                        script_params={"--epochs": 1},
                        entry_script="horovod_digits.py",
                        node_count=1,
                        distributed_training=Mpi(process_count_per_node=2),
                        use_gpu=False)  # fmt: skip
    runs.append(Experiment(ws, "horovod").submit(estimator))

print("environment:", runs[0].get_environment().name)
for run in runs:
    details = run.wait_for_completion()
    print(run.experiment.name, details["status"], run.get_metrics())
