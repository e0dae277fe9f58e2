"""Snapshots: what was there at submit, whole, apart from everything that happens later."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit.errors import SnapshotException
from trainkit.packs import PACKED_BYTES
from trainkit.snapshot import DEFAULT_LIMIT_BYTES, listing, restore, take


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A source directory: a script, a package, an empty folder, a link, a large file."""
    path = tmp_path / "source"
    (path / "lib/empty").mkdir(parents=True)
    (path / "train.py").write_text("import lib")
    (path / "lib/__init__.py").write_text("")
    (path / "run.sh").write_text("#!/bin/sh\n")
    (path / "run.sh").chmod(0o755)
    (path / "link").symlink_to("lib/__init__.py")
    (path / "weights.bin").write_bytes(bytes(range(256)) * (PACKED_BYTES // 256 + 1))
    settle(path)
    return path


def settle(source: Path) -> None:
    """Wait until a change would show in the files' times, as it does for a tree that nobody just wrote."""
    newest = max(path.lstat().st_ctime_ns for path in [source, *source.rglob("*")])
    probe = source.parent / "probe"
    while True:
        probe.touch()
        if probe.stat().st_mtime_ns > newest + 150_000_000:
            return


def contents(top: Path) -> dict[str, object]:
    """Everything below `top`: text of links, bytes of files."""
    found: dict[str, object] = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        found[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return found


def stored(store: Path) -> dict[str, object]:
    return {name: value for name, value in contents(store).items() if not name.startswith("index")}


def test_what_is_laid_out_is_what_was_there(source: Path, tmp_path: Path) -> None:
    snapshot = take(source, tmp_path / "code", tmp_path / "store")
    assert contents(tmp_path / "code") == contents(source)
    assert os.access(tmp_path / "code/run.sh", os.X_OK)
    assert stat.S_IMODE((tmp_path / "code/train.py").stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "code/lib").stat().st_mode) == 0o700
    assert snapshot.files == 5
    assert snapshot.bytes == sum(p.stat().st_size for p in source.rglob("*") if p.is_file() and not p.is_symlink())
    assert snapshot.left_out == []
    assert len(snapshot.id) == 64
    assert (tmp_path / "store").stat().st_mode & 0o077 == 0


def test_equal_trees_are_one_snapshot_and_an_unchanged_one_is_not_read(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = take(source, tmp_path / "one", store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    again = take(source, tmp_path / "two", store)
    assert again == first
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before
    assert contents(tmp_path / "two") == contents(source)
    copy = tmp_path / "copy"
    subprocess.run(["cp", "-a", str(source), str(copy)], check=True)
    assert take(copy, tmp_path / "three", store).id == first.id


def test_a_change_without_a_new_size_or_time_is_seen(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    first = take(source, tmp_path / "one", store)
    times = (source / "train.py").stat()
    (source / "train.py").write_text("import LIB")
    os.utime(source / "train.py", ns=(times.st_atime_ns, times.st_mtime_ns))
    second = take(source, tmp_path / "two", store)
    assert second.id != first.id
    assert (tmp_path / "two/train.py").read_text() == "import LIB"
    assert (tmp_path / "one/train.py").read_text() == "import lib"


def test_a_file_changed_again_at_once_is_seen(source: Path, tmp_path: Path) -> None:
    for number in range(20):
        (source / "train.py").write_text(f"{number:04}")
        take(source, tmp_path / f"code{number}", tmp_path / "store")
        assert (tmp_path / f"code{number}/train.py").read_text() == f"{number:04}"


def test_what_counts_changes_the_id(source: Path, tmp_path: Path) -> None:
    ids = [take(source, tmp_path / "0", tmp_path / "store").id]
    for number, change in enumerate(
        [
            lambda: (source / "train.py").chmod(0o755),
            lambda: (source / "train.py").rename(source / "main.py"),
            lambda: (source / "new").mkdir(),
            lambda: ((source / "link").unlink(), (source / "link").symlink_to("main.py")),
            lambda: (source / "weights.bin").write_bytes(b"1" * (PACKED_BYTES + 1)),
        ],
        start=1,
    ):
        change()
        ids.append(take(source, tmp_path / str(number), tmp_path / "store").id)
        assert contents(tmp_path / str(number)) == contents(source)
    assert len(set(ids)) == len(ids)


def test_a_job_that_writes_into_its_code_reaches_nobody(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    take(source, tmp_path / "one", store)
    take(source, tmp_path / "two", store)
    before, other, original = stored(store), contents(tmp_path / "two"), contents(source)
    for path in (tmp_path / "one").rglob("*"):
        if path.is_file():
            with open(path, "r+b") as file:  # in place, and longer
                file.write(b"overwritten")
            path.chmod(0o777)
            os.truncate(path, 3)
    assert stored(store) == before
    assert contents(tmp_path / "two") == other
    assert contents(source) == original
    take(source, tmp_path / "three", store)
    assert contents(tmp_path / "three") == other


def test_editing_the_source_afterwards_changes_no_snapshot(source: Path, tmp_path: Path) -> None:
    snapshot = take(source, tmp_path / "one", tmp_path / "store")
    before = contents(source)
    (source / "train.py").write_text("different")
    (source / "weights.bin").unlink()
    assert contents(tmp_path / "one") == before
    restore(tmp_path / "store", snapshot.id, tmp_path / "again")
    assert contents(tmp_path / "again") == before


def test_a_read_only_source_is_enough(source: Path, tmp_path: Path) -> None:
    for path in [source, *source.rglob("*")]:
        if not path.is_symlink():
            path.chmod(path.stat().st_mode & ~0o222)
    before = {path: path.lstat().st_ctime_ns for path in [source, *source.rglob("*")]}
    take(source, tmp_path / "one", tmp_path / "store")
    assert {path: path.lstat().st_ctime_ns for path in [source, *source.rglob("*")]} == before
    (tmp_path / "one/new.txt").write_text("the job's own copy is writable")
    (tmp_path / "one/train.py").write_text("here too")


def test_a_large_file_is_stored_once(source: Path, tmp_path: Path) -> None:
    take(source, tmp_path / "one", tmp_path / "store")
    (source / "train.py").write_text("changed")
    take(source, tmp_path / "two", tmp_path / "store")
    assert len(list((tmp_path / "store/objects").iterdir())) == 1
    assert len(list((tmp_path / "store").glob("*.pack"))) == 2
    assert all(path.stat().st_size < 1000 for path in (tmp_path / "store").glob("*.pack"))


def test_too_large_names_the_ten_biggest(source: Path, tmp_path: Path) -> None:
    with open(source / "huge.bin", "wb") as file:
        file.truncate(400_000_000)  # holes: no disk is used
    for number in range(12):
        (source / f"part{number:02}").write_bytes(b"x" * (100_000 + number))
    with pytest.raises(SnapshotException) as caught:
        take(source, tmp_path / "code", tmp_path / "store")
    lines = caught.value.message.splitlines()
    assert "a snapshot takes at most 300.0 MB. Its biggest files:" in lines[0]
    assert lines[1].split() == ["400.0", "MB", "huge.bin"]
    assert [line.split()[-1] for line in lines[2:11]] == ["weights.bin"] + [f"part{n:02}" for n in range(11, 3, -1)]
    assert ".amlignore" in lines[11]
    assert '"snapshot_limit_bytes" in config.json' in lines[11]
    assert not (tmp_path / "code").exists()
    assert not (tmp_path / "store").exists()
    (source / ".amlignore").write_text("huge.bin")
    take(source, tmp_path / "code", tmp_path / "store")


def test_limits_are_public(source: Path, tmp_path: Path) -> None:
    assert DEFAULT_LIMIT_BYTES == 300_000_000
    size = listing(source).bytes
    with pytest.raises(SnapshotException, match="at most"):
        take(source, tmp_path / "code", tmp_path / "store", limit_bytes=size - 1)
    with pytest.raises(
        SnapshotException, match=r"at most 4. Its fullest directories:\n +4  \.\n +1  lib\n.*limit_files"
    ):
        take(source, tmp_path / "code", tmp_path / "store", limit_files=4)
    take(source, tmp_path / "code", tmp_path / "store", limit_bytes=size, limit_files=5)


def test_a_key_inside_a_file_is_left_out_whether_known_or_not(source: Path, tmp_path: Path) -> None:
    (source / "deploy").write_text("-----BEGIN RSA PRIVATE KEY-----\n")
    settle(source)
    for name in ("one", "two"):
        snapshot = take(source, tmp_path / name, tmp_path / "store")
        assert [line.split(":")[0] for line in snapshot.left_out] == ["deploy"]
        assert not (tmp_path / name / "deploy").exists()
    stored_bytes = b"".join(path.read_bytes() for path in (tmp_path / "store").rglob("*") if path.is_file())
    assert b"PRIVATE KEY" not in stored_bytes


def test_the_listing_is_what_is_taken(source: Path, tmp_path: Path) -> None:
    (source / ".env").write_text("TOKEN=1")
    (source / ".gitignore").write_text("*.sh")
    found = listing(source)
    snapshot = take(source, tmp_path / "code", tmp_path / "store")
    files = [str(p.relative_to(tmp_path / "code")) for p in (tmp_path / "code").rglob("*") if p.is_file()]
    assert sorted(file.path for file in found.files) == sorted(files)
    assert (len(found.files), found.bytes) == (snapshot.files, snapshot.bytes)
    assert set(snapshot.left_out) <= set(found.left_out)
    assert "run.sh: .gitignore" in found.left_out


def test_sources_that_are_none(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    for name, words in (("none", "does not exist"), ("file", "is not a directory")):
        with pytest.raises(SnapshotException, match=f"{name} {words}"):
            take(tmp_path / name, tmp_path / "code", tmp_path / "store")
    assert take(tmp_path / "empty", tmp_path / "code", tmp_path / "store").files == 0
    assert os.listdir(tmp_path / "code") == []


def test_nothing_is_laid_out_over_something(source: Path, tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code/mine").write_text("mine")
    with pytest.raises(SnapshotException, match="exists"):
        take(source, tmp_path / "code", tmp_path / "store")
    assert (tmp_path / "code/mine").read_text() == "mine"


def test_a_damaged_store_is_found_out(source: Path, tmp_path: Path) -> None:
    store = tmp_path / "store"
    snapshot = take(source, tmp_path / "one", store)
    for name, words in (
        (f"{snapshot.id}.json", "it differs from its digest"),
        (f"{snapshot.id}.pack", "differs from its digest"),
        (f"objects/{next((store / 'objects').iterdir()).name}", "missing or cut short"),
    ):
        good = (store / name).read_bytes()
        (store / name).write_bytes(b"?" + good[1:] if not name.startswith("objects") else good[1:])
        with pytest.raises(SnapshotException, match=words) as caught:
            restore(store, snapshot.id, tmp_path / "two")
        assert str(store / name) in caught.value.message
        assert not (tmp_path / "two").exists()
        (store / name).unlink()
        take(source, tmp_path / "healed", store)  # as the message advises
        assert contents(tmp_path / "healed") == contents(source)
        subprocess.run(["rm", "-r", str(tmp_path / "healed")], check=True)


@pytest.mark.parametrize("name", ["", "..", "a" * 64, "../" * 10 + "etc/passwd", "A" * 64])
def test_unknown_snapshots(tmp_path: Path, name: str) -> None:
    with pytest.raises(SnapshotException, match="There is no snapshot"):
        restore(tmp_path, name, tmp_path / "code")


def test_many_take_it_at_once(source: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from trainkit.snapshot import take; sys.stdin.readline()\n"
        "print(take(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3])).id)"
    )
    arguments = [sys.executable, "-c", code, str(source)]
    several = [
        subprocess.Popen(
            [*arguments, str(tmp_path / f"code{i}"), str(tmp_path / "store")], stdin=-1, stdout=-1, text=True
        )
        for i in range(8)
    ]
    for process in several:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    assert len({process.communicate()[0] for process in several}) == 1
    assert all(contents(tmp_path / f"code{i}") == contents(source) for i in range(8))
    assert not list((tmp_path / "store").rglob(".*"))


def test_a_file_that_never_rests_is_named(source: Path, tmp_path: Path) -> None:
    code = "import sys\nwhile True:\n  with open(sys.argv[1], 'w') as f: f.write('x' * 900000)"
    writer = subprocess.Popen([sys.executable, "-c", code, str(source / "growing.log")])
    try:
        while not (source / "growing.log").exists():
            assert writer.poll() is None
        for number in range(20):  # each is either of one moment or refused
            try:
                take(source, tmp_path / f"code{number}", tmp_path / "store")
            except SnapshotException as error:
                assert "growing.log changes while it is recorded" in error.message
                assert not (tmp_path / f"code{number}").exists()
                break
            subprocess.run(["rm", "-r", str(tmp_path / f"code{number}")], check=True)
    finally:
        writer.kill()
        writer.wait()


def test_a_full_disk_leaves_nothing(source: Path, tmp_path: Path) -> None:
    """The limit on a file's size stands in for the disk's: both end a write in the middle."""
    code = (
        "import resource, signal, sys; from pathlib import Path; from trainkit.snapshot import take\n"
        "from trainkit.errors import SnapshotException\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN); resource.setrlimit(resource.RLIMIT_FSIZE, (500000, 500000))\n"
        "try: take(*map(Path, sys.argv[1:]))\n"
        "except SnapshotException as error: print(error)"
    )
    command = [sys.executable, "-c", code, str(source), str(tmp_path / "code"), str(tmp_path / "store")]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "could not be recorded" in printed
    assert "File too large" in printed
    assert not (tmp_path / "code").exists()
    assert [path for path in (tmp_path / "store").rglob("*") if path.is_file()] == []


trees = st.dictionaries(
    st.text(st.characters(exclude_characters="/\0", codec="utf-8"), min_size=1, max_size=30).filter(
        lambda name: name not in (".", "..", "outputs", "logs") and len(name.encode()) < 200
    ),
    st.binary(max_size=50),
    max_size=6,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(trees)
def test_any_names_and_contents(tmp_path_factory: pytest.TempPathFactory, files: dict[str, bytes]) -> None:
    top = tmp_path_factory.mktemp("tree")
    (top / "source").mkdir()
    for name, data in files.items():
        (top / "source" / name).write_bytes(data)
    snapshot = take(top / "source", top / "code", top / "store")
    assert contents(top / "code") == contents(top / "source")
    assert json.loads((top / "store" / f"{snapshot.id}.json").read_text())["format"] == 1


def test_files_that_come_and_go_are_no_error_for_long(source: Path, tmp_path: Path) -> None:
    code = "import os, sys\nwhile True:\n  open(sys.argv[1], 'w').close()\n  os.unlink(sys.argv[1])"
    writer = subprocess.Popen([sys.executable, "-c", code, str(source / "brief.tmp")])
    try:
        for number in range(40):
            try:
                take(source, tmp_path / f"code{number}", tmp_path / "store")
            except SnapshotException as error:
                assert "brief.tmp changes while it is recorded" in error.message
    finally:
        writer.kill()
        writer.wait()
