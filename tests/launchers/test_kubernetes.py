"""Jobs on Kubernetes: the manifests, valid for current versions; pods' states in words; the laws on a stand-in."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import kubernetes_validate  # type: ignore[import-untyped]
import pytest

from trainkit import outcome
from trainkit.errors import LaunchError, UnsupportedJob, UserErrorException
from trainkit.job import Container, Job, Launcher, Status
from trainkit.options import launcher_of, options_of
from trainkit.testing import LauncherLaws, launch, make_job, wait_until
from trainkit_launchers.kubernetes import Kubernetes, Secret, Toleration, Volume
from trainkit_launchers.manifests import INDEX, job_manifest, manifests, meeting_place, name_of, outside, version_of
from trainkit_launchers.podstates import Seen, seen

VERSIONS = ("1.25", "1.29", "1.33", "1.37")
FAKE = Path(__file__).with_name("fake_kubectl.py")
PLAIN = Kubernetes("registry.example/team/torch:2.9", (Volume("/work", claim="work"),))
FULL = Kubernetes(
    "registry.example/team/torch:2.9",
    (Volume("/work", claim="work", sub_path="team"), Volume("/data", nfs="store:/export/data", read_only=True),
     Volume("/scratch", host_path="/mnt/scratch")),
    namespace="training", cpus="8", memory="32Gi", resources={"rdma/hca": "1"}, node_selector={"gpu": "a100"},
    tolerations=(Toleration("nvidia.com/gpu", effect="NoSchedule"), Toleration("team", "vision")),
    secrets=(Secret("HF_TOKEN", "hub", "token"),), image_pull_secrets=("registry",), service_account="trainer",
    priority_class="high", runtime_class="nvidia", user=1000, group=100, capabilities=("IPC_LOCK",),
    host_network=True, labels={"kueue.x-k8s.io/queue-name": "vision"}, annotations={"owner": "me"},
)  # fmt: skip


def job(
    nodes: int = 2, run_dir: str = "/work/project/.trainkit/runs/birds/birds_1795313180_0183f8a6", **values: Any
) -> Job:
    given = {
        "run_id": "birds_1795313180_0183f8a6",
        "experiment": "birds",
        "attempt": 1,
        "interpreter": "/work/env/bin/python",
    }
    return Job(**{**given, "run_dir": run_dir, "script": "train.py", "nodes": nodes, **values})


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("target", [PLAIN, FULL], ids=["plain", "full"])
@pytest.mark.parametrize("nodes", [1, 4])
def test_the_manifests_are_valid(target: Kubernetes, nodes: int, version: str) -> None:
    for manifest in manifests(target, job(nodes, gpus_per_node=2, boot="/work/boot.zip"), 1000, 1000):
        kubernetes_validate.validate(manifest, version, strict=True)


def test_the_check_of_manifests_refuses_what_is_wrong() -> None:
    manifest = job_manifest(PLAIN, job(), 1, 1)
    manifest["spec"]["template"]["spec"]["gpus"] = 1
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_several_nodes_are_an_indexed_job_with_a_headless_service() -> None:
    made, service = manifests(PLAIN, job(4), 1000, 1000)
    spec, pod = made["spec"], made["spec"]["template"]["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"], spec["backoffLimit"]) == (
        "Indexed",
        4,
        4,
        0,
    )
    assert (pod["restartPolicy"], pod["subdomain"]) == ("Never", service["metadata"]["name"])
    assert (service["spec"]["clusterIP"], service["spec"]["publishNotReadyAddresses"]) == ("None", True)
    assert service["spec"]["selector"].items() <= spec["template"]["metadata"]["labels"].items()
    assert pod["containers"][0]["args"][2:] == [
        "4", "/work/env/bin/python", "-m", "trainkit.boot.agent", job().run_dir, "1", INDEX, "network",
    ]  # fmt: skip
    assert pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]


def test_one_node_needs_nothing_that_old_servers_lack() -> None:
    (made,) = manifests(PLAIN, job(1, boot="/work/boot.zip"), 0, 0)
    assert "completionMode" not in made["spec"]
    pod = made["spec"]["template"]["spec"]
    assert pod["containers"][0]["args"][2:] == [
        "1",
        "/work/env/bin/python",
        "/work/boot.zip",
        "agent",
        job().run_dir,
        "1",
        "0",
    ]
    assert pod["securityContext"]["runAsNonRoot"] is False
    assert "subdomain" not in pod and "affinity" not in pod


def test_words_are_never_a_shells_nor_expanded() -> None:
    run_dir = "/work/$(HOME) `id`; x"
    container = job_manifest(PLAIN, job(run_dir=run_dir), 1, 1)["spec"]["template"]["spec"]["containers"][0]
    assert run_dir not in "".join(container["command"])
    assert container["args"][6] == "/work/$$(HOME) `id`; x"


def test_an_environments_image_is_that_of_the_pods() -> None:
    image = Container("", "registry.example/team/fastai:2.8", "registry.example/team/fastai:2.8", "python3")
    made = job_manifest(PLAIN, job(interpreter="python3", container=image, boot="/work/boot.zip"), 1, 1)
    (agent,) = made["spec"]["template"]["spec"]["containers"]
    assert agent["image"] == image.image and agent["args"][3:6] == ["python3", "/work/boot.zip", "agent"]


def test_secrets_are_named_and_never_read() -> None:
    text = json.dumps(manifests(FULL, job(), 1, 1))
    assert '{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}' in text


def test_gpus_are_asked_for_only_where_the_job_wants_them() -> None:
    def asked(**values: int) -> Any:
        return job_manifest(FULL, job(**values), 1, 1)["spec"]["template"]["spec"]["containers"][0]["resources"][
            "limits"
        ]

    assert asked(gpus_per_node=2) == {"cpu": "8", "memory": "32Gi", "nvidia.com/gpu": "2", "rdma/hca": "1"}
    assert "nvidia.com/gpu" not in asked()


@pytest.mark.parametrize("run_id", ["Birds_1_0183f8a6", "x" * 90 + "_1_ab", "großes Netz_2_cd", "9_3_ef"])
def test_names_are_those_that_dns_allows(run_id: str) -> None:
    name = name_of(job(run_id=run_id, attempt=12))
    assert re.fullmatch(r"[a-z]([a-z0-9-]*[a-z0-9])?", name) and len(name) <= 54
    assert name.endswith(f"{run_id[-2:]}-12")


def test_a_workspace_that_no_volume_holds_is_refused_with_the_remedy() -> None:
    with pytest.raises(UnsupportedJob, match=r"No volume .* holds /home/me/run \(its volumes are at: /work\)"):
        PLAIN.start(job(run_dir="/home/me/run"))
    assert outside("/workshop/run", PLAIN.volumes) and outside("/data/run", FULL.volumes)
    assert not outside("/scratch/run", FULL.volumes)


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"path": "/work"}, "exactly one of claim=, host_path= and nfs="),
        ({"path": "/work", "claim": "a", "nfs": "b:/c"}, "exactly one of"),
        ({"path": "work", "claim": "a"}, "an absolute path"),
        ({"path": "/work", "nfs": "server"}, "SERVER:/EXPORTED/FOLDER"),
    ],
)
def test_a_volume_that_cannot_be_is_refused(values: dict[str, str], words: str) -> None:
    with pytest.raises(UserErrorException, match=words):
        Volume(**values)  # type: ignore[arg-type]


@pytest.mark.parametrize("target", [PLAIN, FULL], ids=["plain", "full"])
def test_a_target_is_kept_as_plain_values_and_made_again(target: Kubernetes) -> None:
    assert launcher_of("kubernetes", json.loads(json.dumps(options_of(target)))) == target


def test_a_dry_run_shows_all_that_would_be_sent() -> None:
    text = FULL.dry_run(job())
    sent = json.loads(text[text.index("{") : text.rindex("}") + 1])
    assert [item["kind"] for item in sent["items"]] == ["Job", "Service"]
    assert text.startswith("kubectl --namespace=training create -f -")
    assert text.endswith("waits for 2 pods on 2 machines that the cluster's scheduler finds room for")


# --- states ---


def pod(index: int, state: dict[str, Any] | None = None, **status: Any) -> dict[str, Any]:
    if state:
        status["containerStatuses"] = [{"name": "agent", "state": state}]
    metadata = {"name": f"birds-{index}-x", "labels": {"batch.kubernetes.io/job-completion-index": str(index)}}
    return {"kind": "Pod", "metadata": metadata, "spec": {"nodeName": "gpu7"}, "status": status}


def answer(*pods: dict[str, Any], condition: str = "", **values: Any) -> dict[str, Any]:
    status = (
        {"conditions": [{"type": condition, "status": "True", "reason": "BackoffLimitExceeded"}]} if condition else {}
    )
    return {"items": [{"kind": "Job", "metadata": {}, "spec": {"parallelism": 2}, "status": status, **values}, *pods]}


RUNS: dict[str, Any] = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
DONE = {"terminated": {"exitCode": 0, "reason": "Completed"}}
UNSCHEDULABLE = {
    "type": "PodScheduled", "status": "False", "reason": "Unschedulable",
    "message": "0/3 nodes are available: 3 Insufficient nvidia.com/gpu.",
}  # fmt: skip
PULL = {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "x:1"'}}
NO_FOLDER = {
    "terminated": {"exitCode": 2, "reason": "Error", "message": "sh: 1: cannot create /w/log: Directory nonexistent\n"}
}
NO_START = {"terminated": {"exitCode": 128, "reason": "StartError", "message": 'exec: "/bin/sh": no such file'}}
STATES = [
    (answer(), "queued", "waits for Kubernetes to make its pods", False),
    (answer(spec={"suspend": True}), "queued", "is suspended, until the queue that holds it lets it go on", False),
    (answer(pod(0, conditions=[UNSCHEDULABLE])), "queued",
     "pod 0 waits: Unschedulable: 0/3 nodes are available: 3 Insufficient nvidia.com/gpu.", False),
    (answer(pod(0, PULL)), "queued", 'pod 0 waits: ImagePullBackOff: Back-off pulling image "x:1"', False),
    (answer(pod(0, {"waiting": {"reason": "ContainerCreating"}})), "queued", "pod 0 is being started on gpu7", False),
    (answer(pod(1, PULL), pod(0, RUNS)), "queued",
     '1 of 2 pods are up; pod 1 waits: ImagePullBackOff: Back-off pulling image "x:1"', False),
    (answer(pod(0, RUNS), pod(1, RUNS)), "running", "2 of 2 pods run", False),
    (answer(pod(0, RUNS), pod(1, DONE)), "running", "1 of 2 pods run", False),
    (answer(pod(0, DONE), pod(1, RUNS)), "running", "1 of its pods are ending", True),
    (answer(pod(0, DONE), pod(1, DONE)), "ended", "", True),
    (answer(pod(0, DONE), pod(1, DONE), condition="Complete"), "ended", "", True),
    (answer(pod(0, RUNS), pod(1, NO_FOLDER), condition="Failed"), "running", "1 of its pods are ending", True),
    (answer(pod(0, DONE), pod(1, {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}), condition="Failed"),
     "ended", "BackoffLimitExceeded", True),
    (answer(pod(0, NO_FOLDER), condition="Failed"), "lost",
     "Kubernetes could not start the job: pod 0: Error: sh: 1: cannot create /w/log: Directory nonexistent - is the "
     "workspace's folder at the same path in the pods? See the target's volumes", True),
    (answer(pod(0, NO_START), condition="Failed"), "lost",
     'Kubernetes could not start the job: pod 0: StartError: exec: "/bin/sh": no such file', True),
    (answer(pod(0, phase="Failed", reason="UnexpectedAdmissionError", message="no devices left"), condition="Failed"),
     "lost", "Kubernetes could not start the job: pod 0: UnexpectedAdmissionError: no devices left", True),
    (answer(pod(0, RUNS), metadata={"deletionTimestamp": "2026-01-01T00:00:00Z"}), "running", "is being deleted",
     False),
]  # fmt: skip


@pytest.mark.parametrize(("said", "phase", "words", "over"), STATES, ids=[f"{s[1]}-{n}" for n, s in enumerate(STATES)])
def test_states_are_told_in_words(said: dict[str, Any], phase: str, words: str, over: bool) -> None:
    assert seen(said) == Seen(Status(phase, words), over)


def test_no_job_is_no_state() -> None:
    assert seen({"items": [pod(0, RUNS)]}) is None


@pytest.mark.parametrize(
    ("said", "version"),
    [({"serverVersion": {"major": "1", "minor": "27+"}}, (1, 27)), ({"serverVersion": None}, (0, 0)), ({}, (0, 0))],
)
def test_the_servers_version(said: dict[str, Any], version: tuple[int, int]) -> None:
    assert version_of(said) == version


# --- the launcher, on a stand-in for kubectl whose pods are processes ---


@pytest.fixture
def cluster(tmp_path: Path) -> Kubernetes:
    """A target whose cluster is a folder."""
    folder = tmp_path / "cluster"
    folder.mkdir()
    (folder / "version").write_text('{"serverVersion": {"major": "1", "minor": "33"}}')
    return Kubernetes("image", (Volume(str(tmp_path), claim="c"),), kubectl=str(FAKE), kubeconfig=str(folder))


class TestKubernetes(LauncherLaws):
    """All laws; the command, the arguments and the index of each pod are those of its manifest."""

    @pytest.fixture(autouse=True)
    def _given(self, cluster: Kubernetes) -> None:
        self.given = cluster

    def launcher(self) -> Launcher:
        return self.given


def refused(cluster: Kubernetes, tmp_path: Path, words: str, nodes: int = 1) -> Any:
    """The error of a cluster that answers everything with these words."""
    Path(cluster.kubeconfig, "refusal").write_text(words)
    with pytest.raises(LaunchError) as error:
        cluster.start(make_job(tmp_path / "run", "", nodes=nodes)[0])
    return error.value


def test_what_the_server_refuses_is_told_in_its_words(cluster: Kubernetes, tmp_path: Path) -> None:
    words = 'The Job "x" is invalid: spec.template.spec.containers[0].image: Required value'
    error = refused(cluster, tmp_path, words)
    assert (error.message, error.transient) == (f"kubectl create failed: {words}", False)


def test_a_list_of_what_is_invalid_is_told_whole(cluster: Kubernetes, tmp_path: Path) -> None:
    lines = ("Warning: old", 'The Job "x" is invalid: ', "* metadata.labels: bad", "* spec.template.labels: bad")
    error = refused(cluster, tmp_path, "\n".join(lines))
    said = 'The Job "x" is invalid: * metadata.labels: bad * spec.template.labels: bad'
    assert (error.message, error.transient) == (f"kubectl create failed: {said}", False)


def test_a_server_that_is_away_is_a_passing_trouble(cluster: Kubernetes, tmp_path: Path) -> None:
    words = "The connection to the server 10.0.0.1:6443 was refused - did you specify the right host or port?"
    assert refused(cluster, tmp_path, words).transient


def test_an_old_server_is_asked_for_one_node_only(cluster: Kubernetes, tmp_path: Path) -> None:
    Path(cluster.kubeconfig, "version").write_text('{"serverVersion": {"major": "1", "minor": "20+"}}')
    with pytest.raises(
        UnsupportedJob, match="2 nodes were asked of a Kubernetes API server of version 1.20, which has no"
    ):
        cluster.start(make_job(tmp_path / "two", "", nodes=2)[0])
    one, attempt = make_job(tmp_path / "one", "")
    handle = launch(cluster, one, attempt)
    wait_until(lambda: cluster.poll(handle).phase == "ended", 30, "the job's end")


def test_pods_that_come_up_late_are_waited_for(cluster: Kubernetes, tmp_path: Path) -> None:
    hold = Path(cluster.kubeconfig, "hold")
    hold.touch()
    given, attempt = make_job(tmp_path / "run", "", nodes=2)
    handle = launch(cluster, given, attempt)
    wait_until(lambda: Path(meeting_place(given), "0").exists(), 30, "the first pod's start")
    status = cluster.poll(handle)
    assert (status.phase, status.words) == ("queued", "1 of 2 pods are up; pod 1 waits: ImagePullBackOff")
    assert not attempt.agent(0).exists()
    hold.unlink()
    wait_until(lambda: cluster.poll(handle).phase == "ended", 30, "the job's end")
    assert [outcome.ok(record) for record in outcome.records_of(attempt)] == [True, True]


def test_a_job_is_cancelled_while_its_pods_wait_for_each_other(cluster: Kubernetes, tmp_path: Path) -> None:
    Path(cluster.kubeconfig, "hold").touch()
    given, attempt = make_job(tmp_path / "run", "", nodes=2)
    handle = launch(cluster, given, attempt)
    wait_until(lambda: Path(meeting_place(given), "0").exists(), 30, "the first pod's start")
    cluster.cancel(handle)
    wait_until(lambda: cluster.poll(handle).phase == "ended", 30, "the job's end")
    assert not attempt.agent(0).exists()


def test_a_silent_server_ends_nothing(cluster: Kubernetes, tmp_path: Path) -> None:
    given, attempt = make_job(tmp_path / "run", "import time; time.sleep(60)")
    handle = launch(cluster, given, attempt)
    wait_until(lambda: cluster.poll(handle).phase == "running", 30, "the job's start")
    refusal = Path(cluster.kubeconfig, "refusal")
    refusal.write_text("Unable to connect to the server: dial tcp: i/o timeout")
    wait_until(lambda: "i/o timeout" in cluster.poll(handle).words, 30, "the silence")
    assert cluster.poll(handle).phase == "running"
    cluster.cancel(handle)
    refusal.unlink()
    cluster.cancel(handle)
    wait_until(lambda: cluster.poll(handle).phase == "ended", 30, "the job's end")


def test_a_job_that_nobody_knows_is_lost(cluster: Kubernetes) -> None:
    assert cluster.poll("default/never") == Status("lost", "Kubernetes no longer knows the job default/never")


def test_a_missing_kubectl_is_named_with_the_remedy(tmp_path: Path) -> None:
    target = Kubernetes("image", (Volume(str(tmp_path), claim="c"),), kubectl="no-kubectl")
    with pytest.raises(LaunchError, match="no-kubectl is not here: .* Install it"):
        target.start(make_job(tmp_path / "run", "")[0])


def test_a_shell_in_a_pod_is_kubectls(cluster: Kubernetes, tmp_path: Path) -> None:
    given, attempt = make_job(tmp_path / "run", "", nodes=2)
    handle = launch(cluster, given, attempt)
    words = cluster.shell(handle, 1)
    assert words[:2] == (str(FAKE), f"--kubeconfig={cluster.kubeconfig}")
    assert words[2:] == ("exec", "-it", f"{name_of(given)}-1", "-n", "default", "--")
    wait_until(lambda: cluster.poll(handle).phase == "ended", 30, "the job's end")
    assert os.access(FAKE, os.X_OK)
