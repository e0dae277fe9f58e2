"""An environment counts at once, and after a loss of power only if it had come to the disk."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import make_private
from trainkit.environment import Environment
from trainkit.prepare import Prepared, prepare, settling
from trainkit.testing import wait_until


def test_what_was_not_on_the_disk_when_the_machine_went_down_is_built_anew(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    spec = Environment("tests", pip_packages=[*shelf.options, "tk_extra"], inherit=False).spec()

    def make() -> Prepared:
        return prepare(spec, tmp_path / "envs", tmp_path / "prepare.log")

    environment = Path(make().interpreter).parents[1]
    settled = settling.place(environment)
    wait_until(settled.exists, 60, "the environment to come to the disk")
    ready = environment / "ready.json"
    ready.write_text(json.dumps({**json.loads(ready.read_text()), "boot": "an earlier one"}))
    assert make().reused
    settled.write_text("that of an earlier build")
    assert not make().reused


def test_what_another_uses_stays_and_is_built_beside_until_it_has_come_to_the_disk(tmp_path: Path, shelf: Any) -> None:
    shelf.build("tk_extra", "1.0")
    spec = Environment("tests", pip_packages=[*shelf.options, "tk_extra"], inherit=False).spec()

    def make() -> Prepared:
        prepared = prepare(spec, tmp_path / "envs", tmp_path / "prepare.log")
        for thread in threading.enumerate():
            if thread.name == "trainkit-settling":
                thread.join(60)
        return prepared

    def built_there(host: str) -> None:
        record = json.loads(ready.read_text())
        ready.write_text(json.dumps({**record, "boot": "another", "host": host}))
        settling.place(environment).unlink(missing_ok=True)

    first = make()
    environment = Path(first.interpreter).parents[1]
    ready, here = environment / "ready.json", json.loads((environment / "ready.json").read_text())["host"]
    built_there("another machine")
    second = make()
    assert not second.reused and second.digest != first.digest and ready.exists()
    assert second.lock and Path(second.lock).read_bytes() == Path(first.lock).read_bytes()
    assert make().digest == second.digest
    built_there(here)
    run = make_private(tmp_path / "runs" / "e" / "e_1_00000000")
    (run / "environment.json").write_text(json.dumps({"digest": first.digest}))
    assert make().digest == second.digest and ready.exists()
    (run / "state.json").write_text("{}")
    last = make()
    assert last.digest == first.digest and not last.reused
    settling.place(environment).unlink()  # whoever built it was killed before it had come to the disk
    assert make().reused and settling.place(environment).exists()
