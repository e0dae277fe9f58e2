"""A real Kubernetes 1.20 on one node of a testbed: etcd, API server, controllers, scheduler, kubelet and dockerd.

All of it ends with the node. Built by scripts/kubernetes-build; pods use the node's own network and programs.
"""

from __future__ import annotations

import io
import json
import os
import subprocess
import tarfile
import time
from collections.abc import Callable
from pathlib import Path

from tests.engines.testbed import Testbed

TOKEN = "token-of-the-testbed"
# This machine's root may lack the right to lower oom_score_adj and to raise limits, which kubelet asks for.
RUNC = """#!/bin/bash
previous=
for word in "$@"; do
    if [ "$previous" = --bundle ] && [ -f "$word/config.json" ]; then
        jq 'del(.process.oomScoreAdj)|del(.process.rlimits)' "$word/config.json" >"$word/config.new"
        cat "$word/config.new" >"$word/config.json"
    fi
    previous=$word
done
exec /usr/sbin/runc "$@"
"""
CONTROLLERS = "*,-nodeipam,-route,-service,-cloud-node-lifecycle"


def image(*, binary: Path | None = None) -> bytes:
    """A tar of an image's files: one program, or only the folders that a machine's own are mounted over."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        if binary is not None:
            tar.add(binary, "pause")
        for name in ("usr", "etc", "tmp", "proc", "sys", "dev", "var"):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, 0o1777 if name == "tmp" else 0o755
            tar.addfile(folder)
        for name in ("bin", "sbin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            tar.addfile(link)
    return made.getvalue()


class Cluster:
    """Kubernetes on node1; `kubeconfig` reaches it from ctl."""

    def __init__(self, bed: Testbed, built: Path) -> None:
        self.bed, self.bin, self.address = bed, built / "bin", bed.address("node1")
        self.folder = bed.shared / "kubernetes"
        self.folder.mkdir()
        self.kubeconfig = self.folder / "kubeconfig"
        for path in ("/var/lib", "/var/log"):  # a kubelet writes there whatever it is told: the machine's are spared
            bed.hide("node1", path)
        self._write()
        self._docker()
        self._control()
        self._kubelet()

    def _write(self) -> None:
        cluster = {"server": f"https://{self.address}:26443", "insecure-skip-tls-verify": True}
        config = {
            "apiVersion": "v1", "kind": "Config", "current-context": "c",
            "clusters": [{"name": "c", "cluster": cluster}], "users": [{"name": "u", "user": {"token": TOKEN}}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        }  # fmt: skip
        self.kubeconfig.write_text(json.dumps(config))
        (self.folder / "tokens.csv").write_text(f'{TOKEN},admin,1,"system:masters"\n')
        (self.folder / "resolv.conf").write_text("")
        (self.folder / "runc").write_text(RUNC)
        (self.folder / "runc").chmod(0o755)
        subprocess.run(
            ["openssl", "genrsa", "-out", str(self.folder / "sa.key"), "2048"], check=True, capture_output=True
        )

    def _start(self, *argv: str) -> None:
        name = Path(argv[0]).name
        with open(self.folder / f"{name}.log", "wb") as log:
            self.bed.start("node1", argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/")

    def _until(self, ready: Callable[[], bool], what: str, seconds: float = 90.0) -> None:
        deadline = time.monotonic() + seconds
        while not ready():
            assert time.monotonic() < deadline, f"{what} is not ready; see {self.folder}"
            time.sleep(0.2)

    def _docker(self) -> None:
        socket = f"unix://{self.folder}/docker.sock"
        self._start(
            "/usr/sbin/dockerd", "--data-root", f"{self.folder}/docker", "--exec-root", "/run/docker", "-H", socket,
            "--pidfile", "/run/docker.pid", "--iptables=false", "--ip6tables=false", "--bridge=none",
            f"--cgroup-parent=/{self.bed.folder.name}", "--add-runtime", f"limited={self.folder}/runc",
            "--default-runtime", "limited",
        )  # fmt: skip
        docker = ["/usr/bin/docker", "-H", socket]
        self._until(lambda: self.bed.run("node1", [*docker, "version"], cwd="/").returncode == 0, "dockerd")
        for name, content, more in (
            ("programs:here", image(), []),
            ("pause:here", image(binary=self.bin / "pause"), ["--change", 'CMD ["/pause"]']),
        ):
            file = self.folder / "image.tar"
            file.write_bytes(content)
            self.bed.run("node1", [*docker, "import", *more, str(file), name], cwd="/", check=True)
        self.socket = socket

    def _control(self) -> None:
        folder, etcd = self.folder, "http://127.0.0.1:23790"
        self._start(
            "/usr/bin/etcd", "--data-dir", f"{folder}/etcd", "--listen-client-urls", etcd,
            "--advertise-client-urls", etcd,
            "--listen-peer-urls", "http://127.0.0.1:23800", "--initial-advertise-peer-urls", "http://127.0.0.1:23800",
            "--initial-cluster", "default=http://127.0.0.1:23800",
        )  # fmt: skip
        self._start(
            str(self.bin / "kube-apiserver"), f"--etcd-servers={etcd}", "--bind-address=0.0.0.0",
            f"--advertise-address={self.address}", "--secure-port=26443", f"--cert-dir={folder}/certs",
            f"--service-account-key-file={folder}/sa.key", f"--service-account-signing-key-file={folder}/sa.key",
            "--service-account-issuer=https://kubernetes.default.svc", f"--token-auth-file={folder}/tokens.csv",
            "--authorization-mode=RBAC", "--service-cluster-ip-range=10.96.0.0/16", "--allow-privileged",
            "--disable-admission-plugins=ServiceAccount", "--endpoint-reconciler-type=none",
            "--kubelet-preferred-address-types=InternalIP",
        )  # fmt: skip
        self._until(lambda: self._kubectl("get", "--raw", "/readyz").stdout == "ok", "the API server")
        own = [f"--kubeconfig={self.kubeconfig}", "--leader-elect=false", "--port=0"]
        self._start(
            str(self.bin / "kube-controller-manager"), *own, f"--service-account-private-key-file={folder}/sa.key",
            f"--controllers={CONTROLLERS}", "--secure-port=26444", "--bind-address=127.0.0.1",
            f"--cert-dir={folder}/certs-m", "--flex-volume-plugin-dir=/run/kubelet-plugins",
        )  # fmt: skip
        self._start(
            str(self.bin / "kube-scheduler"), *own, "--secure-port=26445", "--bind-address=127.0.0.1",
            f"--cert-dir={folder}/certs-s",
        )  # fmt: skip

    def _kubelet(self) -> None:
        folder = self.folder
        # This kubelet forgets a pod's deletion that comes while it starts the pod, until it looks at all pods again.
        self._start(
            str(self.bin / "kubelet"), "--sync-frequency=5s", f"--kubeconfig={self.kubeconfig}",
            "--container-runtime=docker", f"--docker-endpoint={self.socket}",
            "--pod-infra-container-image=pause:here", "--cgroup-driver=cgroupfs", "--cgroups-per-qos=false",
            "--enforce-node-allocatable=", "--hostname-override=node1",
            f"--node-ip={self.address}", "--root-dir=/run/kubelet", "--cert-dir=/run/kubelet-pki",
            "--volume-plugin-dir=/run/kubelet-plugins", "--address=0.0.0.0",
            "--port=20250", "--read-only-port=0", "--healthz-port=0", "--authorization-mode=AlwaysAllow",
            "--anonymous-auth=true", f"--resolv-conf={folder}/resolv.conf", "--eviction-hard=",
            "--image-gc-high-threshold=100", "--fail-swap-on=false",
        )  # fmt: skip
        words = ("get", "node", "node1", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}")
        self._until(lambda: self._kubectl(*words).stdout == "True", "the node")

    def forget(self) -> None:
        """Remove the empty control groups that the containers leave, once the testbed is down."""
        for top in Path("/sys/fs/cgroup").glob(f"*/{self.bed.folder.name}"):
            for folder, _, _ in os.walk(top, topdown=False):
                os.rmdir(folder)

    def _kubectl(self, *words: str) -> subprocess.CompletedProcess[str]:
        return self.bed.run("ctl", ["kubectl", f"--kubeconfig={self.kubeconfig}", *words], timeout=30)
