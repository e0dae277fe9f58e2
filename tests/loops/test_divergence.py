"""The first difference between worlds: the step, and the cause before what follows from it."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from trainkit.errors import TrainkitError
from trainkit.loops.divergence import Step, first_divergence, read


def world() -> list[Step]:
    return [
        Step(n, 0.5 / (n + 1), [n, n + 1], {n: "aa", n + 1: "bb"}, {"weight": 2.0, "bias": 1e-9}, [0.1])
        for n in range(3)
    ]


def test_rounding_is_no_divergence_and_a_tiny_part_of_the_gradient_none() -> None:
    other = world()
    other[1].loss *= 1 + 1e-6
    other[1].gradients["bias"] = 2e-9
    assert first_divergence({1: world(), 2: other}) is None
    for step in other:
        step.double = True
    exact = copy.deepcopy(other)
    exact[1].loss *= 1 + 1e-6
    found = first_divergence({1: other, 2: exact})
    assert found is not None and (found.step, found.quantity) == (1, "loss")


CHANGES: list[tuple[Callable[[Step], None], str, str]] = [
    (lambda s: s.ids.append(99), "samples", "2 and 3 samples; none only in the first, 99 only in the second"),
    (lambda s: s.ids.append(2), "samples", "sample 2 is in the step more than once"),
    (lambda s: s.hashes.update({2: "cc"}), "augmentation", "the input of sample 2 differs, as that of 1 of 2"),
    (lambda s: setattr(s, "loss", float("nan")), "loss", "nan"),
    (lambda s: s.gradients.update(weight=1.0), "gradient", "the norm of weight is 2 and 1"),
    (lambda s: s.gradients.update(weight=None), "gradient", "the norm of weight is 2 and absent"),
    (lambda s: s.gradients.update(more=1.0), "gradient", "the norm of more is absent and 1"),
    (lambda s: s.rates.append(0.2), "learning rate", "[0.1] and [0.1, 0.2]"),
]


@pytest.mark.parametrize(("change", "quantity", "words"), CHANGES, ids=[f"{q}: {w}" for _, q, w in CHANGES])
def test_the_first_cause_is_named(change: Callable[[Step], None], quantity: str, words: str) -> None:
    late, early = world(), world()
    change(early[1])
    early[1].rates = [*early[1].rates, 7.0] if quantity != "learning rate" else early[1].rates
    late[2].loss = 9.0
    found = first_divergence({1: world(), 2: late, 4: early})
    assert found is not None and (found.step, found.quantity, found.world) == (1, quantity, 4)
    assert words in found.words


def test_a_world_that_stops_early_differs() -> None:
    found = first_divergence({1: world(), 2: world()[:2]})
    assert found is not None and (found.step, found.quantity) == (2, "steps")


def test_ranks_that_ignore_their_world_are_refused(tmp_path: Path) -> None:
    (tmp_path / "rank-0.jsonl").write_text(json.dumps({"rank": 0, "size": 1, "steps": 5}) + "\n")
    with pytest.raises(TrainkitError, match="Of 2 ranks that were started, rank 0 found a world of 1"):
        read(tmp_path, 2)


SCRIPT = """
import sys, torch
from torch import nn
from trainkit.loops import TorchLoop, join
torch.manual_seed(0)
x = torch.randn(64, 8)
factor = join().size if "--wrong" in sys.argv else 1
def build():
    model = nn.Linear(8, 2)
    loss = lambda outputs, targets: factor * nn.functional.cross_entropy(outputs, targets)
    return TorchLoop(model=model, loss=loss, optimizer=torch.optim.SGD(model.parameters(), lr=0.1),
                     train=(x, (x.sum(1) > 0).long()), batch=13, epochs=2)
if __name__ == "__main__":
    build().fit()
    open("outputs.txt", "w").close()
"""


def _check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "trainkit.cli", "check", *words]
    return subprocess.run(argv, cwd=folder, capture_output=True, text=True, timeout=240)


def test_a_script_is_compared_in_several_worlds(tmp_path: Path) -> None:
    (tmp_path / "train.py").write_text(SCRIPT)
    same = _check(tmp_path, "train:build", "--world", "1,3", "--steps", "3")
    assert same.returncode == 0 and "The same on 1, 3 ranks." in same.stdout, same.stdout + same.stderr
    wrong = _check(tmp_path, "train.py", "--world", "1,2", "--steps", "2", "--", "--wrong")
    assert wrong.returncode == 1, wrong.stdout + wrong.stderr
    assert "First divergence: loss in step 0, 1 and 2 ranks: " in wrong.stdout
    assert {path.name for path in tmp_path.iterdir()} <= {"train.py", "__pycache__"}


@pytest.mark.parametrize(
    ("script", "words"),
    [("print('no loop')", "Nothing was traced"), ("raise ValueError('bad')", "ValueError: bad")],
)
def test_what_cannot_be_compared(tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "train.py").write_text(script)
    done = _check(tmp_path, "train.py", "--world", "1,2")
    assert done.returncode == 2 and words in done.stderr
