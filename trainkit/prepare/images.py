"""From an EnvironmentSpec with an image to the image that a job's containers run: fetched or built, cached by digest.

What the digest covers is the base image by its id, never by its name. Writes under `envs/` and into the engine's own
store; the engine's daemon, where it has one, does the rest.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.environment import EnvironmentSpec
from trainkit.imagespec import ImageSpec
from trainkit.job import Container
from trainkit.prepare.engines import ImageEngine, image_engine
from trainkit.prepare.entries import Record, ready_or_built
from trainkit.prepare.imagepython import python_in
from trainkit.prepare.installer import Installer
from trainkit.prepare.resolving import Image, Source, resolve

if TYPE_CHECKING:
    from trainkit.prepare import Prepared

__all__ = ["prepare_image"]

FORMAT = 1  # of entries; a change makes all be built anew


def prepare_image(
    spec: EnvironmentSpec,
    envs: Path,
    log: Path,
    cancelled: Callable[[], bool] | None = None,
    password: str = "",
    share: bool = False,
) -> Prepared:
    """The image that `spec` describes, ready to run; progress goes to `log`.

    `password` is that of the image's registry, where it was given by value. `share` says that other machines need the
    image: then it is put into a file too. Raises EnvironmentBuildError; `cancelled` is asked while it waits.
    """
    from trainkit.prepare import Prepared

    begun = time.monotonic()
    image = spec.image
    assert image is not None
    engine = image_engine(image.engine)
    with Installer(log, cancelled) as installer:
        base = resolve(image.base, Source(engine, image.engine, image.registry, password, installer))
        at = f" ({base.digest})" if base.digest else ""
        installer.say(f"image {image.base} is {base.short}{at}: it {base.words}")
        entry, record, made = _plain(spec, image, base, engine, envs, installer)
    seconds = time.monotonic() - begun
    return Prepared(
        interpreter=sys.executable,
        needs_boot=bool(record["needs_boot"]),
        digest=entry.name,
        reused=not made,
        words=f"{'made ready' if made else 'reused'} image {image.base}, {base.short}, of {image.engine} "
        f"({seconds:.1f} s)",
        container=Container(
            engine=image.engine,
            image=record["image"],
            name=image.words,
            interpreter=record["interpreter"],
            arguments=image.arguments,
            shm_size=image.shm_size,
        ),
    )


def _plain(
    spec: EnvironmentSpec, image: ImageSpec, base: Image, engine: ImageEngine, envs: Path, installer: Installer
) -> tuple[Path, Record, bool]:
    """The entry of an image as it is: which Python it has is asked once."""
    inputs = {"format": FORMAT, "kind": "image", "engine": image.engine, "image": base.id, "python": spec.interpreter}
    entry = envs / digest_of(inputs)

    def build() -> Record:
        python = python_in(engine, base, spec.interpreter)
        return {
            "kind": "image",
            "name": spec.name,
            "engine": image.engine,
            "image": base.id,
            "base": {"name": base.name, "id": base.id, "digest": base.digest},
            "interpreter": python.path,
            "version": python.version,
            "needs_boot": python.needs_boot,
            "built": time.time(),
            "inputs": inputs,
        }

    record, made = ready_or_built(entry, installer, lambda ready: True, build)
    return entry, record, made


def digest_of(inputs: dict[str, object]) -> str:
    """16 hex digits."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
