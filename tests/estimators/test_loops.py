"""Estimators with a loop: fitted here, and everything that is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit import Fastai, MpiConfiguration, PyTorch
from trainkit.errors import TrainingException, UserErrorException
from trainkit.estimators.pytorch import _installed

LOOP = """
from trainkit.boot.settings import settings
class Loop:
    def __init__(self, values): self.values = values
    def fit(self): return self.values, settings().resume_from
def build(lr: float = 0.1, deep: bool = False):
    return Loop((lr, deep))
"""


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "built_here.py").write_text(LOOP)
    monkeypatch.setattr(sys, "path", list(sys.path))
    sys.modules.pop("built_here", None)
    return tmp_path


def test_a_loop_is_fitted_here_with_typed_parameters(project: Path) -> None:
    made = PyTorch(project, loop="built_here:build", script_params={"--lr": 3e-3, "--deep": ""})
    assert made.fit() == ((3e-3, True), "")


def test_it_goes_on_from_a_checkpoint(project: Path) -> None:
    (project / "step-00000001").mkdir()
    (project / "step-00000001" / "manifest.json").touch()
    made = PyTorch(project, loop="built_here:build", resume_from=project)
    assert made.fit() == ((0.1, False), str(project))
    assert PyTorch(project, loop="built_here:build").fit()[1] == ""


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"entry_script": "a.py"}, TrainingException, "'entry_script' and 'loop' both say what the job runs"),
    ({"script_params": {"--rate": 1}}, UserErrorException, "--rate is no argument of it"),
    ({"script_params": {"--lr": "fast"}}, UserErrorException, "--lr takes FLOAT, not 'fast'"),
    ({"loop": "built_here:absent"}, UserErrorException, "has no function absent; its functions are build"),
    ({"loop": "nowhere_at_all:build"}, UserErrorException, "There is no module nowhere_at_all"),
    ({"loop": "built_here.build"}, UserErrorException, "loop is a text 'module:function'"),
    ({"resume_from": "nowhere"}, UserErrorException, "there is no run or folder"),
    ({"distributed_training": MpiConfiguration(2)}, TrainingException, "2 ranks were asked for, but this process is"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "kind", "message"), REFUSED, ids=[m for _, _, m in REFUSED])
def test_what_cannot_be_fitted(project: Path, options: Any, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind) as caught:
        PyTorch(project, **{"loop": "built_here:build", **options}).fit()
    assert message in str(caught.value)


def test_a_script_is_not_fitted(project: Path) -> None:
    with pytest.raises(TrainingException, match="fit\\(\\) is for an estimator with loop="):
        PyTorch(project, compute_target="local", entry_script="built_here.py").fit()


def test_fastai_is_asked_for_its_own_version(project: Path) -> None:
    has = _installed(sys.executable, "fastai")
    if has:
        assert has == Fastai(project, loop="built_here:build", framework_version=has).DEFAULT_VERSION
        assert Fastai.get_supported_versions() == [has]
    with pytest.raises(
        TrainingException, match="Fastai 1.0 is not currently supported by the Fastai estimator: .*fastai"
    ):
        Fastai(project, loop="built_here:build", framework_version="1.0")
