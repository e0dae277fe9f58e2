"""The tree and its metadata agree."""

from __future__ import annotations

import ast
import configparser
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FOLDERS = {"trainkit": "trainkit", "launchers": "trainkit_launchers", "recipes": "trainkit_recipes"}


def _setup() -> configparser.ConfigParser:
    parsed = configparser.ConfigParser()
    parsed.read(ROOT / "setup.cfg", encoding="utf-8")
    return parsed


def test_every_package_folder_is_installed() -> None:
    there = set()
    for folder, name in FOLDERS.items():
        for init in (ROOT / folder).rglob("__init__.py"):
            there.add(".".join([name, *init.parent.relative_to(ROOT / folder).parts]))
    assert there == set(_setup()["options"]["packages"].split())


def test_every_source_folder_is_a_package() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            assert (file.parent / "__init__.py").exists(), f"{file.parent} has no __init__.py"


def test_every_entry_point_loads() -> None:
    for group in ("trainkit.launchers", "trainkit.spreads", "console_scripts"):
        points = [point for point in entry_points(group=group) if point.value.startswith("trainkit")]
        assert points
        for point in points:
            assert callable(point.load()), point


def test_importing_trainkit_imports_nothing_else_that_is_installed() -> None:
    code = "import sys, trainkit; print([m for m in ('torch', 'numpy', 'click', 'rich', 'onnx') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_every_pin_is_exact() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert pins
    assert all(line.count("==") == 1 and "/" not in line for line in pins)


def _lines(file: Path) -> int:
    return len(file.read_text(encoding="utf-8").splitlines())


def test_source_files_stay_small() -> None:
    for folder in FOLDERS:
        for file in (ROOT / folder).rglob("*.py"):
            count = _lines(file)
            assert count < 300, f"{file.relative_to(ROOT)} has {count} lines; files stay under 300"


def test_the_launchers_and_spreads_that_others_read_as_examples_stay_short() -> None:
    limits = {ROOT / "launchers" / "slurm.py": 150, ROOT / "launchers" / "local.py": 60}
    limits.update(dict.fromkeys((ROOT / "launchers" / "spreads").rglob("*.py"), 60))
    assert len(limits) > 2
    long = {str(file.relative_to(ROOT)): _lines(file) for file, limit in limits.items() if _lines(file) > limit}
    assert not long, f"more lines than their limits {sorted(set(limits.values()))}: {long}"


def test_the_functions_of_the_slurm_launcher_stay_short() -> None:
    tree = ast.parse((ROOT / "launchers" / "slurm.py").read_text(encoding="utf-8"))
    found = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in found]
    assert lengths
    assert not [(name, length) for name, length in lengths if length > 30]
