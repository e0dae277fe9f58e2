"""From "module:build" and words to a call: what is typed, and everything that is refused, imported or only read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from trainkit.errors import UserErrorException
from trainkit.loops.building import arguments_for, check_build, load_build

SOURCE = """
from __future__ import annotations
from pathlib import Path
from typing import Literal, Optional, Sequence

SIZE = 3

class Loop:
    def __init__(self, **values): self.values = values
    def fit(self): print("fitted", sorted(self.values.items())); return self.values

def build(lr: float, epochs: int = 2, name: str = "net", deep: bool = False, data: Path = Path("data"),
          precision: Literal["float32", "bf16"] = "float32", limit: Optional[int] = None, sizes: list[int] = (),
          rate=0.5, size=SIZE, model: "Unknown" = None, both: int | str = 1, names: Sequence[str] | None = None):
    return Loop(**locals())

def nothing(): return 7
def broken(x: float): raise ValueError("inside")
async def later(): ...
other = build
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    (tmp_path / "built").mkdir()
    (tmp_path / "built" / "train.py").write_text(SOURCE)
    return tmp_path


def build(
    lr: float, epochs: int = 2, name: str = "net", deep: bool = False, data: Path = Path("data"),
    precision: Literal["float32", "bf16"] = "float32", limit: Optional[int] = None, sizes: list[int] = [],  # noqa: B006, UP045
    rate=0.5, both: int | str = 1, names: tuple[str, ...] = (),  # type: ignore[no-untyped-def]
) -> None: ...  # fmt: skip


WORDS: list[tuple[str, dict[str, Any]]] = [
    ("--lr 3e-3", {"lr": 3e-3}),
    ("--lr=-1 --epochs 5", {"lr": -1.0, "epochs": 5}),
    ("--lr -1 --name -x", {"lr": -1.0, "name": "-x"}),
    ("--lr 1 --deep", {"lr": 1.0, "deep": True}),
    ("--lr 1 --no-deep", {"lr": 1.0, "deep": False}),
    ("--lr 1 --deep false", {"lr": 1.0, "deep": False}),
    ("--lr 1 --data a/b", {"lr": 1.0, "data": Path("a/b")}),
    ("--lr 1 --precision bf16", {"lr": 1.0, "precision": "bf16"}),
    ("--lr 1 --limit none", {"lr": 1.0, "limit": None}),
    ("--lr 1 --limit 8", {"lr": 1.0, "limit": 8}),
    ("--lr 1 --sizes 1 2 3", {"lr": 1.0, "sizes": [1, 2, 3]}),
    ("--lr 1 --sizes 1 --sizes 2", {"lr": 1.0, "sizes": [1, 2]}),
    ("--lr 1 --rate 2", {"lr": 1.0, "rate": 2.0}),
    ("--lr 1 --both 7", {"lr": 1.0, "both": 7}),
    ("--lr 1 --both seven", {"lr": 1.0, "both": "seven"}),
]


@pytest.mark.parametrize(("words", "values"), WORDS, ids=[words for words, _ in WORDS])
def test_words_become_typed_arguments(words: str, values: dict[str, Any]) -> None:
    found = arguments_for(build, words.split())
    assert found == values
    assert [type(v) for v in found.values()] == [type(v) for v in values.values()]


def test_a_tuple_stays_one_over_repeated_flags() -> None:
    assert arguments_for(build, ["--lr", "1", "--names", "a", "--names", "b", "c"])["names"] == ("a", "b", "c")


REFUSED = [
    ("", "--lr is missing"),
    ("--lr", "--lr needs a value"),
    ("--lr fast", "--lr takes FLOAT, not 'fast'"),
    ("--lr 1 --epochs 2.5", "--epochs takes INT, not '2.5'"),
    ("--lr 1 --lr 2", "--lr is given twice"),
    ("--lr 1 2", "--lr takes one value, not 2 (1 2)"),
    ("--lrr 1", "--lrr is no argument of it"),
    ("5 --lr 1", "'5' stands before any flag"),
    ("--lr 1 --precision fp8", "--precision takes float32|bf16, not 'fp8'"),
    ("--lr 1 --sizes 1 two", "--sizes takes INT, not 'two'"),
    ("--lr 1 --no-epochs", "--no-epochs is no argument of it: --epochs takes INT"),
    ("--lr 1 --deep maybe", "--deep takes BOOL, not 'maybe'"),
    ("--lr 1 --limit x", "--limit takes INT|none, not 'x'"),
]


@pytest.mark.parametrize(("words", "message"), REFUSED)
def test_what_is_refused_is_refused_alike_by_the_function_and_by_its_text(
    source: Path, words: str, message: str
) -> None:
    with pytest.raises(UserErrorException) as by_function:
        arguments_for(build, words.split())
    with pytest.raises(UserErrorException) as by_text:
        check_build("built.train:build", source, words.split())
    for caught in (by_function, by_text):
        assert caught.value.message.startswith(f"build() cannot be called: {message}. It takes --lr FLOAT, --epochs")


def test_what_cannot_be_known_from_the_text_is_left_to_the_job(source: Path) -> None:
    words = "--lr 1 --model whatever --size 4 --names a b --both x"
    assert check_build("built.train:build", source, words.split()) == source / "built" / "train.py"
    assert check_build("built.train:other", source, ["--anything", "1"])


NAMES = [
    (3, "loop is a text 'module:function'"),
    ("built.train", "loop is a text 'module:function'"),
    ("built/train.py:build", "loop is a text 'module:function'"),
    ("built.train:build()", "loop is a text 'module:function'"),
    ("built.absent:build", "There is no module built.absent"),
    ("nowhere_at_all.train:build", "There is no module nowhere_at_all.train"),
    ("built.train:builds", "has no function builds; its functions are build, nothing, broken"),
    ("built.train:later", "is no function that makes a loop"),
]


@pytest.mark.parametrize(("name", "message"), NAMES)
def test_names_that_lead_nowhere(source: Path, name: Any, message: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    for act in (lambda: check_build(name, source, []), lambda: load_build(name, source)):
        with pytest.raises(UserErrorException) as caught:
            act()
        assert message in caught.value.message
    for module in [module for module in sys.modules if module.partition(".")[0] == "built"]:
        del sys.modules[module]


def test_a_file_that_is_no_python_is_named_with_its_line(source: Path) -> None:
    (source / "bad.py").write_text("x = 1\ndef build(:\n")
    with pytest.raises(UserErrorException, match=r"bad\.py:2 is no valid Python"):
        check_build("bad:build", source, [])


def test_a_module_that_is_known_from_elsewhere_is_never_taken_for_it(
    source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", list(sys.path))
    (source / "json.py").write_text("def build(): ...\n")
    with pytest.raises(UserErrorException, match="The module json of .* has the same name"):
        load_build("json:build", source)


def _run(source: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainkit.loops.run", *words], cwd=source, capture_output=True, text=True, timeout=60
    )


def test_as_a_program(source: Path) -> None:
    done = _run(source, "built.train:build", "--lr", "3e-3", "--sizes", "4", "5")
    assert done.returncode == 0 and "('lr', 0.003)" in done.stdout and "('sizes', [4, 5])" in done.stdout
    refused = _run(source, "built.train:build")
    assert refused.returncode == 2 and refused.stderr.startswith("trainkit: build() cannot be called: --lr is missing")
    no_loop = _run(source, "built.train:nothing")
    assert no_loop.returncode == 2 and "returned int, which has no fit()" in no_loop.stderr
    failed = _run(source, "built.train:broken", "--x", "1")
    assert failed.returncode == 1 and "ValueError: inside" in failed.stderr
