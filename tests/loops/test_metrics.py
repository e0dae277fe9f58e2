from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, confusion_matrix, top_k_accuracy_score
from torch import Tensor, nn

from trainkit import UserErrorException
from trainkit.loops.metrics import Accuracy, ConfusionMatrix, ErrorRate, MeanLoss, Metric, TopK


def parts_of(metric: Metric, outputs: Tensor, targets: Tensor, cuts: list[int]) -> Any:
    """The value over batches that end at `cuts`."""
    ends = [0, *sorted(cuts), len(outputs)]
    sums = [metric.sums(outputs[a:b], targets[a:b]) for a, b in zip(ends, ends[1:], strict=False) if a < b]
    assert all(each.dtype == torch.float64 and each.dim() == 1 for each in sums)
    return metric.value(torch.stack(sums).sum(0))


@given(count=st.integers(1, 60), classes=st.integers(3, 6), seed=st.integers(0, 999), data=st.data())
def test_values_are_those_of_scikit_learn_whatever_the_batches_are(
    count: int, classes: int, seed: int, data: st.DataObject
) -> None:
    rng = torch.Generator().manual_seed(seed)
    outputs = torch.randn(count, classes, generator=rng)
    targets = torch.randint(classes, (count,), generator=rng)
    cuts = data.draw(st.lists(st.integers(0, count), max_size=5))
    labels, best = list(range(classes)), outputs.argmax(1)
    assert parts_of(Accuracy(), outputs, targets, cuts) == accuracy_score(targets, best)
    assert parts_of(ErrorRate(), outputs, targets, cuts) == (best != targets).sum().item() / count
    top = top_k_accuracy_score(targets, outputs.double(), k=2, labels=labels)
    assert parts_of(TopK(2), outputs, targets, cuts) == top
    matrix = parts_of(ConfusionMatrix(classes), outputs, targets, cuts)
    assert matrix.dtype == torch.int64 and np.array_equal(matrix, confusion_matrix(targets, best, labels=labels))
    loss = parts_of(MeanLoss(nn.CrossEntropyLoss()), outputs, targets, cuts)
    assert loss == pytest.approx(nn.functional.cross_entropy(outputs.double(), targets).item(), rel=1e-6)


def test_names_are_what_is_logged() -> None:
    metrics: list[Metric] = [Accuracy(), ErrorRate(), TopK(5), ConfusionMatrix(2), MeanLoss(nn.MSELoss())]
    names = ["accuracy", "error_rate", "top5_accuracy", "confusion_matrix", "loss"]
    assert [metric.name for metric in metrics] == names
    assert MeanLoss(nn.L1Loss(), "mae").name == "mae"


@pytest.mark.parametrize("outputs", [torch.tensor([2.0, -1.0, 0.5]), torch.tensor([[2.0], [-1.0], [0.5]])])
@pytest.mark.parametrize(
    "targets", [torch.tensor([1, 1, 1]), torch.tensor([[1.0], [1.0], [1.0]]), torch.tensor([True, True, True])]
)
def test_two_classes_may_have_one_logit(outputs: Tensor, targets: Tensor) -> None:
    assert Accuracy().value(Accuracy().sums(outputs, targets)) == 2 / 3
    matrix = ConfusionMatrix(2)
    assert matrix.value(matrix.sums(outputs, targets)).tolist() == [[0, 0], [1, 2]]


def test_pixels_count_one_by_one() -> None:
    outputs = torch.zeros(2, 3, 2, 2)
    outputs[:, 1] = 1.0
    targets = torch.tensor([[[1, 1], [1, 0]], [[2, 1], [1, 1]]])
    assert Accuracy().sums(outputs, targets).tolist() == [6, 8]
    assert TopK(1).sums(outputs, targets).tolist() == [6, 8]
    assert ConfusionMatrix(3).sums(outputs, targets).tolist() == [0, 1, 0, 0, 6, 0, 0, 1, 0]


@pytest.mark.parametrize(
    ("metric", "outputs", "targets", "said"),
    [
        (Accuracy(), torch.zeros(4, 3), torch.zeros(4), "not outputs .4, 3. of torch.float32 and targets .4."),
        (Accuracy(), torch.zeros(4, 3), torch.zeros(4, 3), "targets .4, 3. of torch.float32"),
        (Accuracy(), torch.zeros(4, 3), torch.zeros(5, dtype=torch.long), "targets .5."),
        (Accuracy(), torch.zeros(4, 1), torch.zeros(4, 2), "logits .N, C, ....* or logits .N. or .N, 1."),
        (ErrorRate(), [1, 2], torch.zeros(2), "ErrorRate takes logits .* outputs of <class 'list'>"),
        (TopK(2), torch.zeros(4), torch.zeros(4, dtype=torch.long), "TopK.2. takes"),
        (TopK(4), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), "needs logits of 4 classes, not of 3"),
        (ConfusionMatrix(4), torch.zeros(4, 3), torch.zeros(4, dtype=torch.long), "got logits of 3 classes"),
        (ConfusionMatrix(3), torch.zeros(4), torch.zeros(4, dtype=torch.long), "got logits of 2 classes"),
        (ConfusionMatrix(3), torch.zeros(2, 3), torch.tensor([0, 3]), "targets from 0 to 3.* 0 to 2"),
        (ConfusionMatrix(3), torch.zeros(2, 3), torch.tensor([0, -1]), "targets from -1 to 0"),
        (MeanLoss(nn.MSELoss(reduction="none")), torch.zeros(2), torch.zeros(2), "one number for a batch, not .2."),
        (MeanLoss(lambda o, t: o.sum()), torch.zeros(2), None, "hold no tensor"),
    ],
)
def test_what_cannot_be_measured_is_refused(metric: Metric, outputs: Any, targets: Any, said: str) -> None:
    with pytest.raises(UserErrorException, match=said):
        metric.sums(outputs, targets)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3"])
def test_impossible_numbers_of_classes_are_refused(number: Any) -> None:
    with pytest.raises(UserErrorException, match="whole number"):
        TopK(number)
    with pytest.raises(UserErrorException, match="number of classes"):
        ConfusionMatrix(number)


@pytest.mark.parametrize(
    "loss",
    [
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3])),
        nn.CrossEntropyLoss(weight=torch.tensor([1.0, 5.0, 0.3]), ignore_index=1, label_smoothing=0.1),
        nn.CrossEntropyLoss(ignore_index=2),
        nn.NLLLoss(weight=torch.tensor([1.0, 5.0, 0.3])),
        nn.CrossEntropyLoss(),
    ],
)
def test_a_weighted_mean_is_that_of_one_big_batch(loss: nn.Module) -> None:
    rng = torch.Generator().manual_seed(1)
    outputs, targets = torch.randn(40, 3, generator=rng), torch.randint(3, (40,), generator=rng)
    targets[:6] = torch.tensor([1, 1, 1, 2, 2, 2])  # a batch in which each is ignored
    assert parts_of(MeanLoss(loss), outputs, targets, [3, 6, 17]) == pytest.approx(loss(outputs, targets).item(), 1e-6)


def test_losses_of_nests_and_sums() -> None:
    def pair(outputs: Tensor, targets: dict[str, Tensor]) -> Tensor:
        return (outputs - targets["a"]).abs().mean()

    metric = MeanLoss(pair)
    assert metric.sums(torch.ones(4), {"a": torch.zeros(4)}).tolist() == [4, 4]
    added = MeanLoss(nn.MSELoss(reduction="sum"))
    assert added.value(added.sums(torch.full((4,), 3.0), torch.zeros(4))) == 9


def test_a_diverged_loss_stays_visible() -> None:
    metric = MeanLoss(nn.MSELoss())
    assert math.isnan(metric.value(metric.sums(torch.tensor([float("nan")]), torch.zeros(1))))


def test_no_samples_have_no_value() -> None:
    assert all(math.isnan(metric.value(torch.zeros(2).double())) for metric in (Accuracy(), ErrorRate(), TopK(1)))
