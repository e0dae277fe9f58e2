"""What of a directory goes into a snapshot, and what is said of the rest."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from trainkit.errors import SnapshotException
from trainkit.snapshot import listing
from trainkit.tree import read_tree

KEY = "-----BEGIN OPENSSH PRIVATE KEY-----\nabc\n"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source directory with one script."""
    path = tmp_path / "source"
    path.mkdir()
    (path / "train.py").write_text("print()")
    return path


def put(source: Path, *names: str, text: str = "x") -> None:
    for name in names:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(text)


def goes(source: Path, root: Path | None = None) -> list[str]:
    """Paths of all files that go."""
    return [file.path for file in listing(source, root).files]


def said(source: Path) -> list[str]:
    """What a user is told at submit."""
    return read_tree(source).left_out


def test_never(source: Path) -> None:
    put(source, ".git/config", "lib/.git", "__pycache__/a.pyc", "lib/__pycache__/a.pyc", ".hg/x", "lib/a.py")
    put(source, "env/pyvenv.cfg", "env/lib/a.py", "lib/conda/conda-meta/history", ".trainkit/runs/x", "records/runs/x")
    assert goes(source, source / "records") == ["lib/a.py", "train.py"]
    assert said(source) == []
    explained = listing(source, source / "records").left_out
    assert "env/: a virtual environment" in explained
    assert "records/: the workspace's root" in explained
    assert ".git/: version control" in explained


def test_the_jobs_own_folders(source: Path) -> None:
    put(source, "outputs/model.pt", "logs/a.log", "lib/outputs/a.py", "lib/logs/b.py")
    assert goes(source) == ["lib/logs/b.py", "lib/outputs/a.py", "train.py"]
    assert said(source) == [
        "logs/: the job's own logs folder takes its place",
        "outputs/: the job's own outputs folder takes its place",
    ]


def test_the_workspaces_root_by_any_name(source: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (source / "link").symlink_to(tmp_path / "elsewhere")
    assert goes(source, tmp_path / "elsewhere") == ["train.py"]
    with pytest.raises(SnapshotException, match="workspace's own root"):
        read_tree(source, source)


def test_amlignore_has_the_last_word_after_gitignore(source: Path) -> None:
    put(source, "data/a.bin", "data/b.bin", "lib/a.bin", "lib/keep.bin", "notes.txt")
    (source / ".gitignore").write_text("*.bin\n")
    (source / ".amlignore").write_text("notes.txt\n!/data/a.bin\n")
    (source / "lib/.amlignore").write_text("!keep.bin\n")
    assert goes(source) == [
        ".amlignore", ".gitignore", "data/a.bin", "lib/.amlignore", "lib/keep.bin", "train.py",
    ]  # fmt: skip
    assert "notes.txt: .amlignore" in listing(source).left_out
    assert "data/b.bin: .gitignore" in listing(source).left_out
    assert said(source) == []


def test_secrets_are_left_out_with_one_line_each(source: Path) -> None:
    put(source, ".env", ".env.local", "lib/id_rsa", "cert.p12", ".netrc", ".ssh/config")
    put(source, "key", "deep/server.pem", "putty", text=KEY)
    put(source, "putty", text="PuTTY-User-Key-File-3: x")
    put(source, "bag.pem", text="Bag Attributes\n-----BEGIN ENCRYPTED PRIVATE KEY-----\n")
    put(source, ".env.example", "cert.pem", "keys.py", "env.py", text=f'KEY = "{KEY}"')
    assert goes(source) == [".env.example", "env.py", "keys.py", "train.py"]
    left_out = listing(source).left_out
    assert len(left_out) == 11
    assert '.env: looks like a secret (a line "!.env" in .amlignore sends it all the same)' in left_out
    (source / ".amlignore").write_text("!.env\n!/key\n")
    (source / ".gitignore").write_text(".env\n.netrc\n!.env.local\n")
    assert {".env", "key"} < set(goes(source))
    assert ".env.local" not in goes(source)  # git's opinion is about git
    assert [line for line in said(source) if line.startswith(".netrc")]  # named although git ignores it too


def test_certificates_are_not_secrets(source: Path) -> None:
    put(source, "ca.pem", "public.key", text="-----BEGIN CERTIFICATE-----\n")
    assert goes(source) == ["ca.pem", "public.key", "train.py"]


def test_special_files_are_named_and_never_opened(source: Path) -> None:
    os.mkfifo(source / "pipe")
    os.mkfifo(source / "lib.py")
    with socket.socket(socket.AF_UNIX) as opened:
        opened.bind(os.path.relpath(source / "socket"))
        assert goes(source) == ["train.py"]
    assert said(source) == [
        "lib.py: neither a file nor a directory, but a pipe",
        "pipe: neither a file nor a directory, but a pipe",
        "socket: neither a file nor a directory, but a socket",
    ]


def test_links_inside_stay_links(source: Path) -> None:
    put(source, "lib/a.py")
    (source / "one").symlink_to("lib/a.py")
    (source / "lib/two").symlink_to(source / "train.py")  # absolute: would lead to the live source
    (source / "three").symlink_to("../source/lib")
    (source / "four").symlink_to("one")
    (source / "later").symlink_to("outputs/model.pt")
    links = {entry.path: entry.target for entry in read_tree(source).entries if entry.kind == "link"}
    assert links == {
        "one": "lib/a.py", "lib/two": "../train.py", "three": "lib", "four": "lib/a.py", "later": "outputs/model.pt",
    }  # fmt: skip


def test_links_that_lead_nowhere_are_named(source: Path) -> None:
    (source / "gone").symlink_to("/nowhere/at/all")
    (source / "self").symlink_to("self")
    (source / "odd").symlink_to("train.py/x")
    (source / "a").symlink_to("b")
    (source / "b").symlink_to("a")
    assert goes(source)[-1] == "train.py"
    assert "gone: a link to /nowhere/at/all, which does not exist" in said(source)
    assert "self: a link to self, which does not exist" in said(source)


def test_a_link_to_a_file_outside_is_that_file(source: Path, tmp_path: Path) -> None:
    put(tmp_path, "common.py", text="12345")
    put(tmp_path, "id_ed25519")
    (source / "common.py").symlink_to("../common.py")
    (source / "innocent.txt").symlink_to(tmp_path / "id_ed25519")
    entry = next(entry for entry in read_tree(source).entries if entry.path == "common.py")
    assert (entry.kind, entry.bytes) == ("file", 5)
    assert "innocent.txt" not in goes(source)


def test_a_link_to_a_directory_outside_is_refused_or_ignored(source: Path, tmp_path: Path) -> None:
    put(tmp_path, "photos/a.jpg")
    put(tmp_path, "environment/pyvenv.cfg")
    (source / "env").symlink_to(tmp_path / "environment")
    (source / "outputs").symlink_to(tmp_path / "photos")
    assert goes(source) == ["train.py"]
    (source / "data").symlink_to(tmp_path / "photos")
    with pytest.raises(
        SnapshotException, match=r"link to the directory .*photos, outside.*a line 'data' in .*amlignore"
    ):
        read_tree(source)
    for line in ("data", "data/", "/data"):
        (source / ".gitignore").write_text(line)
        assert goes(source) == [".gitignore", "train.py"]


def test_deep_and_oddly_named(source: Path) -> None:
    deep = source.joinpath(*["d"] * 300)
    name = os.fsdecode(b"\xff\n\"'$(x)")
    current = os.getcwd()
    try:
        os.chdir(source)
        for _ in range(300):
            os.mkdir("d")
            os.chdir("d")
        Path(name).write_text("x")
    finally:
        os.chdir(current)
    assert goes(source) == [f"{deep.relative_to(source)}/{name}", "train.py"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_cannot_be_read_is_named(source: Path) -> None:
    (source / "closed").mkdir(mode=0)
    with pytest.raises(SnapshotException, match="closed cannot be read .*amlignore"):
        read_tree(source)
    (source / "closed").chmod(0o700)
