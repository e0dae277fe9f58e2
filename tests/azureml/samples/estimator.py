"""A generic estimator: submit, look, wait, read, register, download."""

import os
import shutil

import azureml.core
from azureml.core import Experiment, Workspace
from azureml.core.compute import AmlCompute, ComputeTarget
from azureml.core.compute_target import ComputeTargetException
from azureml.core.model import Model
from azureml.exceptions import ModelNotFoundException, ModelPathNotFoundException, WebserviceException
from azureml.telemetry import set_diagnostics_collection
from azureml.train.estimator import Estimator
from azureml.widgets import RunDetails

print("SDK version:", azureml.core.VERSION)
set_diagnostics_collection(send_diagnostics=True)
ws = Workspace.from_config()
print("Workspace name: " + ws.name, "Azure region: " + ws.location, "Subscription id: " + ws.subscription_id,
      "Resource group: " + ws.resource_group, sep="\n")  # fmt: skip

cluster_name = "cpu-cluster"
try:
    compute_target = ComputeTarget(workspace=ws, name=cluster_name)
    print("Found existing compute target.")
except ComputeTargetException:
    print("Creating a new compute target...")
    compute_config = AmlCompute.provisioning_configuration(vm_size="STANDARD_D2_V2", max_nodes=4)
    compute_target = ComputeTarget.create(ws, cluster_name, compute_config)
    compute_target.wait_for_completion(show_output=True)
print(compute_target.get_status().serialize())

project_folder = "./estimator"
os.makedirs(project_folder, exist_ok=True)
for name in ("train.py", "child.py"):
    shutil.copy(os.path.join("code", name), project_folder)

experiment = Experiment(workspace=ws, name="generic")
est = Estimator(source_directory=project_folder,
                script_params={"--data-folder": "./data", "--regularization": 0.8, "--verbose": ""},
                compute_target=compute_target,
                entry_script="train.py")  # fmt: skip
run = experiment.submit(config=est)
print(run)
RunDetails(run).show()
run.wait_for_completion(show_output=True)
RunDetails(run).show()

metrics = run.get_metrics()
best = min(range(4), key=lambda i: metrics["mse"][i])
print(f"best alpha: {metrics['alpha'][best]:.2f}")
for name in run.get_file_names():
    if name.startswith("outputs/"):
        run.download_file(name=name, output_file_path=os.path.join("downloaded", name.split("/")[-1]))
try:
    run.register_model(model_name="ridge", model_path="outputs/nothing.npy")
except ModelPathNotFoundException as error:
    print("Not there:", error.message)
run.register_model(model_name="ridge", model_path="outputs")
model = Model.register(workspace=ws, model_path="downloaded/ridge_0.25.npy", model_name="ridge", tags={"by": "hand"})
print(model.name, model.id, model.version, sep="\t")
print("latest:", Model(ws, name="ridge").version, "of the run:", [m.version for m in Model.list(ws, run_id=run.id)])
Model(ws, "ridge", version=1).download(target_dir="models", exist_ok=True)
try:
    Model(ws, "ridge", version=1).download(target_dir="models")
except WebserviceException as error:
    print("Twice:", error.message)
for wrong in ("a name", "ridge/2"):
    try:
        Model.register(ws, model_path="downloaded", model_name=wrong)
    except WebserviceException as error:
        print("Not registered:", error.message)
try:
    Model(ws, name="unknown")
except ModelNotFoundException:
    print("No such model")
print("scoring:", Model.get_model_path("ridge", _workspace=ws))
model.add_tags({"stage": "tried"})
model.update(description="by hand")
print(model.serialize()["tags"], model.serialize()["description"], model.created_time.year > 2019)
run.download_files(prefix="images/", output_directory="pictures", append_prefix=False)
compute_target.delete()
