"""trainkit export, predict: ONNX files."""

from __future__ import annotations

from pathlib import Path

import click

from trainkit.cli import find, output
from trainkit.cli.codes import NotFound
from trainkit.errors import ModelNotFoundException, ModelPathNotFoundException, UserErrorException


@click.command()
@click.argument("model")
@click.option("--run", "run", metavar="RUN", help="MODEL is a file of this run, such as outputs/model.pt.")
@click.option("-o", "--output", "target", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
              help="Where to.  [default: the model's name with .onnx]")  # fmt: skip
@click.option("-i", "--image", "images", multiple=True, type=click.Path(path_type=Path), metavar="IMAGE",
              help="Compare with PyTorch on this picture too; may be given more than once.")  # fmt: skip
@click.option("--force", is_flag=True, help="Write over a file that exists.")
@output.json_option
def export(
    model: str, run: str | None, target: Path | None, images: tuple[Path, ...], force: bool, as_json: bool
) -> None:
    """Turn a trained MODEL into one ONNX file, checked against PyTorch.

    MODEL is a checkpoint file, a file of a run with --run, or a registered model: NAME or NAME:VERSION.

    \b
    Examples:
      trainkit export outputs/model.pt --run last
      trainkit export birds:2 -o birds.onnx --image hen.jpg
    """
    source, name = _checkpoint(model, run)
    target = target or Path(name + ".onnx")
    if target.exists() and not force:
        raise UserErrorException(f"{target} exists already; --force writes over it, -o names another file.")
    from trainkit.export import to_onnx_file

    report = to_onnx_file(source, target, images)
    output.emit(report.to_json(), as_json, str(report))


def _checkpoint(model: str, run: str | None) -> tuple[Path, str]:
    """The checkpoint file that is meant, and a name for what is made of it."""
    from trainkit.boot.rundir import RunDir

    if run is not None:
        directory = find.run_dir(find.root(), run)
        names = find.run(directory.name).get_file_names()
        if model not in names:
            raise NotFound(
                f"{directory.name} has no file {model!r}; `trainkit files {directory.name}` lists what it has."
            )
        files = RunDir(directory)
        inside = files.path / model if model.startswith(("outputs/", "logs/")) else files.uploads / model
        return inside, Path(model).stem
    if Path(model).is_file():
        return Path(model), Path(model).stem
    if model.endswith((".pt", ".pth")):
        raise NotFound(f"There is no file {model}; `--run RUN` takes it from a run.")
    from trainkit.cli.models import registered
    from trainkit.export.checkpoint import checkpoint_of

    try:
        found = registered(model)
    except ModelNotFoundException as e:
        raise NotFound(f"{model!r} is neither a file nor a registered model. {e.message}") from e
    return checkpoint_of(found), found.name


@click.command()
@click.argument("model")
@click.argument("images", nargs=-1, required=True, metavar="IMAGE...", type=click.Path(path_type=Path))
@click.option("-k", "--top", type=click.IntRange(1), default=3, show_default=True, help="Labels to print for each.")
@output.json_option
def predict(model: str, images: tuple[Path, ...], top: int, as_json: bool) -> None:
    """Classify IMAGEs with MODEL, an ONNX file that `trainkit export` made, or a registered model that holds one.

    \b
    Examples:
      trainkit predict model.onnx hen.jpg turkey.jpg
      trainkit predict birds:2 *.jpg --json
    """
    from trainkit.export.predict import as_text
    from trainkit.export.predict import predict as classify

    found = classify(_onnx(model), images)
    output.emit([prediction.to_json() for prediction in found], as_json, as_text(found, top))


def _onnx(model: str) -> Path:
    """The ONNX file that is meant."""
    path = Path(model)
    if path.exists():
        return path
    if path.suffix == ".onnx":
        raise NotFound(f"There is no file {model}; `trainkit export` makes one.")
    from trainkit.cli.models import registered

    found = registered(model)
    files = [name for name in found.files if name.endswith(".onnx")]
    if len(files) != 1:
        raise ModelPathNotFoundException(
            f"Model {found.id} has {len(files)} ONNX files among {', '.join(found.files)}; `trainkit export "
            f"{found.id}` makes one."
        )
    return found.verified(files[0])
