"""Makes files of container images from a root file system: for engines to load, and for a registry to serve.

    python3 scripts/image_files.py archive ROOT.tar small.tar localhost/trainkit-small:1
    python3 scripts/image_files.py registry ROOT.tar FOLDER fastdotai/fastai2:latest

The first is what `docker load -i` and `podman load -i` take. The second is the storage of a registry (its file system
driver's), as if the image had been pushed: no engine is asked, and nothing is packed. An image of one root file system
has the same id in both. Only the standard library is used.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import sys
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

_LAYER = "application/vnd.oci.image.layer.v1.tar"
_CONFIG = "application/vnd.oci.image.config.v1+json"
_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _file_digest(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def config(layer: str, variables: Sequence[str] = ()) -> bytes:
    """The configuration of an image of one layer, whose SHA-256 is given; the image's id is this text's SHA-256.

    `variables` ("NAME=value") are set in its containers: images of the same files with others are other images.
    """
    machine = {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)
    return _json(
        {
            "architecture": machine,
            "os": "linux",
            "created": "2024-01-01T00:00:00Z",
            "config": {"Env": [_PATH, *variables], "Cmd": ["/bin/bash"]},
            "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer}"]},
            "history": [{"created": "2024-01-01T00:00:00Z", "created_by": "mmdebstrap"}],
        }
    )


def archive(root: Path, out: Path, name: str) -> str:
    """Write the file that engines load an image with this name from; returns the image's id."""
    layer = _file_digest(root)
    text = config(layer)
    image = hashlib.sha256(text).hexdigest()
    manifest = [{"Config": f"{image}.json", "RepoTags": [name], "Layers": [f"{layer}/layer.tar"]}]
    with tarfile.open(out, "w") as file:
        for path, content in ((f"{image}.json", text), ("manifest.json", _json(manifest))):
            entry = tarfile.TarInfo(path)
            entry.size = len(content)
            file.addfile(entry, io.BytesIO(content))
        file.add(root, f"{layer}/layer.tar")
    return f"sha256:{image}"


class Storage:
    """The folder that a registry keeps its images in."""

    def __init__(self, folder: Path) -> None:
        self.base = folder / "docker" / "registry" / "v2"

    def _link(self, digest: str, *place: str) -> None:
        file = self.base.joinpath("repositories", *place, "link")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"sha256:{digest}")

    def _blob(self, digest: str) -> Path:
        file = self.base / "blobs" / "sha256" / digest[:2] / digest / "data"
        file.parent.mkdir(parents=True, exist_ok=True)
        return file

    def _put(self, content: bytes) -> str:
        digest = hashlib.sha256(content).hexdigest()
        self._blob(digest).write_bytes(content)
        return digest

    def layer(self, name: str) -> Path:
        """The root file system of an image that `add` has put there."""
        repository, _, tag = name.rpartition(":")
        place = ("repositories", repository, "_manifests", "tags", tag, "current", "link")
        manifest = self._blob(self.base.joinpath(*place).read_text().removeprefix("sha256:"))
        return self._blob(json.loads(manifest.read_text())["layers"][0]["digest"].removeprefix("sha256:"))

    def add(self, root: Path, name: str, variables: Sequence[str] = ()) -> str:
        """Put the image of a root file system there under a name; returns the digest that a pull of it tells."""
        repository, _, tag = name.rpartition(":")
        layer = _file_digest(root)
        if not self._blob(layer).exists():
            try:
                os.link(root, self._blob(layer))
            except OSError:  # another file system
                shutil.copyfile(root, self._blob(layer))
        text = config(layer, variables)
        image = self._put(text)
        parts = {
            "schemaVersion": 2,
            "mediaType": _MANIFEST,
            "config": {"mediaType": _CONFIG, "size": len(text), "digest": f"sha256:{image}"},
            "layers": [{"mediaType": _LAYER, "size": root.stat().st_size, "digest": f"sha256:{layer}"}],
        }
        manifest = self._put(_json(parts))
        for digest in (layer, image):
            self._link(digest, repository, "_layers", "sha256", digest)
        self._link(manifest, repository, "_manifests", "revisions", "sha256", manifest)
        self._link(manifest, repository, "_manifests", "tags", tag, "index", "sha256", manifest)
        self._link(manifest, repository, "_manifests", "tags", tag, "current")
        return f"sha256:{manifest}"


def main(words: list[str]) -> None:
    """Do what the command line asks and print the digest."""
    if len(words) != 4 or words[0] not in ("archive", "registry"):
        raise SystemExit((__doc__ or "").strip())
    kind, root, out, name = words
    print(archive(Path(root), Path(out), name) if kind == "archive" else Storage(Path(out)).add(Path(root), name))


if __name__ == "__main__":
    main(sys.argv[1:])
