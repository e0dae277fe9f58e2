"""Networks: weights that fit entry by entry, what is frozen, and errors that name the way out."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from trainkit import UserErrorException
from trainkit.export import architectures
from trainkit_recipes.birds.models import build_model, groups, in_order, preprocessing


@pytest.fixture(scope="module")
def lite0(tmp_path_factory: pytest.TempPathFactory) -> torch.nn.Module:
    return build_model("efficientnet_lite0", 3, "packaged", tmp_path_factory.mktemp("none"))


def test_packaged_weights_are_of_a_network_that_sees(lite0: torch.nn.Module) -> None:
    """Wrongly mapped weights have statistics that do not belong to their layer: features explode or vanish."""
    scores = lite0.eval()(torch.rand(2, 3, 128, 128) * 2 - 1)
    assert scores.shape == (2, 3) and not scores.any(), "the last layer is new and starts at nothing"
    with torch.inference_mode():
        features = lite0.forward_features(torch.rand(2, 3, 128, 128) * 2 - 1)  # type: ignore[operator]
    assert 0.01 < float(features.std()) < 10


def test_the_early_layers_stay_and_the_last_learns_fastest(lite0: torch.nn.Module) -> None:
    slow, fast = groups("efficientnet_lite0", lite0, 0.001, 2.0, 6.0)
    assert slow["lr"] == pytest.approx(0.002) and fast["lr"] == pytest.approx(0.006)
    assert [tuple(p.shape) for p in fast["params"]] == [(3, 1280), (3,)]
    assert not any(p.requires_grad for p in lite0.get_submodule("blocks.2").parameters())
    assert all(p.requires_grad for p in lite0.get_submodule("blocks.3").parameters())
    learning = [p for p in lite0.parameters() if p.requires_grad]
    assert len(slow["params"]) + len(fast["params"]) == len(learning)


def test_weights_map_by_order_with_checked_shapes() -> None:
    wanted = {"x.weight": torch.zeros(2, 3), "x.bias": torch.zeros(2)}
    found = in_order({"a.weight": torch.ones(2, 3), "a.bias": torch.ones(2)}, wanted)
    assert list(found) == list(wanted) and bool(found["x.bias"].all())
    with pytest.raises(UserErrorException, match=r"a\.weight \(3, 2\) does not fit the network's x\.weight \(2, 3\)"):
        in_order({"a.weight": torch.ones(3, 2), "a.bias": torch.ones(2)}, wanted)
    with pytest.raises(UserErrorException, match="does not fit"):
        in_order({"a.bias": torch.ones(2), "a.weight": torch.ones(2, 3)}, wanted)
    with pytest.raises(UserErrorException, match="1 entries, the network has 2"):
        in_order({"a.weight": torch.ones(2, 3)}, wanted)


def test_unknown_weights_are_refused(tmp_path: Path) -> None:
    with pytest.raises(
        UserErrorException, match="resnet18 has no weights named 'packaged'; choose one of imagenet, none"
    ):
        build_model("resnet18", 2, "packaged", tmp_path)


def test_fetched_weights_are_kept_and_read_without_a_network(tmp_path: Path) -> None:
    known = architectures.build("resnet18", 1000).state_dict()
    (tmp_path / "weights").mkdir()
    torch.save(known, tmp_path / "weights" / "resnet18-f37072fd.pth")
    model = build_model("resnet18", 2, "", tmp_path)
    assert torch.equal(model.state_dict()["conv1.weight"], known["conv1.weight"])
    assert model.state_dict()["fc.weight"].shape == (2, 512)


def test_pictures_are_never_enlarged() -> None:
    assert preprocessing("efficientnet_lite0", 600).size == 256
    assert preprocessing("efficientnet_lite0", 128).size == 128
    assert preprocessing("resnet18", 200).size == 192
    assert preprocessing("resnet18", 5).size == 32
    lite0 = preprocessing("efficientnet_lite0", 224)
    assert lite0.mean[0] * 255 == pytest.approx(127) and lite0.std[0] * 255 == pytest.approx(128)
