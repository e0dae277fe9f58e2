"""A classifier goes into one ONNX file, agrees with PyTorch, and predicts from that file alone."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn

from trainkit.errors import ExportError, TrainkitError, UserErrorException
from trainkit.export import architectures
from trainkit.export.checkpoint import checkpoint_of, load_checkpoint
from trainkit.export.onnx import to_onnx, to_onnx_file
from trainkit.export.predict import Classifier, as_text, predict, softmax
from trainkit.export.preprocessing import Preprocessing
from trainkit.model import Model

SMALL = Preprocessing(resize=36, size=32)
NAMES = ("ant", "bee", "Zaunkönig 🐦")


def tiny(classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    return nn.Sequential(*layers, nn.Dropout(0.5), nn.Linear(8, classes))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(1)
    for i in range(9):
        Image.fromarray(random.integers(0, 256, (40 + i, 60, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    return sorted(folder.iterdir())


@dataclass(frozen=True)
class Exported:
    path: Path
    model: nn.Module
    report: Any


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory, pictures: list[Path]) -> Iterator[Exported]:
    folder = tmp_path_factory.mktemp("exported")
    model = tiny().train()
    inputs = torch.stack([torch.from_numpy(SMALL.read(path)) for path in pictures])
    path = folder / "model.onnx"
    report = to_onnx(model, inputs[:1], path, class_names=NAMES, preprocessing=SMALL, check_inputs=inputs)
    assert model.training, "the caller's model is as it was"
    assert os.listdir(folder) == ["model.onnx"], "one file"
    yield Exported(path, model.eval(), report)


def test_the_report(exported: Exported) -> None:
    report = exported.report
    assert report.max_difference <= 1e-4 and report.batches == (1, 2, 7)
    assert report.bytes == exported.path.stat().st_size and report.class_names == NAMES
    assert json.loads(json.dumps(report.to_json()))["max_difference"] == report.max_difference
    assert "differs from PyTorch by at most" in str(report) and "9 given inputs" in str(report)


def test_the_file_describes_itself(exported: Exported) -> None:
    model = onnx.load(exported.path)
    onnx.checker.check_model(model, full_check=True)
    properties = {each.key: each.value for each in model.metadata_props}
    assert tuple(json.loads(properties["trainkit.class_names"])) == NAMES
    assert Preprocessing.from_json(json.loads(properties["trainkit.preprocessing"])) == SMALL
    assert properties["trainkit.output"] == "logits"
    dims = model.graph.input[0].type.tensor_type.shape.dim
    assert dims[0].dim_param == "batch" and [dim.dim_value for dim in dims[1:]] == [3, 32, 32]


def test_the_file_tells_nothing_of_this_machine(exported: Exported) -> None:
    data = exported.path.read_bytes()
    for trace in (b"site-packages", str(Path.cwd()).encode(), b"stack_trace", b'File "'):
        assert trace not in data


def test_predictions_are_those_of_pytorch(exported: Exported, pictures: list[Path]) -> None:
    found = predict(exported.path, pictures)
    for path, each in zip(pictures, found, strict=True):
        with torch.no_grad():
            logits = exported.model(torch.from_numpy(SMALL.read(path))[None])
        expected = dict(zip(NAMES, logits.softmax(1)[0].tolist(), strict=True))
        assert each.path == str(path)
        assert dict(zip(each.labels, each.probabilities, strict=True)) == pytest.approx(expected, abs=1e-5)
        assert sum(each.probabilities) == pytest.approx(1) and each.probability == max(each.probabilities)
        assert list(each.probabilities) == sorted(each.probabilities, reverse=True)
        values = json.loads(json.dumps(each.to_json()))
        assert values["label"] == each.label and set(values["probabilities"]) == set(NAMES)
    text = as_text(found, most=2).splitlines()
    assert len(text) == 9 and text[0].startswith(f"{pictures[0]}: {found[0].label} ") and text[0].count("%") == 2


def test_more_pictures_than_a_batch(exported: Exported, pictures: list[Path]) -> None:
    classifier = Classifier(exported.path, threads=1)
    many = classifier.predict(pictures * 8)
    assert [each.label for each in many] == [each.label for each in predict(exported.path, pictures)] * 8
    assert classifier.predict([]) == [] and predict(exported.path, pictures[0])[0] == many[0]


def test_a_bad_picture_is_named(exported: Exported, pictures: list[Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(pictures[0].read_bytes()[:500])
    with pytest.raises(UserErrorException, match="bad.jpg cannot be read as a picture"):
        predict(exported.path, [pictures[0], bad])


def test_softmax_of_anything_finite() -> None:
    rows = softmax(np.array([[1e4, -1e4, 0], [-3e38, 3e38, 3e38], [0, 0, 0]], dtype=np.float32))
    assert np.allclose(rows, [[1, 0, 0], [0, 0.5, 0.5], [1 / 3, 1 / 3, 1 / 3]])


def test_predicting_needs_no_torch(exported: Exported, pictures: list[Path]) -> None:
    code = """if True:
        import sys
        class Forbidden:
            def find_spec(self, name, path=None, target=None):
                if name.split(".")[0] in ("torch", "torchvision", "onnx", "timm", "onnxscript"):
                    raise AssertionError(name + " was imported")
        sys.meta_path.insert(0, Forbidden())
        from trainkit.export import Classifier
        print(Classifier(sys.argv[1]).predict(sys.argv[2:])[0].label)
    """
    words = [sys.executable, "-c", code, str(exported.path), str(pictures[0])]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == predict(exported.path, pictures[:1])[0].label.strip()


def damaged(exported: Exported, path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(ExportError) as caught:
        predict(path, [])
    assert str(path) in caught.value.message and "\n" not in caught.value.message
    return caught.value.message


@settings(max_examples=40, deadline=None)
@given(part=st.floats(0, 0.9999))
def test_a_cut_off_model_is_one_error(exported: Exported, part: float) -> None:
    data = exported.path.read_bytes()
    damaged(exported, exported.path.with_name("cut.bin"), data[: int(len(data) * part)])


def test_what_is_no_model_is_one_error(exported: Exported, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    assert "is empty" in damaged(exported, path, b"")
    assert "damaged or cut off" in damaged(exported, path, b"not a model at all")
    assert "damaged or cut off" in damaged(exported, path, os.urandom(4000))
    assert "is a PyTorch file" in damaged(exported, path, pickle.dumps({"a": 1}))
    torch.save(tiny().state_dict(), path)
    assert "is a PyTorch file" in damaged(exported, path, path.read_bytes())
    with pytest.raises(ExportError, match="cannot be read"):
        predict(tmp_path / "missing.onnx", [])
    with pytest.raises(ExportError, match="cannot be read"):
        predict(tmp_path, [])


def test_metadata_must_fit_the_network(exported: Exported, tmp_path: Path) -> None:
    def changed(**texts: str) -> bytes:
        model = onnx.load(exported.path)
        for each in model.metadata_props:
            each.value = texts.get(each.key.split(".")[1], each.value)
        data: bytes = model.SerializeToString()
        return data

    path = tmp_path / "model.onnx"
    assert "contradicts itself" in damaged(exported, path, changed(class_names='["a", "b"]'))
    other = json.dumps(Preprocessing(256, 224).to_json())
    assert "contradicts itself" in damaged(exported, path, changed(preprocessing=other))
    for bad in ("", "{", "[]", "[1, 2, 3]", '"abc"'):
        assert "damaged metadata" in damaged(exported, path, changed(class_names=bad))
        assert "damaged metadata" in damaged(exported, path, changed(preprocessing=bad))
    model = onnx.load(exported.path)
    del model.metadata_props[:]
    assert "was not exported by trainkit" in damaged(exported, path, model.SerializeToString())


def test_weights_that_are_not_finite_are_refused(exported: Exported, pictures: list[Path], tmp_path: Path) -> None:
    model = onnx.load(exported.path)
    for each in model.graph.initializer:
        if each.data_type == onnx.TensorProto.FLOAT:
            each.raw_data = np.full(len(each.raw_data) // 4, np.nan, np.float32).tobytes()
    onnx.save(model, tmp_path / "nan.onnx")
    with pytest.raises(ExportError, match="not finite"):
        predict(tmp_path / "nan.onnx", pictures)


class Disagrees(nn.Module):
    """Computes something else while it is exported."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) + (1e-3 if torch.compiler.is_exporting() else 0.0)


class Diverged(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean((2, 3)) * float("nan")


class FixedBatch(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.reshape(2, 3 * 32 * 32)[:, :3]


class Raises(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise RuntimeError("the model's own trouble")


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (Disagrees(), r"disagrees with PyTorch by 1.0e-03 on a batch of 1; at most 1e-04"),
        (Diverged(), "not finite"),
        (FixedBatch(), "cannot be exported to ONNX"),
        (Raises(), "cannot be exported to ONNX"),
        (tiny(classes=4), "3 class names"),
    ],
)
def test_what_is_refused_leaves_no_file(tmp_path: Path, model: nn.Module, words: str) -> None:
    with pytest.raises(ExportError, match=words):
        to_onnx(model, torch.rand(2, 3, 32, 32), tmp_path / "m.onnx", class_names=NAMES, preprocessing=SMALL)
    assert os.listdir(tmp_path) == []


def test_wrong_arguments_are_refused_before_anything(tmp_path: Path) -> None:
    good: dict[str, Any] = {"class_names": NAMES, "preprocessing": SMALL}
    image = torch.rand(1, 3, 32, 32)
    for sample, path, changes, words in [
        (image[0], "m.onnx", {}, "N x 3 x 32 x 32"),
        (torch.rand(1, 3, 30, 32), "m.onnx", {}, "N x 3 x 32 x 32"),
        (image, "m.onnx", {"check_inputs": image[:0]}, "N x 3 x 32 x 32"),
        (image, "m.onnx", {"class_names": "abc"}, "list of names"),
        (image, "m.onnx", {"class_names": []}, "list of names"),
        (image, "m.onnx", {"class_names": ["a", "b", "a"]}, "name twice"),
        (image, "missing/m.onnx", {}, "does not exist"),
    ]:
        with pytest.raises(ExportError, match=words):
            to_onnx(tiny(), sample, tmp_path / path, **{**good, **changes})
    assert os.listdir(tmp_path) == []


def test_a_folder_in_the_place_of_the_file(tmp_path: Path) -> None:
    (tmp_path / "m.onnx").mkdir()
    with pytest.raises(ExportError, match="cannot be written"):
        to_onnx(tiny(), torch.rand(1, 3, 32, 32), tmp_path / "m.onnx", class_names=NAMES, preprocessing=SMALL)
    assert os.listdir(tmp_path) == ["m.onnx"]


def checkpoint(**changes: Any) -> dict[str, Any]:
    classes = ["chicken", "turkey"]
    weights = architectures.build("resnet18", 2).state_dict()
    preprocessing = Preprocessing(resize=72, size=64).to_json()
    values = {"model": "resnet18", "classes": classes, "preprocessing": preprocessing, "state_dict": weights}
    return {key: value for key, value in {**values, **changes}.items() if value is not None}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("trained") / "model.pt"
    torch.manual_seed(0)
    torch.save(checkpoint(), path)
    return path


def test_from_a_recipes_checkpoint_to_a_prediction(trained: Path, pictures: list[Path], tmp_path: Path) -> None:
    report = to_onnx_file(trained, tmp_path / "model.onnx", images=pictures)
    assert report.inputs == "7 pictures" and report.class_names == ("chicken", "turkey")
    classifier = Classifier(tmp_path / "model.onnx")
    assert classifier.metadata["trainkit.architecture"] == "resnet18"
    module = load_checkpoint(trained).module()
    [found] = classifier.predict(pictures[:1])
    with torch.no_grad():
        expected = module(torch.from_numpy(classifier.preprocessing.read(pictures[0]))[None]).softmax(1)[0]
    assert found.probability == pytest.approx(float(expected.max()), abs=1e-5)
    with pytest.raises(UserErrorException, match="There is no picture"):
        to_onnx_file(trained, tmp_path / "other.onnx", images=[tmp_path / "missing.png"])
    assert os.listdir(tmp_path) == ["model.onnx"]


class Planted:
    """Pickles as a call of `open(path, "w")`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (str(self.path), "w")


def test_code_in_a_checkpoint_never_runs(tmp_path: Path) -> None:
    trap = tmp_path / "it ran"
    torch.save(checkpoint(model=Planted(trap)), tmp_path / "code.pt")
    (tmp_path / "plain.pt").write_bytes(pickle.dumps(Planted(trap)))
    torch.save(tiny(), tmp_path / "whole.pt")
    for name in ("code.pt", "plain.pt", "whole.pt"):
        with pytest.raises(ExportError, match=f"{name} is refused: it holds more than weights"):
            to_onnx_file(tmp_path / name, tmp_path / "m.onnx")
    assert not trap.exists() and not (tmp_path / "m.onnx").exists()


def test_a_damaged_checkpoint_is_one_error(trained: Path, tmp_path: Path) -> None:
    data = trained.read_bytes()
    for i, part in enumerate((b"", data[:100], data[: len(data) // 2], data[:-10], b"text", os.urandom(1000))):
        path = tmp_path / f"{i}.pt"
        path.write_bytes(part)
        with pytest.raises(ExportError, match=f"{i}.pt is (refused|not a PyTorch file)") as caught:
            load_checkpoint(path)
        assert "\n" not in caught.value.message
    for missing in (tmp_path / "missing.pt", tmp_path):
        with pytest.raises(ExportError):
            load_checkpoint(missing)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": None}, "has no model"),
        ({"state_dict": None, "classes": None}, "has no classes, state_dict"),
        ({"model": 3}, "model is the name"),
        ({"classes": []}, "classes is a list of names"),
        ({"classes": [1, 2]}, "classes is a list of names"),
        ({"preprocessing": {}}, "Preprocessing has the values"),
        ({"state_dict": [1]}, "state_dict is not a dictionary"),
        ({"state_dict": {"a": 1}}, "state_dict is not a dictionary"),
        ({"model": "resnet99"}, "no network 'resnet99' here, only efficientnet_lite0, resnet18, resnet34"),
        ({"model": "resnet34"}, "weights are not those of resnet34"),
        ({"classes": ["one"]}, "weights are not those of resnet18 with 1 classes"),
    ],
)
def test_a_wrong_checkpoint_says_what_is_wrong(tmp_path: Path, changes: dict[str, Any], words: str) -> None:
    torch.save(checkpoint(**changes), tmp_path / "model.pt")
    with pytest.raises(TrainkitError, match=words):
        load_checkpoint(tmp_path / "model.pt").module()


def test_a_checkpoint_is_found_in_a_registered_model(trained: Path, tmp_path: Path) -> None:
    @dataclass(frozen=True)
    class Space:
        root: Path

    space: Any = Space(tmp_path / "root")
    folder = tmp_path / "outputs"
    folder.mkdir()
    (folder / "notes.txt").write_text("n")
    with pytest.raises(ExportError, match="Which file"):
        checkpoint_of(Model.register(space, folder, "birds"))
    (folder / "model.pt").write_bytes(trained.read_bytes())
    assert checkpoint_of(Model.register(space, folder, "birds")).read_bytes() == trained.read_bytes()
    (folder / "last.pt").write_bytes(b"x")
    assert checkpoint_of(Model.register(space, folder, "birds")).name == "model.pt"


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "efficientnet_lite0"])
def test_architectures_by_name(name: str) -> None:
    if name == "efficientnet_lite0":
        pytest.importorskip("timm", reason="timm is not installed (extra: recipes)")
    model = architectures.build(name, 5).eval()
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 5)
