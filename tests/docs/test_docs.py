"""Every code block of the documentation is executed; every link inside it leads somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from blocks import RUNNABLE, Block, blocks, commands

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
NAMES = [str(page.relative_to(ROOT)) for page in PAGES]
LIMIT_SECONDS = 300
# Pages whose jobs need an engine, and images from its mirror.
IN_CONTAINERS = ("docs/how-to/environments.md", "docs/how-to/pets-in-an-image.md")


def _runs(page: Path) -> bool:
    return any(block.runs for block in blocks(page))


def _execute(page: Path, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(Path(__file__).with_name("run_page.py")), str(page)],
        cwd=folder, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=LIMIT_SECONDS,
        stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize(
    "name", [name for name, page in zip(NAMES, PAGES, strict=True) if _runs(page) and name not in IN_CONTAINERS]
)
def test_the_pages_code_runs(name: str, tmp_path: Path) -> None:
    done = _execute(ROOT / name, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.engine
@pytest.mark.usefixtures("podman")
@pytest.mark.parametrize("name", IN_CONTAINERS)
def test_the_code_of_pages_on_containers_runs(name: str, tmp_path: Path) -> None:
    done = _execute(ROOT / name, tmp_path)
    assert done.returncode == 0, done.stdout[-6000:]


@pytest.mark.parametrize("name", NAMES)
def test_the_pages_links_lead_somewhere(name: str) -> None:
    page = ROOT / name
    text = re.sub(r"```.*?```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if not re.match(r"[a-z]+:|#", target):
            assert (page.parent / target.partition("#")[0]).exists(), f"{name} links to {target}, which is not there"


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in PAGES if ROOT / "docs" in page.parents}
    missing = sorted(page for page in pages - {"README.md"} if f"({page})" not in index)
    assert not missing, f"docs/README.md does not link to {missing}"


def test_every_block_says_what_it_is() -> None:
    shown = {"text", "ini", "json", "toml", "yaml", "make", "diff", "dockerfile", *RUNNABLE}
    for page in PAGES:
        for block in blocks(page):
            assert block.language in shown, f"{page}:{block.line - 1}: {block.language} is not one of {sorted(shown)}"


def test_the_example_of_a_launcher_stays_as_short_as_its_page_says() -> None:
    page = ROOT / "docs" / "how-to" / "own-launcher.md"
    (example,) = (block for block in blocks(page) if block.options.get("file") == "nice/trainkit_nice.py")
    assert "both in less than 40 lines of code" in page.read_text(encoding="utf-8")
    assert len([line for line in example.text.splitlines() if line.strip()]) < 40


# --- the harness itself ---


def _page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, encoding="utf-8")
    return page


def test_blocks_share_one_interpreter_and_one_directory(tmp_path: Path) -> None:
    page = _page(
        tmp_path,
        "# Page\n```python file=helper.py\nvalue = 41\n```\n```bash\nsed s/41/42/ helper.py > other.py\n```\n"
        "```python\nimport other\nx = other.value\n```\n```python\nprint('x is', x)\n```\n",
    )
    done = _execute(page, tmp_path)
    assert done.returncode == 0, done.stdout
    assert "x is 42" in done.stdout


@pytest.mark.parametrize(
    ("block", "words"),
    [
        ("```python\n1 / 0\n```", "page.md:2: this block raised ZeroDivisionError"),
        ("```python raises=KeyError\n1 / 0\n```", "raised ZeroDivisionError, not KeyError"),
        ("```python raises=KeyError\n1 / 1\n```", "raised nothing, not KeyError"),
        ("```bash\nfalse\ntrue\n```", "ended with 1, not 0"),
        ("```console exit=3\n$ true\n```", "'true' ended with 0, not 3"),
        ("```bash file=../x\n```", "leaves the page's directory"),
    ],
)
def test_a_block_that_is_wrong_fails_with_its_place(block: str, words: str, tmp_path: Path) -> None:
    done = _execute(_page(tmp_path, block + "\n"), tmp_path)
    assert done.returncode == 1
    assert words in done.stdout


@pytest.mark.parametrize(
    "block",
    [
        "```python raises=ZeroDivisionError\n1 / 0\n```",
        "```console exit=3\n$ exit 3\n```",
        "```console output\n$ rm -rf /nowhere; false\n```",
        "```text\n$ false\n```",
    ],
)
def test_a_block_that_does_as_it_says_passes(block: str, tmp_path: Path) -> None:
    done = _execute(_page(tmp_path, block + "\n"), tmp_path)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("text", ["```python fast\n```\n", "```\nx\n```\n", "```python\nx\n"])
def test_a_fence_outside_the_convention_is_refused(text: str, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="page.md"):
        blocks(_page(tmp_path, text))


def test_commands_are_what_follows_the_dollar_sign() -> None:
    assert commands("$ a 1\nout\n$ b \\\n>   2\nout\n") == ["a 1", "b \\\n  2"]


def test_a_block_knows_its_line(tmp_path: Path) -> None:
    found = blocks(_page(tmp_path, "text\n\n```python\nx\n```\n"))
    assert found == [Block(tmp_path / "page.md", 4, "python", "x\n")]
