"""An image's name, taken apart as docker does it, so that every engine means the same image by it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from trainkit.errors import UserErrorException

DEFAULT_DOMAIN = "docker.io"
LOCAL_DOMAIN = "localhost"  # podman's word for images that were made here
_PATH = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_ID = re.compile(r"(?:sha256:)?[0-9a-f]{64}")


@dataclass(frozen=True)
class ImageName:
    """A name with nothing left out: where the image is, its path there, and which of its versions."""

    domain: str  # "docker.io", "registry.example.org:5000"; empty for an image id
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def full(self) -> str:
        """As engines take it."""
        if not self.domain:
            return self.path
        return self.repository + (f"@{self.digest}" if self.digest else f":{self.tag}")

    @property
    def repository(self) -> str:
        """Without the version."""
        return f"{self.domain}/{self.path}"

    @property
    def is_fixed(self) -> bool:
        """Whether it can never mean another image: an id, or a name with a digest."""
        return bool(self.digest) or not self.domain

    def in_local_store(self) -> ImageName:
        """The name under which podman keeps an image of this name that was made here."""
        path = self.path.removeprefix("library/")
        return ImageName(LOCAL_DOMAIN, path, self.tag, self.digest)


def host_of(address: str) -> str:
    """The registry's host and port in an address, which may name a folder in it; docker's own has one name."""
    host = address.partition("/")[0]
    return DEFAULT_DOMAIN if host in ("index.docker.io", "registry-1.docker.io", "hub.docker.com") else host


def parse(name: str, registry: str = "") -> ImageName:
    """The name in full; one without a registry is in `registry`, or in docker's. Raises UserErrorException."""
    if _ID.fullmatch(name):
        return ImageName("", name)
    rest, _, digest = name.partition("@")
    first, slash, others = rest.partition("/")
    explicit = bool(slash) and ("." in first or ":" in first or first == LOCAL_DOMAIN)
    if not explicit and registry:
        first, _, folder = registry.partition("/")
        explicit, others = True, f"{folder}/{rest}" if folder else rest
    domain, path = (first, others) if explicit else (DEFAULT_DOMAIN, rest)
    path, colon, tag = path.partition(":")
    domain = host_of(domain)
    if domain == DEFAULT_DOMAIN and "/" not in path:
        path = "library/" + path
    fits = _PATH.fullmatch(path) and (_TAG.fullmatch(tag) or not colon) and (_DIGEST.fullmatch(digest) or not digest)
    if not fits:
        raise UserErrorException(
            f"{name!r} is no name of an image. A name is [registry/]path[:tag] or [registry/]path@sha256:..., its path "
            "in small letters, as in 'fastdotai/fastai2:latest'."
        )
    return ImageName(domain, path, tag or "latest", digest)
