"""A training script as they were written for the old SDK: logs all there is to log, in one process."""

import argparse
import json
import os

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from azureml.core import Experiment, Run, ScriptRunConfig

parser = argparse.ArgumentParser()
parser.add_argument("--data-folder", type=str, dest="data_folder", help="data folder mounting point")
parser.add_argument("--regularization", type=float, dest="reg", default=0.01, help="regularization rate")
parser.add_argument("--verbose", action="store_true")
args = parser.parse_args()
assert args.verbose and args.data_folder == "./data"

run = Run.get_context()
ws = run.experiment.workspace
print("This is", run.id, "of", run.experiment.name, "in", ws.name, flush=True)

rng = np.random.default_rng(0)
x = rng.normal(size=(200, 3))
y = x @ [1.0, -2.0, 0.5] + rng.normal(scale=0.1, size=200)
os.makedirs("./outputs", exist_ok=True)
for alpha in np.arange(0.0, 1.0, 0.25):
    weights = np.linalg.solve(x.T @ x + alpha * np.eye(3), x.T @ y)
    mse = np.mean((x @ weights - y) ** 2)
    run.log("alpha", alpha)
    run.log("mse", mse)
    np.save("weights.npy", weights)
    run.upload_file(name=f"outputs/ridge_{alpha:.2f}.npy", path_or_stream="weights.npy")

# --- metrics of every kind
run.log("regularization", args.reg, description="as it was given")
run.log(name="status", value="trained")
run.log_list("Fibonacci", [0, 1, 1, 2, 3, 5, 8])
for angle in (0.0, 0.5, 1.0):
    run.log_row("Cosine Wave", angle=angle, cos=np.cos(angle))
run.log_table("Sine Wave", {"angle": [0.0, 0.5], "sine": [0.0, 0.479]})
plt.plot(y, x @ weights, "o")
run.log_image("predicted", plot=plt)
figure = plt.figure()
figure.savefig("residuals.png")
run.log_image(name="residuals as a file", path="residuals.png")
matrix = {"schema_type": "confusion_matrix", "schema_version": "v1", "parameters": {},
          "data": {"class_labels": ["0", "1"], "matrix": [[80, 20], [10, 90]]}}  # fmt: skip
run.log_confusion_matrix("Confusion matrix", json.dumps(matrix))
rates = {"probability_tables": [[[1, 2, 3, 4]]], "probability_thresholds": [0.5], "class_labels": ["0"]}
table = {"schema_type": "accuracy_table", "schema_version": "v1", "data": rates}
run.log_accuracy_table("Accuracy table", table)
run.log_residuals("Residuals", {"schema_type": "residuals", "schema_version": "v1",
                                "data": {"bin_edges": [50, 100, 200], "bin_counts": [0.88, 20]}})  # fmt: skip
run.log_predictions("Predictions", {"schema_type": "predictions", "schema_version": "v1",
                                    "data": {"bin_averages": [0.25, 0.75], "bin_counts": [10, 20]}})  # fmt: skip

# --- runs below this one
with run.child_run("first fold") as child:
    child.log("score", 0.9)
for fold in run.create_children(tag_key="fold", tag_values=["second", "third"]):
    fold.log("score", 0.8)
    fold.complete()
small = ScriptRunConfig(source_directory=".", script="child.py", arguments=["--score", 0.7])
small.run_config.target = "local"
submitted = run.submit_child(small)
submitted.wait_for_completion(show_output=False)
print("children:", sorted(each.get_status() for each in run.get_children()))
assert submitted.parent.id == run.id and isinstance(submitted.experiment, Experiment)

# --- what is said of the run, and the model
run.tag("quality", "fantastic run")
run.set_tags({"rate": args.reg, "more": None})
run.add_properties({"author": "azureml-user"})
model = run.register_model(model_name="ridge-in-job", model_path="outputs/ridge_0.75.npy", tags={"area": "lines"})
print("registered", model.name, model.id, model.version, sep="\t")
