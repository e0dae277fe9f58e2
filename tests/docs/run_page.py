"""Executes one page: `run_page.py PAGE`, in the current directory. All blocks share this interpreter, in order.

Ends with 1, naming the block's file and line, where a block does not do what its fence says.
"""

from __future__ import annotations

import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

from blocks import Block, blocks, commands


class Wrong(Exception):
    """A block did something else than its page says."""


def _python(block: Block, names: dict[str, Any]) -> None:
    expected = block.options.get("raises", "")
    code = compile("\n" * (block.line - 1) + block.text, str(block.page), "exec")
    try:
        exec(code, names)
    except Exception as e:
        if type(e).__name__ != expected:
            traceback.print_exc()
            raise Wrong(f"raised {type(e).__name__}" + (f", not {expected}" if expected else "")) from e
        print(f"{expected}: {e}")
        return
    if expected:
        raise Wrong(f"raised nothing, not {expected}")


def _shell(block: Block) -> None:
    scripts = commands(block.text) if block.language == "console" else [block.text]
    if not scripts:
        raise Wrong("has no line that starts with `$ `; mark it as output")
    for position, script in enumerate(scripts):
        last = position == len(scripts) - 1
        expected = int(block.options.get("exit", "0")) if last else 0
        code = subprocess.run(["bash", "-euo", "pipefail", "-c", script], stdin=subprocess.DEVNULL).returncode
        if code != expected:
            raise Wrong(f"{script!r} ended with {code}, not {expected}")


def _file(block: Block) -> None:
    path = Path(block.options["file"])
    if path.is_absolute() or ".." in path.parts:
        raise Wrong(f"file={path} leaves the page's directory")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text, encoding="utf-8")


def run(page: Path) -> int:
    """Execute the page's blocks; the exit code."""
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    sys.path.insert(0, os.getcwd())
    names: dict[str, Any] = {"__name__": "__main__"}
    for block in blocks(page):
        if not block.runs:
            continue
        print(f"--- {page.name}:{block.line} {block.language}", flush=True)
        try:
            if "file" in block.options:
                _file(block)
            elif block.language == "python":
                _python(block, names)
            else:
                _shell(block)
        except Wrong as e:
            print(f"{page}:{block.line}: this block {e}", flush=True)
            return 1
        sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1])))
