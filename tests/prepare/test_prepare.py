"""Environments are really built here, from packages that the tests make."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from trainkit.environment import Environment, EnvironmentSpec
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare import Prepared, digest, prepare
from trainkit.prepare.entries import READY

DEADLINE_SECONDS = 60.0
BUILDER = """
import json, sys
from pathlib import Path
from trainkit.environment import EnvironmentSpec
from trainkit.prepare import prepare
here = Path(sys.argv[2])
made = prepare(EnvironmentSpec.from_json(json.loads(sys.argv[1])), here / "envs", here / sys.argv[3])
print(made.reused, made.interpreter)
"""


def spec(shelf: Any, *packages: str, **options: Any) -> EnvironmentSpec:
    return Environment("tests", pip_packages=[*shelf.options, *packages], **options).spec()


def make(tmp_path: Path, wanted: EnvironmentSpec, **options: Any) -> Prepared:
    return prepare(wanted, tmp_path / "envs", tmp_path / "prepare.log", **options)


def run(interpreter: str, code: str) -> str:
    done = subprocess.run([interpreter, "-c", code], capture_output=True, text=True, cwd="/", check=True)
    return done.stdout.strip()


def environments(tmp_path: Path) -> list[str]:
    return sorted(p.name for p in (tmp_path / "envs").iterdir() if not p.name.startswith("."))


def test_without_packages_the_interpreter_is_used_at_once(tmp_path: Path) -> None:
    made = make(tmp_path, Environment("plain").spec())
    assert (made.interpreter, made.reused, made.digest) == (sys.executable, True, "")
    assert not (tmp_path / "envs").exists()


def test_packages_are_layered_over_those_in_use(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.5", needs=["tk_needed>=2"])
    shelf.build("tk_needed", "2.0")
    made = make(tmp_path, spec(shelf, "tk_extra"))
    assert not made.reused
    seen = run(made.interpreter, "import tk_extra, tk_needed, pytest; print(tk_extra.version, tk_needed.version)")
    assert seen == "1.5 2.0"
    assert run(made.interpreter, "import trainkit; print(trainkit.__name__)") == "trainkit"


def test_what_is_there_is_not_installed_again(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0", needs=["pytest>=1"])
    made = make(tmp_path, spec(shelf, "tk_extra"))
    place = Path(run(made.interpreter, "import pytest; print(pytest.__file__)"))
    assert not place.is_relative_to(tmp_path)


def test_a_package_of_the_layer_goes_before_the_bases(tmp_path: Path, shelf: Any) -> None:
    shelf.build("iniconfig", "999.0")
    made = make(tmp_path, spec(shelf, "iniconfig==999.0"))
    assert run(made.interpreter, "import iniconfig; print(iniconfig.version)") == "999.0"


def test_not_inherited_means_nothing_else_is_there(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    made = make(tmp_path, spec(shelf, "tk_extra", inherit=False))
    assert run(made.interpreter, "import tk_extra; print(tk_extra.version)") == "1.0"
    assert made.needs_boot
    with pytest.raises(subprocess.CalledProcessError):
        run(made.interpreter, "import pytest")


def test_a_layer_can_stand_on_a_layer_and_see_editable_packages(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_below", "1.0")
    shelf.build("tk_above", "1.0", needs=["tk_below"])
    below = make(tmp_path, spec(shelf, "tk_below"))
    folder = next(Path(below.interpreter).parents[1].glob("lib/python*/site-packages"))
    (tmp_path / "editable").mkdir()
    (tmp_path / "editable" / "tk_edited.py").write_text("value = 7\n")
    (folder / "__editable__.pth").write_text(f"{tmp_path / 'editable'}\n")
    environment = Environment("upper", pip_packages=[*shelf.options, "tk_above"])
    environment.python.interpreter_path = below.interpreter
    above = make(tmp_path, environment.spec())
    assert run(above.interpreter, "import tk_above, tk_below, tk_edited, pytest; print(tk_edited.value)") == "7"
    assert "tk_below" not in str(list(Path(above.interpreter).parents[1].glob("lib/*/site-packages/*")))


def test_libraries_beside_the_bases_packages_are_found(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    base = Path(make(tmp_path, spec(shelf, "tk_extra")).interpreter)
    (base.parents[1] / "lib" / "libtk.so.1").write_text("a shared library")
    environment = Environment("upper", pip_packages=shelf.options + ["iniconfig"])
    environment.python.interpreter_path = str(base)
    above = Path(make(tmp_path, environment.spec()).interpreter)
    assert (above.parents[1] / "lib" / "libtk.so.1").read_text() == "a shared library"


def test_an_environment_is_built_once_and_reused_without_its_packages(tmp_path: Path, shelf: Any) -> None:
    wheel = shelf.build("tk_extra", "1.0")
    wanted = spec(shelf, "tk_extra")
    first = make(tmp_path, wanted)
    wheel.unlink()
    log = (tmp_path / "prepare.log").read_text()
    second = make(tmp_path, wanted)
    assert second.reused and second.interpreter == first.interpreter and second.digest == first.digest == digest(wanted)
    assert first.digest in second.words
    assert (tmp_path / "prepare.log").read_text() == log


def test_order_does_not_matter_and_versions_do(tmp_path: Path, shelf: Any) -> None:
    assert digest(spec(shelf, "a", "b")) == digest(spec(shelf, "b", "a"))
    assert digest(spec(shelf, "a==1")) != digest(spec(shelf, "a==2"))
    assert digest(spec(shelf, "a")) != digest(spec(shelf, "a", inherit=False))


def test_a_changed_base_is_noticed_and_said(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_below", "1.0")
    shelf.build("tk_above", "1.0")
    base = make(tmp_path, spec(shelf, "tk_below")).interpreter
    environment = Environment("upper", pip_packages=[*shelf.options, "tk_above"])
    environment.python.interpreter_path = base
    first = make(tmp_path, environment.spec())
    folder = next(Path(base).parents[1].glob("lib/python*/site-packages"))
    (folder / "tk_later-1.0.dist-info").mkdir()
    (folder / "tk_later-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: tk-later\nVersion: 1.0\n")
    second = make(tmp_path, environment.spec())
    assert second.digest != first.digest and not second.reused
    assert "changed since: base packages" in (tmp_path / "prepare.log").read_text()


def test_half_built_is_never_used(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    wanted = spec(shelf, "tk_extra")
    half = tmp_path / "envs" / digest(wanted)
    (half / "bin").mkdir(parents=True)
    (half / "bin" / "python").symlink_to(sys.executable)
    made = make(tmp_path, wanted)
    assert not made.reused
    assert run(made.interpreter, "import tk_extra; print(tk_extra.version)") == "1.0"


def test_an_environment_whose_python_is_gone_is_built_anew(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    wanted = spec(shelf, "tk_extra")
    Path(make(tmp_path, wanted).interpreter).unlink()
    assert not make(tmp_path, wanted).reused


def test_a_failed_build_leaves_nothing_and_carries_the_installers_words(tmp_path: Path, shelf: Any) -> None:
    with pytest.raises(EnvironmentBuildError) as caught:
        make(tmp_path, spec(shelf, "tk_absent"))
    assert "'tk-absent'" in caught.value.message or "'tk_absent'" in caught.value.message
    assert "No solution found" in caught.value.output
    assert environments(tmp_path) == []
    assert caught.value.message in (tmp_path / "prepare.log").read_text()


def test_environments_are_private(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    make(tmp_path, spec(shelf, "tk_extra"))
    assert (tmp_path / "envs").stat().st_mode & 0o077 == 0
    assert (tmp_path / "prepare.log").stat().st_mode & 0o077 == 0


def test_an_unwanted_build_stops(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    wanted = spec(shelf, "tk_extra")
    (tmp_path / "envs").mkdir()
    with _lock_holder(tmp_path / "envs" / f".{digest(wanted)}.lock") as holder:
        with pytest.raises(EnvironmentBuildError, match="cancelled"):
            make(tmp_path, wanted, cancelled=lambda: True)
        holder.kill()
    assert "waits for another process" in (tmp_path / "prepare.log").read_text()


def test_builders_at_once_build_once(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    values = json.dumps(spec(shelf, "tk_extra").to_json())
    builders = [
        subprocess.Popen(
            [sys.executable, "-c", BUILDER, values, str(tmp_path), f"{n}.log"], stdout=subprocess.PIPE, text=True
        )
        for n in range(4)
    ]
    lines = [b.communicate(timeout=DEADLINE_SECONDS)[0].split() for b in builders]
    assert sorted(line[0] for line in lines) == ["False", "True", "True", "True"]
    assert len({line[1] for line in lines}) == 1
    assert run(lines[0][1], "import tk_extra; print(tk_extra.version)") == "1.0"


def test_a_killed_builder_leaves_nothing_that_is_used(tmp_path: Path, shelf: Any) -> None:
    """Its installer lives on in a package's build; the next builder waits for that before it begins anew."""
    gate, begun, log = tmp_path / "gate", tmp_path / "begun", tmp_path / "prepare.log"
    shelf.source(
        "tk_slow",
        "1.0",
        f"import os, time\nopen({str(begun)!r}, 'w').close()\nend = time.monotonic() + {DEADLINE_SECONDS}\n"
        f"while not os.path.exists({str(gate)!r}) and time.monotonic() < end:\n    time.sleep(0.01)\n"
        "raise SystemExit('no build')",
    )
    wanted = spec(shelf, "tk_slow", "--no-binary tk-slow", inherit=False)
    builder = subprocess.Popen([sys.executable, "-c", BUILDER, json.dumps(wanted.to_json()), str(tmp_path), "1.log"])
    environment = tmp_path / "envs" / digest(wanted)
    try:
        _until(begun.exists)
        builder.kill()
        builder.wait()
        assert environment.exists() and not (environment / READY).exists()
        failures: list[str] = []

        def build() -> None:
            try:
                make(tmp_path, wanted)
            except EnvironmentBuildError as e:
                failures.append(e.message)

        second = threading.Thread(target=build)
        second.start()
        _until(lambda: log.exists() and "waits for another process" in log.read_text())
    finally:
        gate.touch()
    second.join(DEADLINE_SECONDS)
    assert failures and "tk-slow" in failures[0]
    assert environments(tmp_path) == []


def _until(condition: Any) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _lock_holder:
    """A process that holds a lock until it is killed."""

    def __init__(self, path: Path) -> None:
        code = f"import fcntl, sys; f = open({str(path)!r}, 'w'); fcntl.flock(f, 2); print('held', flush=True); "
        code += "sys.stdin.read()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def __enter__(self) -> subprocess.Popen[str]:
        assert self.process.stdout is not None
        assert self.process.stdout.readline().strip() == "held"
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.communicate()
