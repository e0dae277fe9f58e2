"""Archives from a real server on the loopback: continued, checked, pinned, unpacked without escaping."""

from __future__ import annotations

import hashlib
import io
import stat
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainkit import UserErrorException
from trainkit_recipes.fetch import Archive, download, once, unpack, unpacked


def archive_of(members: dict[str, bytes]) -> bytes:
    """A zip file with these members, in memory."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return data.getvalue()


TREE = {f"top/{split}/{kind}/1.jpg": kind.encode() * 50_000 for split in ("train", "val") for kind in ("a", "b")}


@dataclass
class Site:
    """What the server has and does; `asked` are the Range headers of the requests so far."""

    content: bytes = b""
    ranges: bool = True
    tag: str = '"1"'
    cut: list[int] = field(default_factory=list)  # after how many bytes each next answer breaks off
    status: list[int] = field(default_factory=list)  # of the next answers, instead of content
    asked: list[str] = field(default_factory=list)
    url: str = ""


@pytest.fixture
def site() -> Iterator[Site]:
    site = Site(archive_of(TREE))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked = self.headers.get("Range", "")
            site.asked.append(asked)
            if site.status:
                self.send_error(site.status.pop(0))
                return
            first = 0
            if asked and site.ranges and self.headers.get("If-Range") == site.tag:
                first = int(asked.removeprefix("bytes=").rstrip("-"))
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {first}-{len(site.content) - 1}/{len(site.content)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(site.content) - first))
            self.send_header("ETag", site.tag)
            self.end_headers()
            last = first + site.cut.pop(0) if site.cut else len(site.content)
            self.wfile.write(site.content[first:last])

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}/birds.zip"
    yield site
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_whole_file(site: Site, tmp_path: Path) -> None:
    file = download(Archive((site.url,)), tmp_path)
    assert file.read_bytes() == site.content and file.name == "birds.zip"
    assert not list(tmp_path.glob("*.part*"))
    assert download(Archive((site.url,)), tmp_path) == file
    assert len(site.asked) == 1, "once per machine"


def test_a_dropped_connection_is_continued(site: Site, tmp_path: Path) -> None:
    site.cut = [1000, 500]
    assert download(Archive((site.url,)), tmp_path).read_bytes() == site.content
    assert site.asked == ["", "bytes=1000-", "bytes=1500-"]


def test_a_later_process_continues(site: Site, tmp_path: Path) -> None:
    site.cut, site.status = [1000], []
    archive = Archive((site.url,))
    site.cut += [0] * 9  # the first process gives up
    with pytest.raises(UserErrorException, match=r"birds\.zip could not be fetched .*connection broke after 0 of"):
        download(archive, tmp_path)
    site.cut.clear()
    site.asked.clear()
    assert download(archive, tmp_path).read_bytes() == site.content
    assert site.asked == ["bytes=1000-"]


def test_without_ranges_it_starts_again(site: Site, tmp_path: Path) -> None:
    site.ranges, site.cut = False, [1000, 2000]
    assert download(Archive((site.url,)), tmp_path).read_bytes() == site.content
    assert len(site.asked) == 3


def test_another_version_is_not_glued_to_the_first(site: Site, tmp_path: Path) -> None:
    site.cut = [1000] + [0] * 9
    with pytest.raises(UserErrorException):
        download(Archive((site.url,)), tmp_path)
    site.cut.clear()
    site.content, site.tag = archive_of({"other": b"x" * 9000}), '"2"'
    assert download(Archive((site.url,)), tmp_path).read_bytes() == site.content


def test_a_busy_server_is_asked_again_and_a_missing_file_is_not(site: Site, tmp_path: Path) -> None:
    site.status = [503, 502]
    download(Archive((site.url,)), tmp_path / "a")
    assert len(site.asked) == 3
    site.asked.clear()
    site.status = [404, 404]
    with pytest.raises(UserErrorException, match="HTTP Error 404"):
        download(Archive((site.url,)), tmp_path / "b")
    assert len(site.asked) == 1


def test_the_next_address_is_used(site: Site, tmp_path: Path) -> None:
    site.status = [404]
    assert download(Archive((site.url, site.url + "?mirror")), tmp_path).read_bytes() == site.content


def test_no_network_is_a_clear_error(site: Site, tmp_path: Path) -> None:
    gone = "http://127.0.0.1:1/birds.zip"
    with pytest.raises(UserErrorException, match=r"birds\.zip could not be fetched \(http://127\.0\.0\.1:1/.*refused"):
        download(Archive((gone,)), tmp_path)


def test_a_published_checksum_is_kept_to(site: Site, tmp_path: Path) -> None:
    right = hashlib.sha256(site.content).hexdigest()
    assert download(Archive((site.url,), right[:8]), tmp_path / "a").exists()
    with pytest.raises(UserErrorException, match="has the sha256 .* not the 00000000 that its publisher states"):
        download(Archive((site.url,), "00000000"), tmp_path / "b")
    assert not [p for p in (tmp_path / "b").iterdir() if p.suffix in (".zip", ".part")]


def test_the_first_fetch_pins(site: Site, tmp_path: Path) -> None:
    archives = {"birds": Archive((site.url,))}
    folder = unpacked("birds", tmp_path, archives)
    assert (folder / "train/a/1.jpg").read_bytes() == TREE["top/train/a/1.jpg"]
    assert unpacked("birds", tmp_path, archives) == folder and len(site.asked) == 1
    for path in sorted((tmp_path / "data" / "birds").rglob("*"), reverse=True):
        path.unlink() if path.is_file() else path.rmdir()
    (tmp_path / "data" / "birds").rmdir()
    site.content = archive_of({**TREE, "top/train/a/2.jpg": b"changed"})
    with pytest.raises(UserErrorException, match="that the first fetch had"):
        unpacked("birds", tmp_path, archives)
    assert not (tmp_path / "data" / "birds").exists(), "nothing half made"


def link(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name)
    info.external_attr = (stat.S_IFLNK | 0o777) << 16
    return info


@pytest.mark.parametrize("name", ["/etc/evil", "../evil", "top/../../evil", "C:\\evil", "C:/evil", "top\\..\\evil"])
def test_members_outside_are_refused(tmp_path: Path, name: str) -> None:
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr("top/good", b"x")
        info = zipfile.ZipInfo("placeholder")
        info.filename = name
        archive.writestr(info, b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserErrorException, match="outside its own folder"):
        unpack(evil, tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


def test_links_are_refused(tmp_path: Path) -> None:
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as archive:
        archive.writestr(link("top/way-out"), "/etc")
        archive.writestr("top/way-out/passwd", b"x")
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserErrorException, match="no plain file, 'top/way-out'"):
        unpack(evil, tmp_path / "folder")
    assert not list((tmp_path / "folder").iterdir())


@pytest.mark.parametrize("content", [b"", b"no archive", archive_of(TREE)[:-40]])
def test_a_damaged_archive_is_an_error(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    with pytest.raises(UserErrorException, match=r"x\.zip cannot be unpacked"):
        unpack(tmp_path / "x.zip", tmp_path)


def test_an_archive_without_the_two_folders_is_an_error(site: Site, tmp_path: Path) -> None:
    site.content = archive_of({"readme": b"x"})
    with pytest.raises(UserErrorException, match="no folders train/ and val/"):
        unpacked("birds", tmp_path, {"birds": Archive((site.url,))})
    assert not (tmp_path / "data" / "birds").exists()


def test_what_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    def half(folder: Path) -> None:
        (folder / "one").write_text("x")
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        once(tmp_path / "made", half)
    assert [p.name for p in tmp_path.iterdir()] == ["made.lock"]
    assert (once(tmp_path / "made", lambda folder: (folder / "one").touch()) / "one").exists()
