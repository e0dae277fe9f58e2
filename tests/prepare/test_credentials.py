"""How an engine's client gets a password: only for its registry, and in no word, variable or file."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

from trainkit.imagespec import RegistrySpec
from trainkit.prepare.credentials import Access, access, login_for
from trainkit.prepare.imagenames import parse

PASSWORD = "s3cr3t-of-the-tests"


def helper_of(way: Access, server: str) -> dict[str, str]:
    """What docker's client would be told, and asked for by the name that it knows a registry by."""
    variables = dict(way.given.variables or {})
    settings = Path(variables["DOCKER_CONFIG"], "config.json").read_text()
    assert PASSWORD not in settings + repr(way) + "".join(variables.values())
    program = f"docker-credential-{json.loads(settings)['credHelpers'][server]}"
    words = [program, "get"]
    done = subprocess.run(
        words, input=server, capture_output=True, text=True, check=True, env=variables, pass_fds=way.given.descriptors
    )
    found: dict[str, str] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize(
    "address, server", [("lab:5000/team", "lab:5000"), ("docker.io", "https://index.docker.io/v1/")]
)
def test_docker_asks_a_helper_under_the_name_that_it_knows(
    address: str, server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    own = tmp_path / "docker"
    (own / "contexts").mkdir(parents=True)
    (own / "config.json").write_text('{"currentContext": "lab", "auths": {"other": {"auth": "x"}}}')
    monkeypatch.setenv("DOCKER_CONFIG", str(own))
    login = login_for(RegistrySpec(address, "somebody"), PASSWORD)
    assert PASSWORD not in repr(login)
    with access("docker", parse("pets:1", address), login) as way:
        for _ in range(2):  # it may ask more than once
            assert helper_of(way, server)["Secret"] == PASSWORD
        folder = Path((way.given.variables or {})["DOCKER_CONFIG"])
        settings = json.loads((folder / "config.json").read_text())
        assert settings["currentContext"] == "lab" and "auths" not in settings
        assert (folder / "contexts").samefile(own / "contexts")
    assert not folder.exists()


def test_podman_reads_it_from_standard_input_and_the_variable_goes_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LAB_PASSWORD", PASSWORD)
    login = login_for(RegistrySpec("lab:5000", "somebody", "env:LAB_PASSWORD"), "")
    with access("podman", parse("lab:5000/pets"), login) as way:
        assert way.words == ("--authfile", "/proc/self/fd/0") and "LAB_PASSWORD" not in (way.given.variables or {})
        told = subprocess.run(["cat", way.words[1]], stdin=way.given.stdin, capture_output=True, check=True)
        assert list(json.loads(told.stdout)["auths"]) == ["lab:5000"] and PASSWORD.encode() not in told.stdout
    with pytest.raises(OSError):
        os.fstat(way.given.stdin)


def test_another_registry_gets_none(monkeypatch: pytest.MonkeyPatch) -> None:
    login = login_for(RegistrySpec("lab:5000", "somebody"), PASSWORD)
    for name in ("lab:5001/pets", "pets", "lab/pets", "docker.io/lab:5000"):
        with access("docker", parse(name), login) as way:
            assert way == Access()
    assert login_for(RegistrySpec("lab:5000"), "") is None and login_for(None, PASSWORD) is None
