"""`Fastai`: an estimator that can say which version of fastai its script or loop needs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from trainkit.estimators.pytorch import Installed, PyTorch


@dataclass(kw_only=True)
class Fastai(PyTorch):
    """An estimator for fastai scripts and loops.

    `framework_version` ("2.8" or "2.8.12") is fastai's, and must be what the job's environment has: nothing else is
    installed for it. Raises TrainingException where it is another, saying which one it is.
    """

    FRAMEWORK_NAME: ClassVar[str] = "Fastai"
    DEFAULT_VERSION: ClassVar[Installed] = Installed("fastai")
    _PACKAGE: ClassVar[tuple[str, str]] = ("fastai", "Fastai")
