"""A build context's digest changes with what a builder would see, and with nothing else."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.contexts import context_digest, staged


@pytest.fixture
def context(tmp_path: Path) -> Path:
    folder = tmp_path / "context"
    (folder / "a" / "b").mkdir(parents=True)
    (folder / "one").write_text("1")
    (folder / "a" / "two").write_text("2")
    (folder / "a" / "b" / "three").write_text("3")
    (folder / "link").symlink_to("a/two")
    return folder


def test_what_is_seen_decides(context: Path, tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    first = context_digest(context, envs)
    assert context_digest(context, envs) == context_digest(context, tmp_path / "other") == first
    seen = {first}
    for change in (
        lambda: (context / "one").write_text("one"),
        lambda: (context / "a" / "two").chmod(0o755),
        lambda: (context / "new").write_text(""),
        lambda: (context / "empty").mkdir(),
        lambda: (context / "a" / "b" / "three").rename(context / "a" / "b" / "3"),
        lambda: ((context / "link").unlink(), (context / "link").symlink_to("one")),
    ):
        change()
        digest = context_digest(context, envs)
        assert digest not in seen
        seen.add(digest)
    digest = context_digest(context, envs)
    os.utime(context / "one")
    with socket.socket(socket.AF_UNIX) as listener:
        here = Path.cwd()
        os.chdir(context)
        listener.bind("s")
        os.chdir(here)
        assert context_digest(context, envs) == digest
    moved = context.rename(tmp_path / "moved")
    assert context_digest(moved, envs) == digest


def test_a_file_that_has_just_changed_is_read_again(context: Path, tmp_path: Path) -> None:
    digests = set()
    for number in range(20):
        (context / "one").write_text(f"{number:4}")
        digests.add(context_digest(context, tmp_path / "envs"))
    assert len(digests) == 20


@pytest.mark.parametrize(
    "lines, left_out, kept",
    [
        ("*.log\n", ["x.log"], ["a/x.log", "log"]),
        ("**/*.log\n", ["x.log", "a/b/x.log"], ["log"]),
        ("a\n", ["a/new", "a/b/new"], ["b"]),
        ("/a/b/\n# note\n\n", ["a/b/new"], ["a/new", "note"]),
        ("*\n!a\n", ["new"], ["a/new"]),
        ("a\n!a/keep\n", ["a/new"], ["a/keep"]),
        ("a/*/x\n", ["a/b/x"], ["a/x", "b/b/x"]),
        ("./new?\n", ["new1"], ["new"]),
    ],
)
def test_lines_of_the_ignore_file_count_from_the_top(
    context: Path, tmp_path: Path, lines: str, left_out: list[str], kept: list[str]
) -> None:
    (context / ".dockerignore").write_text(lines)
    before = context_digest(context, tmp_path / "envs")
    for number, (names, changes) in enumerate([(left_out, False), (kept, True)]):
        for name in names:
            path = context / name
            made = not path.parent.exists()
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text("new")
            assert (context_digest(context, tmp_path / "envs") != before) is changes, name
            path.unlink()
            if made:
                for folder in path.relative_to(context).parents[:-1]:
                    (context / folder).rmdir()
            assert context_digest(context, tmp_path / "envs") == before, number


def test_podmans_own_ignore_file_comes_first(context: Path, tmp_path: Path) -> None:
    (context / ".containerignore").write_text("new\n")
    (context / ".dockerignore").write_text("\n")
    names = (".containerignore", ".dockerignore")
    before = context_digest(context, tmp_path / "envs", names)
    (context / "new").write_text("")
    assert context_digest(context, tmp_path / "envs", names) == before
    assert context_digest(context, tmp_path / "envs") != before


def test_a_builder_gets_what_is_seen_and_nothing_of_the_workspace(context: Path) -> None:
    root = context / ".runs"
    (root / "envs").mkdir(parents=True)
    (context / ".dockerignore").write_text("a\n!a/b\n")
    (context / "link").unlink()
    (context / "link").symlink_to("one")
    (context / "closed").mkdir(mode=0o500)
    (context / "a").chmod(0o751)
    before = context_digest(context, root / "envs")
    (root / "job").write_text("a run's")
    assert context_digest(context, root / "envs") == before
    with staged(context, root / "envs", root / "envs" / "here") as place:
        found = sorted(path.relative_to(place).as_posix() for path in place.rglob("*"))
        assert found == [".dockerignore", "a", "a/b", "a/b/three", "closed", "link", "one"]
        assert (place / "one").samefile(context / "one") and os.readlink(place / "link") == "one"
        assert (place / "a").stat().st_mode == (context / "a").stat().st_mode
        assert (place / "closed").stat().st_mode & 0o777 == 0o500
    assert not place.exists() and (context / "one").read_text() == "1"


def test_a_file_is_not_read_again_because_it_was_staged(context: Path, tmp_path: Path) -> None:
    envs = tmp_path / "envs"
    true = context_digest(context, envs)
    status = (context / "one").stat()
    stamp = [status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns]
    (index,) = (envs / ".contexts").glob("*.json")
    index.write_text(json.dumps({"files": {"one": [*stamp, "what nobody finds by reading"]}}))
    known = context_digest(context, envs)
    assert known == context_digest(context, envs) != true
    with staged(context, envs, envs / "here"):
        pass
    assert (context / "one").stat().st_ctime_ns > stamp[-1]
    assert context_digest(context, envs) == context_digest(context, envs) == known
    with staged(context, envs, envs / "here"):
        (context / "one").write_text("2")
    assert context_digest(context, envs) not in (known, true)


def test_what_cannot_be_read_is_named(context: Path, tmp_path: Path) -> None:
    with pytest.raises(EnvironmentBuildError, match="nowhere cannot be read"):
        context_digest(tmp_path / "nowhere", tmp_path / "envs")
