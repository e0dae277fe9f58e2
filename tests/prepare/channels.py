"""Conda packages and the channel that they are in, made by the tests: small, real, and without a network."""

from __future__ import annotations

import hashlib
import io
import json
import os
import platform
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

SUBDIR = "linux-64" if platform.machine() == "x86_64" else f"linux-{platform.machine()}"
VERSION, MINOR = (".".join(map(str, sys.version_info[:count])) for count in (3, 2))


class Channel:
    """A folder that is a conda channel; each package is listed as soon as it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.listed: dict[str, dict[str, Any]] = {SUBDIR: {}, "noarch": {}}

    @property
    def address(self) -> str:
        return self.folder.as_uri()

    def python(self) -> None:
        """This machine's own interpreter as a conda package: a link to it, and what makes it a prefix of its own."""
        real = os.path.realpath(sys.executable)
        files = {
            "pyvenv.cfg": "\n".join(
                (f"home = {os.path.dirname(real)}", "include-system-site-packages = false", f"version = {VERSION}", "")
            ),
            f"lib/python{MINOR}/site-packages/README.txt": "packages\n",
        }
        links = {f"bin/python{MINOR}": real, "bin/python": f"python{MINOR}"}
        self.package("python", VERSION, files, links=links, subdir=SUBDIR)

    def module(self, name: str, version: str, *depends: str) -> Path:
        """A package of one module, `name`, with its `version`."""
        module = name.replace("-", "_")
        metadata = f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        files = {
            f"site-packages/{module}.py": f"version = {version!r}\n",
            f"site-packages/{module}-{version}.dist-info/METADATA": metadata,
        }
        return self.package(name, version, files, depends=["python", *depends], noarch="python")

    def package(
        self, name: str, version: str, files: Mapping[str, str], *, links: Mapping[str, str] | None = None,
        depends: Sequence[str] = (), noarch: str = "", subdir: str = "noarch",
    ) -> Path:  # fmt: skip
        """A package of these files; `noarch` is "python", "generic" or, with a `subdir`, nothing."""
        index: dict[str, Any] = {"name": name, "version": version, "build": "0", "build_number": 0}
        index.update(depends=list(depends), subdir=subdir, **({"noarch": noarch} if noarch else {}))
        paths = [_entry(path, "hardlink", text) for path, text in files.items()]
        paths += [_entry(path, "softlink", "") for path in links or {}]
        info = {
            "info/index.json": json.dumps(index),
            "info/paths.json": json.dumps({"paths": paths, "paths_version": 1}),
            "info/files": "".join(f"{entry['_path']}\n" for entry in paths),
        }
        if noarch == "python":
            info["info/link.json"] = json.dumps({"noarch": {"type": "python"}, "package_metadata_version": 1})
        path = self.folder / subdir / f"{name}-{version}-0.tar.bz2"
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w:bz2") as archive:
            for file, text in {**info, **files}.items():
                member = tarfile.TarInfo(file)
                member.size, member.mode = len(text.encode()), 0o644
                archive.addfile(member, io.BytesIO(text.encode()))
            for file, target in (links or {}).items():
                member = tarfile.TarInfo(file)
                member.type, member.linkname = tarfile.SYMTYPE, target
                archive.addfile(member)
        data = path.read_bytes()
        sums = {"md5": hashlib.md5(data).hexdigest(), "sha256": hashlib.sha256(data).hexdigest(), "size": len(data)}
        self.listed[subdir][path.name] = {**index, **sums}
        self._list()
        return path

    def _list(self) -> None:
        for subdir, packages in self.listed.items():
            (self.folder / subdir).mkdir(parents=True, exist_ok=True)
            told = {"info": {"subdir": subdir}, "packages": packages, "packages.conda": {}, "repodata_version": 1}
            (self.folder / subdir / "repodata.json").write_text(json.dumps(told))


def _entry(path: str, kind: str, text: str) -> dict[str, Any]:
    data = text.encode()
    return {
        "_path": path, "path_type": kind, "sha256": hashlib.sha256(data).hexdigest(), "size_in_bytes": len(data)
    }  # fmt: skip
