"""A failed build's verdict names the step and the last that it said, whichever builder printed it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from tests.engines.containers import Engine
from trainkit.errors import EnvironmentBuildError
from trainkit.prepare.building import build_image, failing_step, verdict
from trainkit.prepare.engines import image_engine
from trainkit.prepare.installer import Installer

DOCKER = """
Sending build context to Docker daemon  1.583kB\r\r
Step 1/3 : FROM localhost/trainkit:1
 ---> 9bdd791493a9
Step 2/3 : RUN echo hello
 ---> Using cache
Step 3/3 : RUN pip install nothing
 ---> Running in 2f89f3f34bcf
one
\x1b[91mERROR: no such package
\x1b[0mRemoving intermediate container 2f89f3f34bcf
The command '/bin/sh -c pip install nothing' returned a non-zero code: 1
"""
PODMAN = """
[1/2] STEP 1/1: FROM localhost/trainkit:1 AS one
--> 9bdd791493a
[2/2] STEP 1/3: FROM localhost/trainkit:1
[2/2] STEP 2/3: RUN echo hello
--> Using cache 4911f478a3e6
[2/2] STEP 3/3: RUN pip install nothing
one
ERROR: no such package
subprocess exited with status 1
subprocess exited with status 1
Error: building at STEP "RUN pip install nothing": exit status 1
"""
BUILDKIT = """
#1 [internal] load build definition from Dockerfile
#1 DONE 0.1s

#5 [2/3] RUN echo hello
#5 CACHED

#6 [stage-1 3/3] RUN pip install nothing
#6 sha256:079b7a032ee776273df2ceea87edd69a4fa68d6bd63f0026ee4d79dbe243c3ec
#6 0.154 one
#7 [other 2/2] RUN sleep 9
#7 0.200 not this
#6 0.155 ERROR: no such package
#6 ERROR: process "/bin/sh -c pip install nothing" did not complete successfully: exit code: 1

#7 [other 2/2] RUN sleep 9
#7 CANCELED
------
 > [stage-1 3/3] RUN pip install nothing:
0.155 ERROR: no such package
------
Dockerfile:3
--------------------
   3 | >>> RUN pip install nothing
--------------------
ERROR: failed to solve: process "/bin/sh -c pip install nothing" did not complete successfully: exit code: 1
"""


@pytest.mark.parametrize("output", [DOCKER, PODMAN, BUILDKIT], ids=["docker", "podman", "buildkit"])
def test_every_builders_words_name_the_step_its_status_and_its_last_lines(output: str) -> None:
    said = ("one", "ERROR: no such package")
    assert failing_step(output) == ("3", "3", "RUN pip install nothing", "1", said)
    assert verdict(output, True).endswith(
        "step 3 of 3, 'RUN pip install nothing', failed with exit status 1: one | ERROR: no such package."
    )
    many = "".join(f"#6 0.1{number} line {number}\n" for number in range(9))
    long = output.replace("#6 0.154 one\n", many) if output is BUILDKIT else output.replace("one\n", "many\n" * 9)
    assert len(failing_step(long).said) == 5


def test_a_step_that_printed_nothing_has_its_status() -> None:
    silent = PODMAN.replace("one\nERROR: no such package\n", "")
    assert verdict(silent, True).endswith("'RUN pip install nothing', failed with exit status 1.")
    silent = DOCKER.replace("one\n\x1b[91mERROR: no such package\n\x1b[0m", "")
    assert verdict(silent, True).endswith("'RUN pip install nothing', failed with exit status 1.")
    printed = DOCKER.replace("one\n", "exit status 9\n")  # by the step itself
    assert failing_step(printed).status == "1"


def test_a_build_that_reached_no_step_ends_with_its_last_line() -> None:
    assert verdict("\nunknown flag: --nothing\n", True) == "The image could not be built: unknown flag: --nothing."
    copy = 'STEP 2/2: COPY a /b\nError: building at STEP "COPY a /b": copier: stat: "/a": no such file\n'
    assert verdict(copy, True).endswith("""'COPY a /b', failed: copier: stat: "/a": no such file.""")
    assert verdict(copy, False).endswith("no file of this machine can be copied: set docker.build_context.")


@pytest.mark.engine
def test_buildkit_builds_on_a_local_image_by_its_name(
    docker: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOCKER_BUILDKIT", "1")
    asked = subprocess.run(["docker", "buildx", "version"], capture_output=True, text=True)
    if asked.returncode:  # a client that has no BuildKit of its own: Debian's has
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "docker").symlink_to("/usr/bin/docker")
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    tag = f"localhost/trainkit:tests-{tmp_path.name.replace('_', '-')[-20:]}"
    with Installer(tmp_path / "log") as installer:
        engine, failing = image_engine("docker"), f"FROM {docker.small}\nRUN echo no >&2; exit 3\n"
        assert build_image(engine, "docker", f"FROM {docker.small}\nRUN true\n", None, tag, installer)
        with pytest.raises(EnvironmentBuildError, match="step 2 of 2, .* failed with exit status 3: no"):
            build_image(engine, "docker", failing, None, tag, installer)
    docker.run("image", "rm", tag)
