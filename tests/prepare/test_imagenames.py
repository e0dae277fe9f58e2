"""Names of images mean what docker means by them."""

from __future__ import annotations

import pytest

from trainkit.errors import UserErrorException
from trainkit.prepare.imagenames import parse

DIGEST = "sha256:" + "0a" * 32


@pytest.mark.parametrize(
    "name, full",
    [
        ("python", "docker.io/library/python:latest"),
        ("python:3.11-slim", "docker.io/library/python:3.11-slim"),
        ("fastdotai/fastai2:latest", "docker.io/fastdotai/fastai2:latest"),
        ("docker.io/python", "docker.io/library/python:latest"),
        ("index.docker.io/a/b", "docker.io/a/b:latest"),
        ("localhost/a", "localhost/a:latest"),
        ("localhost:5000/a/b:1", "localhost:5000/a/b:1"),
        ("ghcr.io/a/b__c-d.e:V1", "ghcr.io/a/b__c-d.e:V1"),
        (f"a/b@{DIGEST}", f"docker.io/a/b@{DIGEST}"),
        (f"a/b:1@{DIGEST}", f"docker.io/a/b@{DIGEST}"),
        (DIGEST, DIGEST),
        (DIGEST[7:], DIGEST[7:]),
    ],
)
def test_what_is_left_out_is_filled_in(name: str, full: str) -> None:
    assert parse(name).full == full


def test_a_named_registry_is_where_a_short_name_is() -> None:
    assert parse("pets:1", "lab:5000").full == "lab:5000/pets:1"
    assert parse("a/pets", "lab:5000/team").full == "lab:5000/team/a/pets:latest"
    assert parse("ghcr.io/a/b", "lab:5000").full == "ghcr.io/a/b:latest"
    assert (parse("lab:5000/pets", "lab:5000").domain, parse(DIGEST, "lab:5000").domain) == ("lab:5000", "")
    assert parse("me/pets", "registry-1.docker.io").full == "docker.io/me/pets:latest"
    assert parse("python").in_local_store().full == "localhost/python:latest"


@pytest.mark.parametrize(
    "name", ["", "a/B", "A/b", "a b", "a:", "a//b", "a:1:2", "a@sha256:12", "-a", "a/b:$(x)", "a\n"]
)
def test_what_is_no_name_is_refused(name: str) -> None:
    with pytest.raises(UserErrorException, match="is no name of an image"):
        parse(name)
