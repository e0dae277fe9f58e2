"""The whole way in one go: submit, train on two ranks, register, export, check, predict.

    python -m trainkit_recipes.birds.demo [--folder demo] [--epochs 6]

Everything it does is the public API, in the order in which a user meets it.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from trainkit import Experiment, MpiConfiguration, PyTorch, Run, TrainkitError, Workspace
from trainkit.export import Classifier, to_onnx_file
from trainkit_recipes.birds.sample import sample_picture

EPOCHS = 6
RANKS = 2
RECIPE = Path(__file__).parent


def submit(workspace: Workspace, epochs: int) -> Run:
    """The recipe's own train.py, on two ranks under mpirun."""
    estimator = PyTorch(
        source_directory=str(RECIPE),
        entry_script="train.py",
        script_params={"--num_epochs": epochs, "--data": "sample"},
        compute_target="local",
        distributed_training=MpiConfiguration(process_count_per_node=RANKS),
    )
    return Experiment(workspace, "birds").submit(estimator)


def latest(run: Run) -> dict[str, Any]:
    """The newest values of the table that a loop logs every second; empty before the first."""
    table = run.get_metrics("progress").get("progress") or {}
    columns = {name: column if isinstance(column, list) else [column] for name, column in table.items()}
    return {name: next((v for v in reversed(column) if v is not None), 0.0) for name, column in columns.items()}


def follow(run: Run, console: Console) -> None:
    """Show the run's own numbers while it trains; raises ActivityFailedException if it fails."""
    numbers = "loss {task.fields[loss]:.3f}  accuracy {task.fields[accuracy]:.3f}  {task.fields[speed]:.0f} images/s"
    columns = (
        TextColumn("            {task.description}"), BarColumn(24), TextColumn(numbers),
        TimeRemainingColumn(compact=True), TextColumn("left"),
    )  # fmt: skip
    with Progress(*columns, console=console, refresh_per_second=4) as bar:
        task = bar.add_task("starting", total=1.0, loss=0.0, accuracy=0.0, speed=0.0)
        while run.get_status() not in ("Completed", "Failed", "Canceled"):
            now = latest(run)
            if now:
                words = f"epoch {now['epoch'] + 1}/{now['epochs']} {now['phase']:<5}"
                known = run.get_metrics("val_acc").get("val_acc", 0.0)  # a list from the second epoch on
                accuracy = known[-1] if isinstance(known, list) else known
                speed, loss = now["samples_per_second"], now.get("loss", 0.0)
                bar.update(task, description=words, completed=now["done"], loss=loss, accuracy=accuracy, speed=speed)
            time.sleep(0.3)
    run.wait_for_completion()


def main() -> int:
    """Run it, and say what to try next."""
    parser = argparse.ArgumentParser(description="Train, register, export and use a classifier of birds.")
    parser.add_argument("--folder", type=Path, default=Path("demo"), help="where the workspace and the results go")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    args = parser.parse_args()
    console = Console(highlight=False)
    try:
        demo(args.folder.resolve(), args.epochs, console)
    except TrainkitError as error:
        console.print(f"[red]{type(error).__name__}[/]: {error.message}", markup=True)
        return 1
    return 0


def demo(folder: Path, epochs: int, console: Console) -> None:
    """The steps, one after the other."""
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    workspace = Workspace.create("demo", path=str(folder), exist_ok=True)
    run = submit(workspace, epochs)
    console.print(f"[bold]1 submit[/]    {run.id}: {RANKS} ranks under mpirun on this machine")
    follow(run, console)
    metrics = run.get_metrics()
    accuracy = metrics["val_acc"][-1] if isinstance(metrics["val_acc"], list) else metrics["val_acc"]
    console.print(f"[bold]2 train[/]     validation accuracy {accuracy:.3f} after the last epoch")

    model = run.register_model("birds", "outputs/")
    console.print(f"[bold]3 register[/]  {model.name}, version {model.version}")

    pictures = [sample_picture(folder / f"{kind}.png", kind) for kind in ("chicken", "turkey")]
    report = to_onnx_file(run.directory / "outputs" / "model.pt", folder / "birds.onnx", pictures)
    console.print(f"[bold]4 export[/]    birds.onnx differs from PyTorch by at most {report.max_difference:.1e}")

    (found,) = Classifier(folder / "birds.onnx").predict(pictures[1:])
    console.print(f"[bold]5 predict[/]   turkey.png is a {found.label} ({found.probability:.1%})\n")

    console.print(f"run    {run.directory}\nmodel  {model.id}: {folder / 'birds.onnx'}")
    console.print(f"took   {time.monotonic() - started:.0f} s\n\nnext:\n  cd {folder}")
    for line in (
        f"trainkit show {run.id}",
        f"trainkit logs {run.id} --rank 1",
        "trainkit predict birds.onnx chicken.png",
    ):
        console.print(f"  {line}")


if __name__ == "__main__":
    raise SystemExit(main())
