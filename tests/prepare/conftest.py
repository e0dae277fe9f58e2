"""Tiny packages in a folder of their own, so that environments are really built, quickly and without a network."""

from __future__ import annotations

import base64
import hashlib
import io
import sys
import tarfile
import zipfile
from collections.abc import Sequence
from pathlib import Path

import pytest


class Shelf:
    """A folder of packages, and the pip options that make it the only place to install from."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()

    @property
    def options(self) -> list[str]:
        return ["--no-index", f"--find-links {self.folder}"]

    def build(
        self, name: str, version: str, *, needs: Sequence[str] = (), tag: str = "py3-none-any", text: str = ""
    ) -> Path:
        """A wheel with one module, `name`, whose `version` it is."""
        info = f"{name}-{version}.dist-info"
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        metadata += "".join(f"Requires-Dist: {need}\n" for need in needs)
        files = {
            f"{name}.py": text or f"version = {version!r}\n",
            f"{info}/METADATA": metadata,
            f"{info}/WHEEL": f"Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: {tag}\n",
        }
        record = "".join(f"{path},{_digest(data)},{len(data.encode())}\n" for path, data in files.items())
        files[f"{info}/RECORD"] = record + f"{info}/RECORD,,\n"
        path = self.folder / f"{name}-{version}-{tag}.whl"
        with zipfile.ZipFile(path, "w") as wheel:
            for file, data in files.items():
                wheel.writestr(file, data)
        return path

    def source(self, name: str, version: str, build: str = "raise SystemExit('this needs a compiler')") -> Path:
        """A source archive that no build of this version goes with; `build` runs when it is built."""
        path = self.folder / f"{name}-{version}.tar.gz"
        with tarfile.open(path, "w:gz") as archive:
            metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
            system = '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            files = {"PKG-INFO": metadata, "pyproject.toml": system, "backend.py": build + "\n"}
            for file, text in files.items():
                info = tarfile.TarInfo(f"{name}-{version}/{file}")
                info.size = len(text)
                archive.addfile(info, io.BytesIO(text.encode()))
        return path


def _digest(text: str) -> str:
    return "sha256=" + base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path / "shelf")


@pytest.fixture
def other_python() -> str:
    """The tag of builds for a Python that is not this one."""
    return "cp27-cp27m-any" if sys.version_info[0] == 3 else "cp311-cp311-any"


@pytest.fixture(scope="session")
def pip_wheel() -> Path:
    """pip as a file, which comes with Python."""
    import ensurepip

    return next((Path(ensurepip.__file__).parent / "_bundled").glob("pip-*.whl"))
