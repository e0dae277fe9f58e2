"""Numbers that say how good a model is, exact over any number of batches and ranks.

A metric turns a batch into sums, a float64 vector on the outputs' device that adds up over batches and ranks, and the
added sums into its value. Counts are whole numbers, which float64 adds without rounding up to 2**53. `sums` never waits
for a GPU; `value` does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from trainkit.errors import UserErrorException


@runtime_checkable
class Metric(Protocol):
    """What a loop measures; logged as `name`, of validation data as "val_" + `name`."""

    name: str

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """What one batch adds: a float64 vector, of the same length for each batch."""

    def value(self, sums: Tensor) -> float | Tensor:
        """What the sums of all batches of all ranks mean."""


def plus(sums: Tensor | None, more: Tensor) -> Tensor:
    """The sums of what was seen so far, None for nothing, and of what came after."""
    return more if sums is None else sums + more


class Accuracy:
    """The part of the samples whose class is predicted rightly, 0 to 1. Logged as `name`.

    Outputs are logits [N, C] and targets classes [N], or [N, C, ...] and [N, ...] for a class for each pixel or token;
    for two classes also logits [N] or [N, 1], above 0 for class 1, and targets [N] or [N, 1] of 0 and 1 in any type.
    Raises UserErrorException for other shapes.
    """

    def __init__(self, name: str = "accuracy") -> None:
        self.name = name

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """How many are right, and how many there are."""
        predicted, classes = _classes(outputs, targets, type(self).__name__)
        return _counted((predicted == classes).count_nonzero(), classes.numel())

    def value(self, sums: Tensor) -> float:
        """NaN where there were no samples."""
        return _quotient(sums)


class ErrorRate(Accuracy):
    """The part of the samples whose class is predicted wrongly: 1 - Accuracy. Logged as `name`."""

    def __init__(self, name: str = "error_rate") -> None:
        super().__init__(name)

    def value(self, sums: Tensor) -> float:
        """NaN where there were no samples."""
        right, count = sums.tolist()
        return (count - right) / count if count else float("nan")


class TopK:
    """The part of the samples whose class is among the `k` largest logits. Logged as "top5_accuracy" for k=5.

    Outputs are logits [N, C, ...] of at least `k` classes, targets classes [N, ...]. Raises UserErrorException else.
    """

    def __init__(self, k: int) -> None:
        if isinstance(k, bool) or not isinstance(k, int) or k < 1:
            raise UserErrorException(f"TopK(k) needs a whole number of classes from 1 on, not {k!r}.")
        self.k, self.name = k, f"top{k}_accuracy"

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """How many are among the k, and how many there are."""
        _check(outputs, targets, f"TopK({self.k})", binary=False)
        if outputs.shape[1] < self.k:
            raise UserErrorException(f"TopK({self.k}) needs logits of {self.k} classes, not of {outputs.shape[1]}.")
        best = outputs.detach().topk(self.k, dim=1).indices
        return _counted((best == targets.unsqueeze(1)).count_nonzero(), targets.numel())

    def value(self, sums: Tensor) -> float:
        """NaN where there were no samples."""
        return _quotient(sums)


class ConfusionMatrix:
    """How often each class was taken for each: rows are the true classes, columns the predicted ones.

    Logged as "confusion_matrix"; its value is an int64 tensor [classes, classes] on the CPU. Outputs and targets are
    those of `Accuracy`. Raises UserErrorException for other shapes and, on the CPU, for classes out of range.
    """

    name = "confusion_matrix"

    def __init__(self, classes: int) -> None:
        if isinstance(classes, bool) or not isinstance(classes, int) or classes < 2:
            raise UserErrorException(f"ConfusionMatrix(classes) needs the number of classes, 2 or more: {classes!r}.")
        self.classes = classes

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """The matrix, row by row."""
        predicted, classes = _classes(outputs, targets, f"ConfusionMatrix({self.classes})")
        found = outputs.shape[1] if outputs.dim() == classes.dim() + 1 and outputs.shape[1] > 1 else 2
        if found != self.classes:
            raise UserErrorException(f"ConfusionMatrix({self.classes}) got logits of {found} classes.")
        cells = classes.flatten().long() * self.classes + predicted.flatten()
        # torch.bincount would wait for the GPU to learn how long its result is.
        matrix = torch.zeros(self.classes**2, dtype=torch.float64, device=cells.device)
        try:
            return matrix.index_add_(0, cells, torch.ones_like(cells, dtype=torch.float64))
        except (IndexError, RuntimeError) as e:
            raise UserErrorException(
                f"ConfusionMatrix({self.classes}) got targets from {int(classes.min())} to {int(classes.max())}; "
                f"they must be classes from 0 to {self.classes - 1}."
            ) from e

    def value(self, sums: Tensor) -> Tensor:
        """The matrix of counts."""
        return sums.cpu().round().long().reshape(self.classes, self.classes)


class MeanLoss:
    """The mean of a loss over all samples, not over batches. Logged as `name`.

    `loss(outputs, targets)` gives a batch's mean, or its sum if its `reduction` says so. Of nn.CrossEntropyLoss and
    nn.NLLLoss with class weights or ignored targets it is the weighted mean over all data, as one big batch would have.
    Raises UserErrorException for a loss that is not one number.
    """

    def __init__(self, loss: Callable[[Any, Any], Tensor], name: str = "loss") -> None:
        self.loss, self.name = loss, name

    def sums(self, outputs: Any, targets: Any) -> Tensor:
        """The loss summed over the samples, and their number or weight."""
        loss = self.loss(outputs, targets).detach().double()
        if loss.numel() != 1:
            raise UserErrorException(
                f"MeanLoss needs a loss that is one number for a batch, not {list(loss.shape)}; use reduction='mean'."
            )
        loss = loss.reshape(())
        if getattr(self.loss, "reduction", "mean") == "sum":
            return torch.stack((loss, torch.full_like(loss, _rows(targets))))
        weight = loss_weight(self.loss, targets, loss)
        # A batch of ignored targets has the mean 0 / 0, and adds nothing.
        return torch.stack((torch.where(weight > 0, loss * weight, 0.0), weight))

    def value(self, sums: Tensor) -> float:
        """NaN where there were no samples."""
        return _quotient(sums)


def loss_weight(loss: Any, targets: Any, like: Tensor) -> Tensor:
    """What a batch's mean loss was divided by: its samples, or the weights of those that were not ignored."""
    if not isinstance(loss, (nn.CrossEntropyLoss, nn.NLLLoss)) or not isinstance(targets, Tensor):
        return torch.full_like(like, _rows(targets))
    if targets.is_floating_point():  # parts of each class: divided by the samples, also with weights
        return torch.full_like(like, _rows(targets))
    kept = targets != loss.ignore_index
    if loss.weight is None:
        return kept.sum().double()
    return torch.where(kept, loss.weight.double()[torch.where(kept, targets, 0)], 0.0).sum()


def _rows(value: Any) -> int:
    """The samples in a batch of targets: the length of the first tensor in it."""
    while not isinstance(value, Tensor):
        if not isinstance(value, (tuple, list, dict)) or not value:
            raise UserErrorException(f"Targets hold no tensor that tells how many samples there are: {value!r}.")
        value = next(iter(value.values())) if isinstance(value, dict) else value[0]
    return len(value)


def _classes(outputs: Any, targets: Any, who: str) -> tuple[Tensor, Tensor]:
    """Predicted and true classes, of the same shape."""
    _check(outputs, targets, who, binary=True)
    if outputs.dim() == targets.dim() + 1 and outputs.shape[1] > 1:
        return outputs.detach().argmax(dim=1), targets
    return (outputs.detach() > 0).flatten().long(), targets.flatten().long()


def _check(outputs: Any, targets: Any, who: str, binary: bool) -> None:
    """Raise UserErrorException unless outputs are logits of these targets."""
    if isinstance(outputs, Tensor) and isinstance(targets, Tensor):
        shape, wanted = tuple(outputs.shape), tuple(targets.shape)
        whole = not (targets.is_floating_point() or targets.is_complex())
        if len(shape) > 1 and (shape[0], *shape[2:]) == wanted and shape[1] > 1 and whole:
            return
        if binary and len(shape) in (1, 2) and shape[1:] in ((), (1,)) and wanted in ((shape[0],), (shape[0], 1)):
            return
    got = " and ".join(
        f"{what} {list(value.shape)} of {value.dtype}" if isinstance(value, Tensor) else f"{what} of {type(value)}"
        for what, value in (("outputs", outputs), ("targets", targets))
    )
    two = ", or logits [N] or [N, 1] with targets [N] or [N, 1] of 0 and 1" if binary else ""
    raise UserErrorException(f"{who} takes logits [N, C, ...] with whole-number classes [N, ...]{two}; not {got}.")


def _counted(right: Tensor, count: int) -> Tensor:
    right = right.double()
    return torch.stack((right, torch.full_like(right, count)))


def _quotient(sums: Tensor) -> float:
    total, count = sums.tolist()
    return float(total / count) if count else float("nan")
