"""Jobs on Ray: what is sent, what is refused, what its dashboard's answers mean. A real cluster is in tests/engines."""

from __future__ import annotations

import json
import shlex
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Job, Status
from trainkit.options import launcher_of, options_of
from trainkit.testing import make_job
from trainkit_launchers import rayprogram
from trainkit_launchers.ray import Ray
from trainkit_launchers.raywords import explained, shortage, status_of
from trainkit_launchers.seldom import Seldom

ADDRESS = "http://head:8265"


def job(**values: Any) -> Job:
    given: dict[str, Any] = {
        "run_id": "birds_1_ab", "experiment": "birds", "run_dir": "/work/a b/birds_1_ab", "attempt": 2,
        "interpreter": "/work/env/bin/python", "script": "train.py", "nodes": 2,
    }  # fmt: skip
    return Job(**{**given, **values})


def test_the_request_quotes_every_word_of_the_shell_line() -> None:
    request = Ray(ADDRESS, python="/opt/my ray/bin/python").request(job())
    folder = "/work/a b/birds_1_ab/attempts/2/ray"
    words = ["exec", "/opt/my ray/bin/python", f"{folder}/program.py", f"{folder}/plan.json"]
    assert shlex.split(request["entrypoint"]) == words
    assert request["submission_id"] == "birds_1_ab-2"
    assert int(request["runtime_env"]["env_vars"]["RAY_JOB_STOP_WAIT_TIME_S"]) > job().grace_seconds


def test_the_plan_has_an_agent_a_node_and_a_bundle() -> None:
    plan = Ray(ADDRESS).plan(job(ranks_per_node=4, gpus_per_node=4, boot="/work/boot.zip"))
    assert plan["bundle"] == {"CPU": 4.0, "GPU": 4.0}
    assert plan["commands"][1] == [
        "/work/env/bin/python", "/work/boot.zip", "agent", "/work/a b/birds_1_ab", "2", "1", "network", "restarts",
    ]  # fmt: skip
    assert plan["logs"][1] == job().agent_log(1)
    assert Ray(ADDRESS, cpus=0.5, resources={"TPU": 1}).bundle(job()) == {"CPU": 0.5, "TPU": 1}


def test_a_dry_run_shows_all_that_would_be_sent() -> None:
    text = Ray(ADDRESS, queue_seconds=60).dry_run(job())
    assert text.startswith("POST http://head:8265/api/jobs/\n{")
    assert json.loads(text[text.index("{") : text.index("\n\n")]) == Ray(ADDRESS).request(job())
    assert text.endswith("waits for 2 nodes with 1 CPU each, at most 60 s")


@pytest.mark.parametrize("address", ["head:8265", "ray://head:10001", "auto", ""])
def test_an_address_that_is_no_dashboards_is_refused(address: str) -> None:
    with pytest.raises(UserErrorException, match="http://HEAD:8265"):
        Ray(address)


def test_a_target_is_kept_as_plain_values_and_made_again() -> None:
    target = Ray(ADDRESS, resources={"TPU": 1.0}, token_variable="RAY_TOKEN", autoscaling=True)
    assert launcher_of("ray", json.loads(json.dumps(options_of(target)))) == target


def test_a_job_without_a_shared_folder_is_refused() -> None:
    with pytest.raises(UnsupportedJob, match="needs a folder that every node"):
        Ray(ADDRESS).start(job(shared=False))


# --- what the dashboard's answers mean ---

RUNNING = {"phase": "running", "words": "on 10.0.0.1, 10.0.0.2"}
WAITING = {"phase": "queued", "words": "waits for 2 nodes with 1 CPU free on each; 0 of 4 CPU free on 2 nodes"}
LOST = {"phase": "ended", "words": "Ray could not start the agent of node 1: The actor died"}
NO_RAY = (
    "Job entrypoint command failed with exit code 1, last available logs:\nModuleNotFoundError: No module named 'ray'\n"
)


@pytest.mark.parametrize(
    ("info", "stage", "status"),
    [
        ({"status": "PENDING"}, {}, Status("queued", "waits for Ray to start the job's driver")),
        ({"status": "PENDING", "message": "waiting for resources"}, {}, Status("queued", "waiting for resources")),
        ({"status": "RUNNING"}, WAITING, Status("queued", WAITING["words"])),
        ({"status": "RUNNING"}, RUNNING, Status("running", RUNNING["words"])),
        ({"status": "SUCCEEDED", "message": "Job finished."}, {"phase": "ended"}, Status("ended")),
        ({"status": "SUCCEEDED", "message": "Job finished."}, LOST, Status("ended", LOST["words"])),
        ({"status": "FAILED", "message": "it fell"}, LOST, Status("ended", LOST["words"])),
        ({"status": "STOPPED"}, WAITING, Status("ended")),
        ({"status": "FAILED", "message": "head died"}, RUNNING, Status("ended", "head died")),
        ({"status": "FAILED", "message": "it\nis\nfull\n"}, {}, Status("lost", "Ray could not start the job: full")),
    ],
)
def test_a_jobs_status(info: dict[str, str], stage: dict[str, str], status: Status) -> None:
    assert status_of(info, stage) == status


@pytest.mark.parametrize(
    ("message", "remedy"),
    [
        (NO_RAY, "name Ray's own interpreter"),
        ("sh: 1: exec: ray-python: not found", "name Ray's own interpreter"),
        ("python: can't open file '/w/program.py': [Errno 2] No such file or directory", "a folder that every node"),
        ("python: can't open file '/w/program.py': [Errno 13] Permission denied", "Ray must run as the same user"),
        ("", "it does not say why"),
    ],
)
def test_why_a_job_did_not_begin_comes_with_the_remedy(message: str, remedy: str) -> None:
    assert remedy in explained(message)


def node(name: str, **amounts: float) -> dict[str, Any]:
    return {"node_name": name, "state": "ALIVE", "resources_total": amounts}


def test_what_a_cluster_lacks_is_said_with_what_it_has() -> None:
    nodes = [node("a", CPU=4, GPU=2), node("b", CPU=1)]
    assert shortage(2, {"CPU": 1}, nodes) == ("", 2)
    words, available = shortage(2, {"CPU": 2, "GPU": 2}, nodes)
    assert available == 1
    assert words.startswith(
        "cannot hold a job that needs 2 nodes with 2 CPU and 2 GPU each. It has 2 nodes alive (a: 4 CPU, 2 GPU; "
        "b: 1 CPU, 0 GPU). Ask for less, or say autoscaling=True"
    )
    assert "Say use_gpu=False" in shortage(1, {"CPU": 1, "GPU": 1}, [node("b", CPU=1)])[0]
    assert "has 20 nodes alive" in shortage(21, {"CPU": 1}, [node("x", CPU=1)] * 20)[0]


def test_what_a_job_waits_for_is_said_with_what_is_free() -> None:
    there = {"CPU": 4.0, "node:10.0.0.1": 1.0, "node:10.0.0.2": 1.0, "node:__internal_head__": 1.0}
    assert rayprogram.waiting(2, {"CPU": 2.0}, {"CPU": 1.0}, there) == (
        "waits for 2 nodes with 2 CPU free on each; 1 of 4 CPU free on 2 nodes"
    )
    assert rayprogram.waiting(1, {"GPU": 1.0}, {}, {}) == "waits for a node with 1 GPU free; 0 of 0 GPU free on 0 nodes"


def test_an_agent_gets_nothing_that_ray_sets_for_its_workers() -> None:
    environment = {
        "RAY_JOB_ID": "1",
        "PYTHONPATH": "/ray",
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "3",
        "A": "b",
    }
    assert rayprogram.without_ray(environment) == {"CUDA_VISIBLE_DEVICES": "3", "A": "b"}


# --- a dashboard that answers as it is told ---


class Dashboard(HTTPServer):
    """Answers every path with the code and text that are set; notes what it was asked."""

    code, text = 200, "{}"
    location = ""  # where it redirects to
    kept = 0  # so many bytes more are announced than are sent before the connection is closed

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answering)
        self.asked: list[tuple[str, str]] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"


class Answering(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        assert isinstance(self.server, Dashboard)
        self.server.asked.append((self.path, self.headers.get("Authorization", "")))
        self.send_response(self.server.code)
        if self.server.location:
            self.send_header("Location", self.server.location)
        if self.server.kept:
            self.send_header("Content-Length", str(len(self.server.text.encode()) + self.server.kept))
        self.end_headers()
        self.wfile.write(self.server.text.encode())

    do_POST = do_GET

    def log_message(self, format: str, *values: object) -> None:
        """Nothing is printed."""


@pytest.fixture
def dashboard() -> Iterator[Dashboard]:
    with Dashboard() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("code", "text", "words"),
    [
        (200, "<html>nginx</html>", "is not Ray's dashboard"),
        (200, "{}", "does not answer as Ray's dashboard does"),
        (401, "no", "wants a token: say in token_variable"),
        (500, "Traceback\nValueError: no room", r"refused \(500\): ValueError: no room"),
    ],
)
def test_an_answer_that_is_no_rays_is_told(
    dashboard: Dashboard, tmp_path: Path, code: int, text: str, words: str
) -> None:
    dashboard.code, dashboard.text = code, text
    with pytest.raises(LaunchError, match=words):
        Ray(dashboard.address).start(make_job(tmp_path, "")[0])


def test_a_token_comes_from_the_environment_alone(
    dashboard: Dashboard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = Ray(dashboard.address, token_variable="TOKEN_OF_THE_TEST")
    with pytest.raises(LaunchError, match="TOKEN_OF_THE_TEST, which is to hold Ray's token, is not set"):
        target.start(make_job(tmp_path / "a", "")[0])
    monkeypatch.setenv("TOKEN_OF_THE_TEST", "abc")
    with pytest.raises(LaunchError):
        target.start(make_job(tmp_path / "b", "")[0])
    assert dashboard.asked[-1][1] == "Bearer abc"


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
def test_a_redirect_is_refused(dashboard: Dashboard, code: int) -> None:
    """urllib would take the token along, to any host."""
    dashboard.code, dashboard.location = code, f"{dashboard.address}/elsewhere"
    target = Ray(dashboard.address)
    for call in (lambda: target._call("GET", "/api/jobs/a"), lambda: target._call("POST", "/api/jobs/", {})):
        with pytest.raises(LaunchError, match="redirects to .*/elsewhere, which is not followed"):
            call()
    assert [path for path, _ in dashboard.asked] == ["/api/jobs/a", "/api/jobs/"]


def test_a_job_is_asked_for_seldom_and_never_after_its_end(dashboard: Dashboard, tmp_path: Path) -> None:
    dashboard.text = '{"status": "PENDING"}'
    target = Ray(dashboard.address)
    assert {target.poll(f"a {tmp_path}").phase for _ in range(20)} == {"queued"}
    assert len(dashboard.asked) == 1
    dashboard.text = '{"status": "SUCCEEDED"}'
    target.cancel(f"a {tmp_path}")
    assert [target.poll(f"a {tmp_path}").phase for _ in range(20)] == ["ended"] * 20
    assert [path for path, _ in dashboard.asked] == ["/api/jobs/a", "/api/jobs/a/stop", "/api/jobs/a"]


def test_a_cluster_that_is_silent_is_waited_for(tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text(json.dumps(RUNNING))
    status = Ray("http://127.0.0.1:9").poll(f"a {tmp_path}")
    assert status.phase == "running"
    assert status.words.startswith("No Ray cluster answers at http://127.0.0.1:9")


def test_an_answer_that_is_cut_off_is_as_good_as_none(dashboard: Dashboard, tmp_path: Path) -> None:
    (tmp_path / "stage.json").write_text(json.dumps(RUNNING))
    dashboard.text, dashboard.kept = '{"status": "RUN', 10
    assert Ray(dashboard.address).poll(f"a {tmp_path}").phase == "running"
    with pytest.raises(LaunchError, match="No Ray cluster answers") as raised:
        Ray(dashboard.address)._call("GET", "/api/jobs/a")
    assert raised.value.transient
    dashboard.code = 502
    assert Ray(dashboard.address).poll(f"b {tmp_path}").phase == "running"
    dashboard.code = 404  # what it says besides is not needed
    assert Ray(dashboard.address).poll(f"a {tmp_path}").phase == "lost"


def test_a_shell_goes_to_the_address_that_ray_knows(tmp_path: Path) -> None:
    with pytest.raises(LaunchError, match="not said yet which machine node 1"):
        Ray(ADDRESS).shell(f"a {tmp_path}", 1)
    (tmp_path / "stage.json").write_text(json.dumps({**RUNNING, "addresses": ["10.0.0.1", "10.0.0.2"]}))
    assert Ray(ADDRESS).shell(f"a {tmp_path}", 1)[-1] == "10.0.0.2"


def test_silence_is_measured_from_the_last_answer() -> None:
    told: list[tuple[str, str]] = []

    def fails() -> Status:
        raise LaunchError("nobody there")

    def silent(last: Status, seconds: float, words: str) -> Status:
        told.append((last.phase, words))
        return Status("lost") if len(told) == 2 else last

    seldom = Seldom(0.0)
    assert seldom.status("a", lambda: Status("running"), silent).phase == "running"
    assert [seldom.status("a", fails, silent).phase for _ in range(3)] == ["running", "lost", "lost"]
    assert told == [("running", "nobody there")] * 2
