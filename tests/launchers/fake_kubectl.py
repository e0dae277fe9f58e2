#!/usr/bin/env python3
"""A stand-in for kubectl and the cluster behind it: pods are processes of this machine, as their manifests say.

It knows the commands that trainkit uses, and does with a Job's command, args, environment and index what a kubelet
does. --kubeconfig names the folder that it keeps everything in; a file `version` there says which API server it is, a
file `refusal` what it answers to everything.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

_KUBELET = """
import os, signal, subprocess, sys
asked = []
signal.signal(signal.SIGTERM, lambda *_: asked.append(process.terminate() if process else None))
process = None
process = subprocess.Popen(sys.argv[3:], cwd=sys.argv[2], stderr=subprocess.PIPE, stdout=subprocess.DEVNULL)
if asked:
    process.terminate()
message = process.stderr.read().decode()
with open(sys.argv[1] + ".new", "w") as file:
    file.write("%d\\n%s" % (process.wait(), message))
os.rename(sys.argv[1] + ".new", sys.argv[1])
"""


def expanded(word: str, environment: dict[str, str]) -> str:
    """$(NAME) and $$ in a manifest's args, as Kubernetes reads them."""

    def one(match: re.Match[str]) -> str:
        return "$" if match[0] == "$$" else environment.get(match[1], match[0])

    return re.sub(r"\$\$|\$\(([^)]*)\)", one, word)


def create(folder: Path, given: dict[str, Any], namespace: str) -> dict[str, Any]:
    name = given["metadata"]["name"]
    file = folder / f"{given['kind'].lower()}-{name}.json"
    if file.exists():
        sys.exit(f'Error from server (AlreadyExists): "{name}" already exists')
    given["metadata"].update(namespace=namespace, uid=f"uid-of-{name}")
    file.write_text(json.dumps(given))
    if given["kind"] == "Job":
        for index in range(1 if (folder / "hold").exists() else given["spec"]["completions"]):
            start(folder / f"pod-{name}-{index}", given["spec"], index)
    return given


def start(pod: Path, spec: dict[str, Any], index: int) -> None:
    container = spec["template"]["spec"]["containers"][0]
    own = {"JOB_COMPLETION_INDEX": str(index)} if spec.get("completionMode") == "Indexed" else {}
    words = [expanded(word, own) for word in container["command"] + container["args"]]
    process = subprocess.Popen(
        [sys.executable, "-c", _KUBELET, f"{pod}.end", container["workingDir"], *words],
        env={**os.environ, **own}, start_new_session=True,
        stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    Path(f"{pod}.pid").write_text(str(process.pid))


def held(folder: Path, name: str) -> list[dict[str, Any]]:
    """Pods that have not been started: those beyond the first, as long as there is a file `hold`."""
    spec = json.loads((folder / f"job-{name}.json").read_text())["spec"]
    late = [n for n in range(spec["completions"]) if not (folder / f"pod-{name}-{n}.pid").exists()]
    if not (folder / "hold").exists():
        for index in late:
            start(folder / f"pod-{name}-{index}", spec, index)
        return []
    return [pod(f"{name}-{n}", str(n), {"waiting": {"reason": "ImagePullBackOff"}}) for n in late]


def pod(name: str, index: str, state: dict[str, Any]) -> dict[str, Any]:
    metadata = {"name": name, "annotations": {"batch.kubernetes.io/job-completion-index": index}}
    return {"kind": "Pod", "metadata": metadata, "status": {"containerStatuses": [{"state": state}]}}


def pods(folder: Path, name: str) -> list[dict[str, Any]]:
    """Pods that have been started."""
    found = []
    for file in sorted(folder.glob(f"pod-{name}-*.pid")):
        end, index = file.with_suffix(".end"), file.stem.rpartition("-")[2]
        state: dict[str, Any] = {"running": {}}
        if end.exists():
            code, _, message = end.read_text().partition("\n")
            state = {"terminated": {"exitCode": int(code), "reason": "Completed" if code == "0" else "Error",
                                    "message": message}}  # fmt: skip
        found.append(pod(file.stem[4:], index, state))
    return found


def get(folder: Path, name: str, kinds: str) -> dict[str, Any]:
    items = pods(folder, name)
    job = folder / f"job-{name}.json"
    ended = [pod for pod in items if "terminated" in pod["status"]["containerStatuses"][0]["state"]]
    if (folder / f"deleted-{name}").exists() and len(ended) == len(items):
        return {"items": []}
    if job.exists() and not (folder / f"deleted-{name}").exists():
        items += held(folder, name)
    if job.exists() and "job" in kinds:
        codes = [pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"] for pod in ended]
        conditions = [{"type": "Failed", "status": "True"}] if any(codes) else []
        conditions += [{"type": "Complete", "status": "True"}] if codes == [0] * len(items) else []
        items = [{**json.loads(job.read_text()), "status": {"conditions": conditions}}, *items]
    return {"items": items}


def delete(folder: Path, name: str) -> None:
    (folder / f"deleted-{name}").touch()
    for file in folder.glob(f"pod-{name}-*.pid"):
        if not file.with_suffix(".end").exists():
            os.kill(int(file.read_text()), signal.SIGTERM)


def main(argv: list[str]) -> None:
    options = {word.partition("=")[0]: word.partition("=")[2] for word in argv if word.startswith("--")}
    words = [word for word in argv if not word.startswith("--")]
    folder = Path(options["--kubeconfig"])
    if (folder / "refusal").exists():
        sys.exit((folder / "refusal").read_text())
    if words[0] == "version":
        print((folder / "version").read_text())
    elif words[0] == "create":
        print(json.dumps(create(folder, json.load(sys.stdin), options.get("--namespace", "default"))))
    elif words[0] == "get":
        print(json.dumps(get(folder, words[words.index("-l") + 1].partition("=")[2], words[1])))
    elif words[0] == "delete":
        delete(folder, words[2])
    else:
        sys.exit(f"this stand-in has no {words[0]}")


if __name__ == "__main__":
    main(sys.argv[1:])
