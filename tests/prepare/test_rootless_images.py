"""Images are fetched and built by a user who is not root, with that user's own podman."""

from __future__ import annotations

import json
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engines import registries
from tests.engines.registries import Registry
from tests.engines.rootless import Rootless

pytestmark = pytest.mark.engine
PASSWORD = "s3cr3t-of-the-tests-" + uuid.uuid4().hex[:8]
PREPARE = """
import dataclasses, fcntl, json, os, sys
from pathlib import Path
from trainkit.environmentspec import EnvironmentSpec
from trainkit.imagespec import ImageSpec, RegistrySpec
from trainkit.prepare import prepare
address, image, small, folder = sys.argv[1:4] + [Path(sys.argv[4])]
found = []
for of in (
    ImageSpec("podman", image, registry=RegistrySpec(address, "somebody")),
    ImageSpec("podman", dockerfile=f"FROM {small}\\nRUN id -u > /made\\n"),
    ImageSpec("podman", dockerfile=f"FROM {small}\\nRUN id -u > /made\\n"),
):
    spec = EnvironmentSpec("tests", "python", image=of)
    found.append(prepare(spec, folder / "envs", folder / "log", None, os.read(0, 99).decode() if of.registry else ""))
for lock in (folder / "envs").glob(".*.lock"):
    fcntl.flock(os.open(lock, os.O_RDWR), fcntl.LOCK_EX | fcntl.LOCK_NB)  # nothing that stays holds it
print(json.dumps([dataclasses.asdict(one) for one in found]))
"""


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with TLS and a password."""
    reason = registries.missing()
    if reason:
        pytest.skip(reason)
    with Registry(tmp_path, PASSWORD) as registry:
        yield registry


def test_a_user_fetches_with_a_password_and_builds(rootless: Rootless, registry: Registry) -> None:
    folder = rootless.home / f"images-{uuid.uuid4().hex[:8]}"
    registry.trusted_by(rootless.home)
    rootless.run("true")
    name = f"lab/{uuid.uuid4().hex[:8]}:1"
    registry.serve(name)
    script = rootless.home / f"{folder.name}.py"
    script.write_text(PREPARE)
    for path in (rootless.home / ".config").rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    (rootless.home / ".config").chmod(0o755)
    script.chmod(0o644)
    words = [sys.executable, str(script), registry.address, name, rootless.small, str(folder)]
    fetched, built, again = json.loads(_run(rootless, words, PASSWORD))
    assert "made ready image" in fetched["words"] and fetched["container"]["interpreter"] == "/usr/bin/python"
    assert (built["reused"], again["reused"]) == (False, True) and built["container"] == again["container"]
    image = built["container"]["image"]
    run = ["podman", "run", "--rm", "--pull=never", "--network=host", "--userns=keep-id", image, "cat", "/made"]
    assert rootless.run(*run).stdout == "0\n"  # a builder is root in its own eyes
    found = rootless.run("grep", "-rl", PASSWORD, str(folder), str(rootless.home), code=None).stdout
    assert found == ""
    rootless.run("podman", "image", "rm", "--force", image, fetched["container"]["image"], code=None)


def _run(user: Rootless, words: list[str], text: str) -> str:
    import subprocess

    done = subprocess.run(
        user.command(words),
        input=text,
        capture_output=True,
        text=True,
        timeout=120,
        cwd=user.home,
        env=user.environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
