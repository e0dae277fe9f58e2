"""`PyTorch`: an estimator that can say which version of torch its script needs."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import ClassVar

from trainkit.errors import EnvironmentBuildError, TrainingException
from trainkit.estimators.estimator import Estimator
from trainkit.requirements import parse
from trainkit.runconfig import RunConfiguration, ScriptRunConfig


def _installed(interpreter: str, package: str = "torch") -> str:
    """The version of a package that an interpreter has, without importing it; "" for none."""
    if interpreter == sys.executable:
        try:
            return version(package)
        except PackageNotFoundError:
            return ""
    from trainkit.prepare.base import ask

    try:
        return ask(
            interpreter, "import sys; from importlib.metadata import version; print(version(sys.argv[1]))", package
        ).strip()
    except EnvironmentBuildError:
        return ""


class Installed:
    """A class attribute that is looked up when it is read: the version of a package in this interpreter."""

    def __init__(self, package: str) -> None:
        self.package = package

    def __get__(self, instance: object, owner: type | None = None) -> str:
        return _installed(sys.executable, self.package)


@dataclass(kw_only=True)
class PyTorch(Estimator):
    """An estimator for PyTorch scripts.

    `framework_version` ("2.14" or "2.14.1") must be what the job's environment has: nothing else is installed for it.
    Raises TrainingException where it is another, saying which one it is.
    """

    FRAMEWORK_NAME: ClassVar[str] = "PyTorch"
    DEFAULT_VERSION: ClassVar[Installed] = Installed("torch")
    _PACKAGE: ClassVar[tuple[str, str]] = ("torch", "PyTorch")
    framework_version: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        refuse_other_version(self.framework_version, self.run_config, *self._PACKAGE)

    def to_script_run_config(self) -> ScriptRunConfig:
        """The same job in `Experiment.submit`'s own terms; the version is compared once more."""
        refuse_other_version(self.framework_version, self.run_config, *self._PACKAGE)
        return super().to_script_run_config()

    @classmethod
    def get_supported_versions(cls) -> list[str]:
        """The version of the framework in this interpreter, in a list; empty where it has none."""
        installed = _installed(sys.executable, cls._PACKAGE[0])
        return [installed] if installed else []


def refuse_other_version(
    wanted: object, run_config: RunConfiguration, package: str = "torch", estimator: str = "PyTorch"
) -> None:
    """Raises TrainingException where the job's package is known not to be `wanted`, or cannot be known."""
    environment = run_config.environment
    if wanted is None:
        return
    if not isinstance(wanted, str) or not wanted.strip():
        raise TrainingException(f"framework_version is a text such as '2.14', not {wanted!r}.")
    asked = next((r for r in map(parse, environment.python.conda_dependencies.pip_packages) if r.name == package), None)
    if asked is not None:
        has = asked.pin or (asked.specifier[2:-2].strip() if asked.specifier.endswith(".*") else "")
        if not has:
            raise TrainingException(
                f"framework_version={wanted!r} cannot be compared with {asked.line!r} in pip_packages before it is "
                f"installed: write '{package}=={wanted}.*' there, or leave framework_version out."
            )
        where = "pip_packages asks for"
    elif environment.docker.asks_for_image or run_config.docker.use_docker:
        raise TrainingException(
            f"framework_version={wanted!r} cannot be compared with what the image has before it is fetched: leave "
            f"framework_version out, or ask for that version with pip_packages=['{package}=={wanted}.*']."
        )
    else:
        interpreter = environment.python.interpreter_path
        interpreter = sys.executable if interpreter == "python" else interpreter
        alone = not environment.inherit and not environment.python.user_managed_dependencies
        has, where = "" if alone else _installed(interpreter, package), f"the job's environment ({interpreter}) has"
    if not _matches(wanted.strip(), has):
        raise TrainingException(
            f"{estimator} {wanted} is not currently supported by the {estimator} estimator: {where} "
            f"{package + ' ' + has if has else 'no ' + package}. Leave framework_version out to use what is there"
            + (f", give framework_version={has!r}" if has else "")
            + f", or ask for another one with pip_packages=['{package}=={wanted}']."
        )


def _matches(wanted: str, has: str) -> bool:
    """Whether `has` is `wanted` or a release of it: 2.14 matches 2.14.1 and 2.14.1+cpu, 2.1 does not."""
    return bool(has) and (has == wanted or (has.split("+")[0] + ".").startswith(wanted + "."))
