"""`PyTorch`: an estimator that can say which version of torch its script needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from trainkit.environment import Environment
from trainkit.errors import EnvironmentBuildError, TrainingException
from trainkit.estimators.estimator import Estimator
from trainkit.requirements import parse
from trainkit.runconfig import ScriptRunConfig


def _installed(interpreter: str) -> str:
    """The version of torch that an interpreter has, without importing it; "" for none."""
    if interpreter == sys.executable:
        try:
            return version("torch")
        except PackageNotFoundError:
            return ""
    from trainkit.prepare.base import ask

    try:
        return ask(interpreter, "from importlib.metadata import version; print(version('torch'))").strip()
    except EnvironmentBuildError:
        return ""


class _Installed:
    """A class attribute that is looked up when it is read."""

    def __get__(self, instance: object, owner: type | None = None) -> str:
        return _installed(sys.executable)


@dataclass(kw_only=True)
class PyTorch(Estimator):
    """An estimator for PyTorch scripts.

    `framework_version` ("2.14" or "2.14.1") must be what the job's environment has: nothing else is installed for it.
    Raises TrainingException where it is another, saying which one it is.
    """

    FRAMEWORK_NAME: ClassVar[str] = "PyTorch"
    DEFAULT_VERSION: ClassVar[_Installed] = _Installed()
    framework_version: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_other_version(self.framework_version, self.run_config.environment)

    def to_script_run_config(self) -> ScriptRunConfig:
        """The same job in `Experiment.submit`'s own terms; the version is compared once more."""
        refuse_other_version(self.framework_version, self.run_config.environment)
        return super().to_script_run_config()

    @staticmethod
    def get_supported_versions() -> list[str]:
        """The version of torch in this interpreter, in a list; empty where it has none."""
        installed = _installed(sys.executable)
        return [installed] if installed else []


def refuse_other_version(wanted: object, environment: Environment) -> None:
    """Raises TrainingException where the environment's torch is known not to be `wanted`, or cannot be known."""
    if wanted is None:
        return
    if not isinstance(wanted, str) or not wanted.strip():
        raise TrainingException(f"framework_version is a text such as '2.14', not {wanted!r}.")
    asked = next((r for r in map(parse, environment.python.conda_dependencies.pip_packages) if r.name == "torch"), None)
    if asked is not None:
        has = asked.pin or (asked.specifier[2:-2].strip() if asked.specifier.endswith(".*") else "")
        if not has:
            raise TrainingException(
                f"framework_version={wanted!r} cannot be compared with {asked.line!r} in pip_packages before it is "
                f"installed: write 'torch=={wanted}.*' there, or leave framework_version out."
            )
        where = "pip_packages asks for"
    else:
        interpreter = environment.python.interpreter_path
        interpreter = sys.executable if interpreter == "python" else interpreter
        alone = not environment.inherit and not environment.python.user_managed_dependencies
        has, where = "" if alone else _installed(interpreter), f"the job's environment ({interpreter}) has"
    if not _matches(wanted.strip(), has):
        raise TrainingException(
            f"PyTorch {wanted} is not currently supported by the PyTorch estimator: {where} "
            f"{'torch ' + has if has else 'no torch'}. Leave framework_version out to use what is there"
            + (f", give framework_version={has!r}" if has else "")
            + f", or ask for another one with pip_packages=['torch=={wanted}']."
        )


def _matches(wanted: str, has: str) -> bool:
    """Whether `has` is `wanted` or a release of it: 2.14 matches 2.14.1 and 2.14.1+cpu, 2.1 does not."""
    return bool(has) and (has == wanted or (has.split("+")[0] + ".").startswith(wanted + "."))
