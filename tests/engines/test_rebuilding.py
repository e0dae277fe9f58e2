"""A job's environment on hosts that do not have it: built there from its lock, or refused with the remedy."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines.commands import Client
from tests.engines.testbed import Testbed
from tests.prepare.conftest import Shelf

pytestmark = pytest.mark.engine
SCRIPT = """
import os, socket, sys
import tk_extra
open("outputs/" + os.environ["RANK"], "w").write(" ".join((socket.gethostname(), tk_extra.version, sys.executable)))
"""


@pytest.fixture(scope="module")
def client(testbed: Testbed) -> Iterator[Client]:
    """A user whose hosts see neither the workspace nor the packages, and have no uv."""
    (testbed.home() / ".cache").mkdir(exist_ok=True)
    made = Client(testbed, "rebuilding", "ssh", hosts="node1,node2", shared_disk="false")
    hidden = (testbed.shared, testbed.home() / ".cache")
    for node in testbed.names:
        for path in hidden:
            testbed.hide(node, path)
    yield made
    for node in testbed.names:
        for path in hidden:
            testbed.show(node, path)


def test_an_environment_is_built_on_each_host_that_lacks_it(client: Client, testbed: Testbed) -> None:
    shelf = Shelf(client.folder / "shelf")
    shelf.build("tk_extra", "1.5")
    file = client.folder / "requirements.txt"
    file.write_text("\n".join([*shelf.options, "tk_extra"]) + "\n")
    runs = []
    for _ in range(2):
        runs.append(client.submit(SCRIPT, "--env-file", str(file), "--isolated"))
        told = client.ended(runs[-1])
        assert told["status"] == "Completed", told
    seen = sorted((runs[-1] / f"outputs/{rank}").read_text().split() for rank in range(2))
    assert [words[:2] for words in seen] == [["node1", "1.5"], ["node2", "1.5"]]
    (environment,) = {Path(words[2]).parents[1] for words in seen}
    assert environment.parent == client.folder / ".trainkit/envs"
    assert not (environment / "rebuilt.json").exists()  # here it was built first
    assert "tk-extra==1.5 --hash=sha256:" in (runs[0] / "requirements.lock").read_text()
    for node in testbed.names:  # there each once: the first run's record is still there, and nothing of its making
        listed = testbed.run(node, ["find", str(testbed.home() / ".cache/trainkit/programs"), "-type", "f"]).stdout
        assert [Path(line).name[:3] for line in listed.split()] == ["uv-"]
        made = testbed.run(node, ["cat", str(environment / "rebuilt.json")], check=True).stdout
        assert json.loads(made)["time"] < (runs[1] / "run.json").stat().st_mtime


def test_an_environment_over_the_clients_interpreter_is_refused(client: Client) -> None:
    shelf = Shelf(client.folder / "other-shelf")
    shelf.build("tk_extra", "1.5")
    file = client.folder / "layered.txt"
    file.write_text("\n".join([*shelf.options, "tk_extra"]) + "\n")
    told = client.ended(client.submit(SCRIPT, "--env-file", str(file)), code=1)
    assert "node1: it has no " in told["verdict"]["message"]
    assert "inherit=False" in told["verdict"]["message"]


def test_a_package_that_is_a_folder_here_is_refused_with_the_remedy(client: Client) -> None:
    source = client.folder / "tk_folder"
    source.mkdir()
    (source / "tk_extra.py").write_text("version = '1'\n")
    (source / "pyproject.toml").write_text(
        '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
        '[project]\nname = "tk_extra"\nversion = "1"\n'
    )
    (source / "backend.py").write_text(BACKEND)
    file = client.folder / "folder.txt"
    file.write_text(f"tk_extra @ file://{source}\n--no-binary tk-extra\n")
    told = client.ended(client.submit(SCRIPT, "--env-file", str(file), "--isolated"), code=1)
    assert "node1 lacks the job's environment" in told["verdict"]["message"]
    assert "uv build --wheel" in told["verdict"]["message"]


BACKEND = """
import os, zipfile
def build_wheel(where, settings=None, metadata=None):
    name = "tk_extra-1-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(where, name), "w") as file:
        file.write("tk_extra.py")
        file.writestr("tk_extra-1.dist-info/METADATA", "Metadata-Version: 2.1\\nName: tk_extra\\nVersion: 1\\n")
        file.writestr("tk_extra-1.dist-info/WHEEL", "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n")
        file.writestr("tk_extra-1.dist-info/RECORD", "")
    return name
"""
