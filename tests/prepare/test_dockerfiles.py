"""Which images a Dockerfile stands on is found as builders find it, and nothing else of it is touched."""

from __future__ import annotations

import platform

import pytest

from trainkit.errors import UserErrorException
from trainkit.prepare.dockerfiles import images_in, with_images

HERE = {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())
LONG = f"""# syntax=docker/dockerfile:1
# a comment
ARG VERSION=3.11 \\
    # of Python
    FLAVOUR
ARG WHOLE=${{VERSION}}-slim
from --platform=linux/{HERE} python:${{WHOLE}} as Build
RUN echo one && \\
  echo from python:2
RUN python3 <<EOF
FROM not:this
EOF
COPY <<-TEXT /there
FROM nor:this
\tTEXT
FROM build
FROM $NONE:${{VERSION:-9}} AS last
COPY --from=build /a /b
COPY --from=0 /a /b
COPY --chown=1:1 --from=busybox:1 \\
  /bin/sh /sh
RUN --mount=type=bind,from=tools,target=/t true
FROM scratch
"""


def test_all_images_from_outside_are_found_and_replaced_in_place() -> None:
    text = LONG.replace("$NONE", "${FLAVOUR:-alpine}")
    assert images_in(text) == ["python:3.11-slim", "alpine:3.11", "busybox:1", "tools"]
    new = with_images(text, {name: f"ours:{number}" for number, name in enumerate(images_in(text))})
    before, after = text.splitlines(), new.splitlines()
    assert len(before) == len(after)
    changed = {number: line for number, line in enumerate(after) if line != before[number]}
    assert list(changed.values()) == [
        "FROM ours:0 AS Build",
        "FROM ours:1 AS last",
        "COPY --chown=1:1 --from=ours:2 \\",
        "RUN --mount=type=bind,from=ours:3,target=/t true",
    ]
    assert images_in(new) == ["ours:0", "ours:1", "ours:2", "ours:3"]


@pytest.mark.parametrize(
    "text, image",
    [
        ("FROM a", "a"),
        ("\ufeff\n\n  FROM   a:1   AS x  ".lstrip("\ufeff"), "a:1"),
        ("ARG A\nARG A=b\nFROM $A", "b"),
        ("ARG A='b c'\nFROM ${A:+d}", "d"),
        ('ARG A="b"\nFROM ${A}:${C:-1}', "b:1"),
        ("# escape=`\nFROM `\n  a", "a"),
        ("FROM a@sha256:" + "0" * 64, "a@sha256:" + "0" * 64),
        ("FROM --platform=$BUILDPLATFORM a", "a"),
    ],
)
def test_a_base_is_read_as_builders_read_it(text: str, image: str) -> None:
    assert images_in(text) == [image]


@pytest.mark.parametrize(
    "text, said",
    [
        ("RUN true", "has no FROM"),
        ("", "has no FROM"),
        ("FROM", "Line 1"),
        ("\nFROM a b", "Line 2"),
        ("ARG A\nFROM $A", "'ARG A=value'"),
        ("FROM --platform=linux/s390x a", "asks for the platform linux/s390x"),
    ],
)
def test_what_cannot_be_told_is_refused_by_its_line(text: str, said: str) -> None:
    with pytest.raises(UserErrorException, match="."):
        images_in(text)
    try:
        images_in(text)
    except UserErrorException as error:
        assert said in error.message
