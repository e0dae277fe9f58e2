"""The environment that a run was submitted with, as an object that another run can be given."""

from __future__ import annotations

from trainkit.boot.rundir import RunDir, read_json
from trainkit.environment import Environment
from trainkit.environments.definition import environment_of
from trainkit.environmentspec import EnvironmentSpec
from trainkit.errors import UserErrorException


def environment_used(run_dir: RunDir) -> Environment:
    """The run's environment. Raises UserErrorException where it was not submitted, so that nothing describes it."""
    values = (read_json(run_dir.job) or {}).get("environment")
    if values is None:
        raise UserErrorException(
            f"Run {run_dir.path.name} was not submitted, so it has no environment but that of its own process."
        )
    spec = EnvironmentSpec.from_json(values)
    python = [f"python={spec.python_version}"] if spec.python_version else []
    pip = [{"pip": list(spec.pip_packages)}] if spec.pip_packages else []
    image = spec.image
    docker = {} if image is None else {
        "enabled": True, "baseImage": image.base or None, "baseDockerfile": image.dockerfile or None,
        "engine": image.engine or None, "arguments": image.arguments, "shmSize": image.shm_size,
        "sharedVolumes": image.shared_volumes,
        "baseImageRegistry": None if image.registry is None else {
            "address": image.registry.address, "username": image.registry.username,
            "password": image.registry.reference or None,
        },
    }  # fmt: skip
    definition = {
        "name": spec.name, "environmentVariables": spec.environment_variables, "inherit": spec.inherit,
        "python": {
            "userManagedDependencies": spec.user_managed, "interpreterPath": spec.interpreter,
            "condaDependencies": {
                "channels": spec.conda_channels, "dependencies": [*python, *spec.conda_packages, *pip],
            },
        },
        "docker": docker,
    }  # fmt: skip
    return environment_of(definition, f"Run {run_dir.path.name}")
