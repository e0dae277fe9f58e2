"""From an EnvironmentSpec with an image to the image that a job's containers run: fetched or built, cached by digest.

What a digest covers is other images by their ids, never by their names. Writes under `envs/` and into the engine's own
store.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from trainkit.boot.rundir import make_private, replace
from trainkit.environment import EnvironmentSpec
from trainkit.errors import EnvironmentBuildError, UserErrorException
from trainkit.imagespec import ImageSpec
from trainkit.job import Container
from trainkit.prepare import tags
from trainkit.prepare.archives import archive_of, restored
from trainkit.prepare.building import build_image
from trainkit.prepare.contexts import context_digest, staged
from trainkit.prepare.derived import Derived
from trainkit.prepare.dockerfiles import images_in, with_images
from trainkit.prepare.engines import ImageEngine, image_engine
from trainkit.prepare.entries import MAKING, Record, ready_or_built, why
from trainkit.prepare.imagepython import python_in
from trainkit.prepare.installer import Installer
from trainkit.prepare.resolving import Image, Source, facts, resolve

if TYPE_CHECKING:
    from trainkit.prepare import Prepared

__all__ = ["prepare_image"]

FORMAT = 1  # of entries; a change makes all be built anew
_IGNORE_FILES = {"podman": (".containerignore", ".dockerignore")}


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
    from trainkit import __version__
    from trainkit.prepare import Prepared

    begun = time.monotonic()
    image = spec.image
    assert image is not None
    try:
        with Installer(log, cancelled) as installer:
            source = Source(image_engine(image.engine), image.engine, image.registry, password, installer)
            one = _Preparation(spec, image, envs, source).run()
            archive = archive_of(envs / one.digest, one.record, source) if share else ""
    except UserErrorException as error:
        raise EnvironmentBuildError(error.message) from error
    name = f"image {image.base}," if image.base else "image"
    what = f"{name} {_short(one.record['image'])} of {image.engine}"
    verb = "reused" if not one.made else "built" if one.record["kind"] != "image" else "made ready"
    container = Container(
        engine=image.engine,
        image=one.record["image"],
        name=image.words,
        interpreter=one.record["interpreter"],
        arguments=image.arguments,
        shm_size=image.shm_size,
        archive=archive,
    )
    words = f"{verb} {what} ({time.monotonic() - begun:.1f} s)"
    return Prepared(
        interpreter=sys.executable,
        needs_boot=one.record["python"]["trainkit"] != __version__,
        digest=one.digest,
        reused=not one.made,
        words=words,
        container=container,
        bases=tuple(one.bases),
    )


@dataclass(frozen=True)
class _Entry:
    """An image with its record in `envs/`; `made` says that it was not there before."""

    digest: str
    record: Record
    made: bool
    bases: list[dict[str, str]]  # where it comes from: names as the user wrote them, and what those mean now


@dataclass(frozen=True)
class _Preparation:
    """One image's way: the base or what a Dockerfile makes, its Python, and packages on top of it."""

    spec: EnvironmentSpec
    image: ImageSpec
    envs: Path
    source: Source

    @property
    def engine(self) -> ImageEngine:
        return self.source.engine

    @property
    def installer(self) -> Installer:
        return self.source.installer

    @property
    def _called(self) -> str:
        """The image in a sentence."""
        return f"image {self.image.base}" if self.image.base else self.image.words.removeprefix("an ")

    def run(self) -> _Entry:
        """Everything, each step only where its result is not there yet."""
        base = self._from_dockerfile() if self.image.dockerfile else self._as_it_is()
        self._check_version(base.record)
        derived = Derived.of(self.spec, base.record, self._called, self.envs)
        if derived is None:
            return base
        entry = self._with_packages(derived, base)
        return dataclasses.replace(entry, made=entry.made or base.made)

    def _as_it_is(self) -> _Entry:
        """The image that the name means now: only which Python it has is asked, once."""
        base = self._resolved(self.image.base, self.image.registry.address if self.image.registry else "")
        inputs = self._inputs("image", image=base.id)
        return self._entry(inputs, {base.name: base}, lambda tag: base.id)

    def _from_dockerfile(self) -> _Entry:
        """The image that the Dockerfile makes, on the images that its names mean now."""
        bases = {name: self._resolved(name) for name in images_in(self.image.dockerfile)}
        context = Path(self.image.context) if self.image.context else None
        inputs = self._inputs(
            "dockerfile",
            dockerfile=self.image.dockerfile,
            build_context=self._context_digest(context),
            base_images={name: base.id for name, base in bases.items()},
        )

        def make(tag: str) -> str:
            text = with_images(self.image.dockerfile, tags.give(self.engine, tag, bases.values()))
            if context is None:
                return build_image(self.engine, self.image.engine, text, None, tag, self.installer)
            with staged(context, self.envs, self.envs / digest_of(inputs) / "context", self._ignore_files) as seen:
                made = build_image(self.engine, self.image.engine, text, seen, tag, self.installer)
            if self._context_digest(context) != inputs["build_context"]:
                raise EnvironmentBuildError(
                    f"{context} changed while the image was built from it. Submit again once it is complete."
                )
            return made

        return self._entry(inputs, bases, make)

    def _with_packages(self, derived: Derived, base: _Entry) -> _Entry:
        """An image with the packages, which stands on the one of `base`."""
        below = Image(self.image.words, base.record["image"], "", "")
        inputs = self._inputs("packages", base_image=below.id, **derived.inputs)

        def make(tag: str) -> str:
            (name,) = tags.give(self.engine, tag, [below]).values()
            found = facts(self.engine, below.id) or {}
            user = str((found.get("Config") or {}).get("User") or found.get("User") or "")
            with derived.context() as folder:
                text = derived.dockerfile(name, user)
                try:
                    return build_image(self.engine, self.image.engine, text, folder, tag, self.installer)
                except EnvironmentBuildError as error:
                    raise EnvironmentBuildError(derived.verdict(error, self._called), error.output) from error

        return self._entry(inputs, {below.name: below}, make, base.bases)

    def _entry(
        self,
        inputs: dict[str, object],
        bases: Mapping[str, Image],
        make: Callable[[str], str],
        origin: list[dict[str, str]] | None = None,
    ) -> _Entry:
        """The entry of these inputs, made where it is not there or its image is gone.

        `origin` is where it comes from, if not from `bases` alone.
        """
        digest, kind = digest_of(inputs), str(inputs["kind"])
        tag = tags.name_of(self.envs / digest)
        origin = origin or [{"name": b.name, "id": b.id, "digest": b.digest} for b in bases.values()]
        names = [] if kind == "image" else [tag, *tags.names_below(tag, len(bases))]
        begun = {"kind": kind, "engine": self.image.engine, "tags": names, "bases": origin, "inputs": inputs}

        def build() -> Record:
            if kind != "image":
                self.installer.say(f"building image {digest} for {self.spec.name}: {self._why(inputs, kind)}")
                replace(make_private(self.envs / digest) / MAKING, begun)
            try:
                made = make(tag)
                python = python_in(self.engine, made, self._called, self.spec.interpreter)
            except BaseException:
                tags.take(self.engine, begun)
                raise
            return {
                **begun,
                "name": self.spec.name,
                "image": made,
                "interpreter": python.path,
                "python": dataclasses.asdict(python),
                "built": time.time(),
            }

        def usable(ready: Record) -> bool:
            return kind == "image" or facts(self.engine, str(ready["image"])) is not None

        def again(ready: Record) -> bool:
            self.installer.say(f"{self.image.engine} has the image {digest} no longer")
            return restored(self.envs / digest, ready, self.source)

        record, made = ready_or_built(self.envs / digest, self.installer, usable, build, again)
        if made:
            (self.envs / digest / MAKING).unlink(missing_ok=True)
        return _Entry(digest, record, made, origin)

    def _why(self, inputs: Mapping[str, object], kind: str) -> str:
        def related(there: Record) -> bool:
            same = ("kind", kind), ("name", self.spec.name), ("engine", self.image.engine)
            return all(there.get(key) == value for key, value in same)

        return why(self.envs, inputs, related, "none was built for it yet")

    def _resolved(self, name: str, within: str = "") -> Image:
        image = resolve(name, self.source, within)
        at = f" ({image.digest})" if image.digest else ""
        self.installer.say(f"image {name} is {image.short}{at}: it {image.words}")
        return image

    def _inputs(self, kind: str, **of_kind: object) -> dict[str, object]:
        return {
            "format": FORMAT, "kind": kind, "engine": self.image.engine, "python": self.spec.interpreter, **of_kind
        }  # fmt: skip

    def _context_digest(self, context: Path | None) -> str:
        if context is None:
            return ""
        return context_digest(context, self.envs, self._ignore_files)

    @property
    def _ignore_files(self) -> tuple[str, ...]:
        return _IGNORE_FILES.get(self.image.engine, (".dockerignore",))

    def _check_version(self, record: Record) -> None:
        """Raises EnvironmentBuildError where another Python is asked for than the image has."""
        has, wanted = str(record["python"]["version"]), self.spec.python_version
        if wanted and not (has + ".").startswith(wanted.rstrip(".*") + "."):
            raise EnvironmentBuildError(
                f"Python {wanted} was asked for, but {record['interpreter']} in the {self._called} is Python "
                f"{has}: leave python_version out, or take an image that has it."
            )


def _short(image: str) -> str:
    return image.removeprefix("sha256:")[:12]


def digest_of(inputs: dict[str, object]) -> str:
    """16 hex digits."""
    text = json.dumps(inputs, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
