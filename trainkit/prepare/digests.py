"""The name of an environment: a digest of everything that decides what is in it."""

from __future__ import annotations

import hashlib
import json

from trainkit.environment import EnvironmentSpec
from trainkit.prepare.base import Base

FORMAT = 2  # of built environments; a change makes all be built anew


def inputs(spec: EnvironmentSpec, base: Base) -> dict[str, object]:
    """What the digest covers. The base's packages count only where the environment stands on them."""
    return {
        "format": FORMAT,
        "interpreter": [base.interpreter if spec.inherit else base.real, base.version],
        "base_packages": list(base.packages) if spec.inherit else [],
        "inherit": spec.inherit,
        "pip_packages": sorted(spec.pip_packages),
        "conda_packages": sorted(spec.conda_packages),
        "conda_channels": list(spec.conda_channels),
        "python_version": spec.python_version,
    }


def digest_of(spec: EnvironmentSpec, base: Base) -> str:
    """16 hex digits."""
    text = json.dumps(inputs(spec, base), sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
