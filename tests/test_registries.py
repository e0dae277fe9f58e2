"""A registry's password, wherever it might leak to, and what a registry must say."""

from __future__ import annotations

import base64
import copy
import pickle
from pathlib import Path
from typing import Any

import pytest

from trainkit import Environment, Experiment, ScriptRunConfig
from trainkit.errors import UserErrorException
from trainkit.imagespec import RegistrySpec
from trainkit.registries import ContainerRegistry
from trainkit.workspace import Workspace

PASSWORD = "s3cret-of-the-registry"
ENGINE = """#!/bin/sh
[ "$1" = version ] && echo 27.0.1 && exit
echo "$@" >> "$(dirname "$0")/told"
/usr/bin/env >> "$(dirname "$0")/told"
echo denied >&2
exit 1
"""


def environment() -> Environment:
    made = Environment("pets")
    made.docker.base_image = "myregistry.azurecr.io/pets"
    made.docker.base_image_registry.address = "myregistry.azurecr.io"
    made.docker.base_image_registry.username = "username"
    made.docker.base_image_registry.password = PASSWORD
    return made


def test_the_password_is_in_nothing_that_could_be_written() -> None:
    made = environment()
    assert made.password() == PASSWORD
    texts = [
        repr(made),
        repr(made.docker),
        str(made.docker.base_image_registry),
        repr(made.spec()),
        repr(made.spec().to_json()),
    ]
    assert not any(PASSWORD in text for text in texts)
    for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1):
        assert PASSWORD.encode() not in pickle.dumps(made, protocol)
    assert PASSWORD.encode() not in pickle.dumps(made.docker.base_image_registry, 0)


def test_copies_in_memory_keep_the_password() -> None:
    made = environment()
    for other in (made.clone("other"), copy.deepcopy(made), copy.copy(made)):
        assert other.password() == PASSWORD and other.spec().image == made.spec().image


def test_a_password_that_was_lost_is_said_and_not_left_out() -> None:
    read = pickle.loads(pickle.dumps(environment()))
    with pytest.raises(
        UserErrorException, match="has a user name for myregistry.azurecr.io, but no password.*env:NAME"
    ):
        read.spec()


@pytest.mark.parametrize("reference", ["env:PETS_PASSWORD", "keyring:myregistry.azurecr.io"])
def test_a_reference_is_kept_and_is_no_password(reference: str) -> None:
    made = environment()
    made.docker.base_image_registry.password = reference
    read = pickle.loads(pickle.dumps(made))
    assert read == made and read.password() == ""
    assert read.spec().image.registry == RegistrySpec("myregistry.azurecr.io", "username", reference)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"username": "u", "password": "p"}, "address is what stands before the image's name"),
        ({"address": "a b"}, "address is what stands"),
        ({"address": "--help"}, "address is what stands"),
        ({"address": 3}, "address is a text in one line, not 3"),
        ({"address": "r.org", "password": PASSWORD}, "has a password for r.org, but no user name"),
        ({"address": "r.org", "username": "u", "password": PASSWORD + "\n"}, r"password is a text in one line\."),
    ],
)
def test_what_a_registry_must_say(values: dict[str, Any], words: str) -> None:
    with pytest.raises(UserErrorException, match=words) as caught:
        ContainerRegistry(**values).spec()
    assert PASSWORD not in caught.value.message


def test_a_registry_that_is_not_described_is_none() -> None:
    assert ContainerRegistry().spec() is None
    assert ContainerRegistry("localhost:5000").spec() == RegistrySpec("localhost:5000")
    with pytest.raises(AttributeError, match="adress"):
        ContainerRegistry().adress = "x"  # type: ignore[attr-defined]


def test_the_password_of_a_job_is_in_no_file_and_no_command(
    workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, programs = tmp_path / "source", tmp_path / "programs"
    source.mkdir()
    programs.mkdir()
    (source / "train.py").write_text("")
    (programs / "docker").write_text(ENGINE)
    (programs / "docker").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/bin:/bin")
    made = environment()
    made.docker.engine = "docker"
    run = Experiment(workspace, "pets").submit(ScriptRunConfig(str(source), "train.py", environment=made))
    details = run.wait_for_completion(raise_on_error=False)
    assert run.get_status() == "Failed" and "myregistry.azurecr.io" in (programs / "told").read_text()
    assert PASSWORD not in repr(details) + repr(run.get_details_with_logs()) + repr(run)
    files = [path for path in (*workspace.root.rglob("*"), *programs.iterdir()) if path.is_file()]
    assert run.directory / "job.json" in files
    secrets = PASSWORD.encode(), base64.b64encode(f"username:{PASSWORD}".encode())
    assert [str(path) for path in files if any(secret in path.read_bytes() for secret in secrets)] == []


@pytest.mark.parametrize("address", ["library", "foo", "http://foo/bar"])
def test_an_address_that_engines_take_for_a_folder_of_docker_hub_is_refused(address: str) -> None:
    with pytest.raises(UserErrorException, match="has a dot or a port"):
        ContainerRegistry(address, "me", "secret").spec()


@pytest.mark.parametrize("password", ["env:", "env:NO SUCH", "keyring:"])
def test_a_reference_that_names_nothing_is_no_password(password: str) -> None:
    with pytest.raises(UserErrorException, match="names no place"):
        ContainerRegistry("registry.example.org", "me", password).spec()
