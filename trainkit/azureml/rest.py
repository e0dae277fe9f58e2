"""What scripts of the Azure ML SDK v1 import that has no place of its own in trainkit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trainkit.experiment import Experiment
    from trainkit.run import Run

# The images that the SDK's last version runs jobs in, by name: they are used where a job asks for them.
DEFAULT_CPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04:20251002.v1"
DEFAULT_GPU_IMAGE = "mcr.microsoft.com/azureml/openmpi4.1.0-cuda11.8-cudnn8-ubuntu22.04"


class Credentials:
    """Stands for every way to log in to a cloud: there is no account here, so nothing is asked, checked or kept."""

    def __init__(self, *args: object, **kwargs: object) -> None: ...


def set_diagnostics_collection(
    send_diagnostics: bool = True, verbosity: object = None, app_name: object = None
) -> None:
    """Nothing: trainkit sends nothing to anybody."""


def get_run(experiment: Experiment, run_id: str, rehydrate: bool = True, clean_up: bool = True) -> Run:
    """The experiment's run of this id. Raises UserErrorException where there is none."""
    from trainkit.run import Run

    return Run(experiment, run_id)
