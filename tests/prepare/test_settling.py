"""An environment counts at once, and after a loss of power only if it had come to the disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
