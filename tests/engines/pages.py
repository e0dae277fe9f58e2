"""A page's own example, run on an engine: what tests/docs shows there and cannot run is run here."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

from tests.docs import blocks
from tests.engines.testbed import Testbed

ROOT = Path(__file__).resolve().parents[2]
PROGRAM = ROOT / "tests" / "docs" / "run_page.py"


def run_example(bed: Testbed, name: str, folder: Path, replaced: Mapping[str, str]) -> str:
    """Execute a page on ctl from its top to the end of its first console block that is only shown; what all printed.

    Of the page's text `replaced` words alone are others, each of which it has: names of a site that the testbed lacks.
    """
    page = ROOT / "docs" / "how-to" / name
    shown = next(block for block in blocks.blocks(page) if block.language == "console" and block.output)
    lines = page.read_text(encoding="utf-8").splitlines()[: shown.line + len(shown.text.splitlines())]
    fence = shown.line - 2
    assert lines[fence] == "```console output"
    lines[fence] = "```console"
    text = "\n".join(lines) + "\n"
    for theirs, ours in replaced.items():
        assert theirs in text, f"{name} does not say {theirs}"
        text = text.replace(theirs, ours)
    folder.mkdir()
    (folder / name).write_text(text, encoding="utf-8")
    done = bed.run("ctl", [sys.executable, str(PROGRAM), str(folder / name)], cwd=folder, timeout=180)
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
    return done.stdout
