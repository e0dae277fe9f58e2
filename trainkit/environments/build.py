"""An environment built ahead of any job, in a thread of this process: the same build that a job would reuse."""

from __future__ import annotations

import shutil
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.containers import with_engine
from trainkit.environment import Environment
from trainkit.environmentspec import EnvironmentSpec

if TYPE_CHECKING:
    from trainkit.docker import DockerConfiguration
    from trainkit.prepare import Prepared
    from trainkit.workspace import Workspace

_POLL_SECONDS = 0.2


class ImageBuildDetails:
    """A build that goes on in this process, which does not end before it. `status` is Running, Succeeded or Failed."""

    def __init__(self, spec: EnvironmentSpec, envs: Path, password: str) -> None:
        self._spec = spec
        self._envs = envs
        self._password = password
        self._log = Path(tempfile.mkdtemp(prefix="trainkit-build-")) / "build.log"
        self._text = ""
        self.prepared: Prepared | None = None  # what was made, once it is
        self._error: BaseException | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._build, name=f"build of {spec.name}")
        self._thread.start()

    @property
    def status(self) -> str:
        """How far it is."""
        if self._thread.is_alive():
            return "Running"
        return "Failed" if self._error is not None else "Succeeded"

    @property
    def log(self) -> str:
        """What the build has printed so far."""
        try:
            return self._log.read_text(encoding="utf-8", errors="replace")
        except OSError:
            return self._text

    def cancel(self) -> None:
        """End the build; nothing of it is left."""
        self._stop.set()

    def wait_for_completion(self, show_output: bool = True) -> None:
        """Return once it is built; with `show_output` what it prints is printed. Ctrl-C ends it.

        Raises EnvironmentBuildError where it cannot be built.
        """
        shown = 0
        try:
            going = True
            while going:
                self._thread.join(_POLL_SECONDS)
                going = self._thread.is_alive()
                if show_output:
                    text = self.log
                    print(text[shown:], end="", flush=True)
                    shown = len(text)
        except KeyboardInterrupt:
            self.cancel()
            raise
        if self._error is not None:
            raise self._error
        if show_output:
            print(self.prepared.words if self.prepared else "", flush=True)

    def _build(self) -> None:
        from trainkit.prepare import prepare

        try:
            self.prepared = prepare(self._spec, self._envs, self._log, self._stop.is_set, self._password)
        except BaseException as error:
            self._error = error
        finally:
            self._password = ""
            self._text = self.log
            shutil.rmtree(self._log.parent, ignore_errors=True)


def buildable(workspace: Workspace, spec: EnvironmentSpec) -> EnvironmentSpec:
    """The environment with the engine of its image; raises UnsupportedJob or MissingPackage where none can build it."""
    if spec.image is not None:
        return with_engine(spec, workspace.config.container_engine)
    if not spec.is_plain:
        from trainkit.prepare.conda import refuse_without_conda
        from trainkit.prepare.installer import uv

        refuse_without_conda(spec.conda_packages)
        uv()
    return spec


def build(workspace: Workspace, environment: Environment, run: DockerConfiguration | None) -> ImageBuildDetails:
    """Begin to build what a job on this machine would use. Raises what submitting such a job would raise."""
    spec = buildable(workspace, environment.spec(run, workspace.config.default_image))
    return ImageBuildDetails(spec, workspace.prepare_root() / "envs", environment.password() if spec.image else "")
