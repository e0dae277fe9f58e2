"""Published archives: fetched once per machine, continued where a connection broke, checked, safely unpacked."""

from __future__ import annotations

import fcntl
import hashlib
import http.client
import os
import shutil
import stat
import tarfile
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from trainkit import UserErrorException
from trainkit.boot.rundir import make_private, publish, read_json, replace

_ATTEMPTS = 5
_TIMEOUT_SECONDS = 30
_BLOCK = 1 << 20
_LARGEST_BYTES = 4 << 30  # of an archive, and of what it unpacks to


@dataclass(frozen=True)
class Archive:
    """A file and where it is published; the first address that answers is used."""

    urls: tuple[str, ...]
    sha256: str = ""  # its first digits at least, where its publisher states them; else the first fetch pins it


ARCHIVES = {
    "fowl": Archive(
        (
            "https://azuremlexamples.blob.core.windows.net/datasets/fowl_data.zip",
            "https://azureopendatastorage.blob.core.windows.net/testpublic/temp/fowl_data.zip",
        )
    ),
    "hymenoptera": Archive(("https://download.pytorch.org/tutorial/hymenoptera_data.zip",)),
}


def once(folder: Path, make: Callable[[Path], None]) -> Path:
    """`folder`, filled by `make` unless it exists: whole or not at all, by one process of however many ask."""
    make_private(folder.parent)
    with open(folder.with_name(folder.name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
            try:
                make(unfinished)
                os.rename(unfinished, folder)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return folder


def split_root(folder: Path, name: str) -> Path:
    """The folder with train/ and val/ in what was unpacked."""
    roots = [p.parent for p in sorted(folder.glob("**/train")) if (p.parent / "val").is_dir()]
    if not roots:
        raise UserErrorException(f"{name} has no folders train/ and val/ side by side.")
    return roots[0]


def unpacked(
    name: str, cache: Path, archives: dict[str, Archive] | None = None, root: Callable[[Path, str], Path] = split_root
) -> Path:
    """The folder of a published data set's pictures, fetched and unpacked under `cache` on first use.

    `root` finds it in what was unpacked, or raises; it is given the archive's name to say so. Raises UserErrorException
    where it cannot be fetched, is not the file that it should be, or is not safe.
    """

    def make(folder: Path) -> None:
        archive = download((archives or ARCHIVES)[name], cache / "downloads")
        unpack(archive, folder)
        archive.unlink()  # its pin stays: what is fetched later has to be the same file
        root(folder, archive.name)

    return root(once(cache / "data" / name, make), name)


def download(archive: Archive, folder: Path) -> Path:
    """The archive's file in `folder`, fetched unless it is there. Raises UserErrorException with the last reason."""
    name = PurePosixPath(archive.urls[0]).name
    file, part = folder / name, folder / (name + ".part")
    make_private(folder)
    with open(folder / (name + ".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if file.exists():
            return file
        reasons = []
        for url in archive.urls:
            try:
                _fetch(url, part)
                break
            except OSError as error:
                reasons.append(f"{url}: {error}")
        else:
            raise UserErrorException(f"{name} could not be fetched ({'; '.join(reasons)}).")
        _check(part, archive, folder / (name + ".sha256.json"))
        os.rename(part, file)
    return file


def _fetch(url: str, part: Path) -> None:
    """Make `part` the whole file at `url`; what an earlier attempt left of the same version is not fetched again."""
    for attempt in range(_ATTEMPTS):
        before = part.stat().st_size if part.exists() else 0
        try:
            _fetch_rest(url, part)
            return
        except (OSError, http.client.HTTPException) as error:
            code = getattr(error, "code", 500)
            grown = part.exists() and part.stat().st_size > before
            if code < 500 or (attempt == _ATTEMPTS - 1 and not grown) or isinstance(error, _Refused):
                raise error if isinstance(error, OSError) else OSError(repr(error)) from error
            time.sleep(0.2 * attempt)
    raise OSError(f"the connection broke {_ATTEMPTS} times")


class _Refused(OSError):
    """Trying again cannot help."""


def _fetch_rest(url: str, part: Path) -> None:
    """One request: for the bytes that `part` lacks, if the server still has the version that they belong to."""
    version = part.with_name(part.name + ".json")
    have = part.stat().st_size if part.exists() else 0
    known = (read_json(version) or {}) if have else {}
    request = urllib.request.Request(url, headers={"Accept-Encoding": "identity"})
    if have and known.get("url") == url and known.get("tag"):
        request.add_header("Range", f"bytes={have}-")
        request.add_header("If-Range", known["tag"])
    with urllib.request.urlopen(request, timeout=_TIMEOUT_SECONDS) as response:
        resumed = response.status == 206 and response.headers.get("Content-Range", "").startswith(f"bytes {have}-")
        if response.status == 206 and not resumed:
            part.unlink(missing_ok=True)
            raise OSError("the server sent another range than was asked for")
        length = response.headers.get("Content-Length")
        if length is not None and int(length) > _LARGEST_BYTES:
            raise _Refused(f"the file has {length} bytes, more than the {_LARGEST_BYTES} that are fetched")
        if not resumed:
            # A tag that starts with W/ names content that is only alike: no use for continuing a file.
            tag = response.headers.get("ETag") or response.headers.get("Last-Modified") or ""
            replace(version, {"url": url, "tag": "" if tag.startswith("W/") else tag})
        _write(response, part, "ab" if resumed else "wb", None if length is None else int(length))
    version.unlink()


def _write(response: http.client.HTTPResponse, part: Path, mode: str, length: int | None) -> None:
    received = 0
    with open(part, mode) as file:
        while block := response.read(_BLOCK):
            file.write(block)
            received += len(block)
            if received > _LARGEST_BYTES:
                raise _Refused(f"the file has more than the {_LARGEST_BYTES} bytes that are fetched")
        file.flush()
        os.fsync(file.fileno())
    if length is not None and received < length:
        raise OSError(f"the connection broke after {received} of {length} bytes")


def _check(part: Path, archive: Archive, pin: Path) -> None:
    """Compare the file with its published checksum, or with the one that the first fetch pinned."""
    digest = hashlib.sha256()
    with open(part, "rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    found = digest.hexdigest()
    if archive.sha256:
        wanted, by = archive.sha256, "its publisher states"
    else:
        publish(pin, {"sha256": found, "url": archive.urls[0], "time": time.time()})
        wanted, by = (
            str((read_json(pin) or {}).get("sha256", found)),
            f"the first fetch had ({pin}; remove it to accept the new file)",
        )
    if not found.startswith(wanted):
        part.unlink()
        raise UserErrorException(f"{part.stem} has the sha256 {found}, not the {wanted} that {by}.")


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a zip or tar file below `folder`: plain files and folders only, and nothing outside it.

    Raises UserErrorException before anything is written where a member has an absolute name, "..", or is a link.
    """
    if archive.name.endswith((".tar.gz", ".tgz", ".tar")):
        _untar(archive, folder)
        return
    try:
        with zipfile.ZipFile(archive) as opened:
            members = [m for m in opened.infolist() if not m.is_dir()]
            for member in members:
                kind = stat.S_IFMT(member.external_attr >> 16)
                _refuse_unsafe(archive, member.filename, kind in (0, stat.S_IFREG))
            if sum(m.file_size for m in members) > _LARGEST_BYTES:
                raise UserErrorException(f"{archive.name} unpacks to more than {_LARGEST_BYTES} bytes; nothing was.")
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.filename).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                with opened.open(member) as source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError) as error:
        raise UserErrorException(f"{archive.name} cannot be unpacked: {error}.") from error


def _untar(archive: Path, folder: Path) -> None:
    try:
        with tarfile.open(archive) as opened:
            members = [member for member in opened.getmembers() if not member.isdir()]
            for member in members:
                _refuse_unsafe(archive, member.name.removeprefix("./"), member.isreg())
            if sum(member.size for member in members) > _LARGEST_BYTES:
                raise UserErrorException(f"{archive.name} unpacks to more than {_LARGEST_BYTES} bytes; nothing was.")
            for member in members:
                target = folder.joinpath(*PurePosixPath(member.name).parts)
                target.parent.mkdir(parents=True, exist_ok=True)
                source = opened.extractfile(member)
                assert source is not None  # a plain file
                with source, open(target, "xb") as file:
                    shutil.copyfileobj(source, file, _BLOCK)
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        raise UserErrorException(f"{archive.name} cannot be unpacked: {error}.") from error


def _refuse_unsafe(archive: Path, name: str, plain: bool) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or ":" in parts[0] or ".." in parts:
        raise UserErrorException(f"{archive.name} has a member outside its own folder, {name!r}; nothing was unpacked.")
    if not plain:
        raise UserErrorException(f"{archive.name} has a member that is no plain file, {name!r}; nothing was unpacked.")
