"""`make test-kubernetes`: the launcher `kubernetes` on a real API server, scheduler and kubelet; one-node jobs.

Run by hand, for it builds Kubernetes first (scripts/kubernetes-build): `python tests/engines/on_demand_kubernetes.py`.
Writes benchmarks/results/kubernetes.json: commit, counts, failures, and a digest of the sources that it covers.
"""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent.parent
sys.path.insert(0, str(ROOT))

from tests.engines.kubernetes_cluster import Cluster  # noqa: E402
from tests.engines.testbed import Testbed, missing  # noqa: E402

RESULT = ROOT / "benchmarks" / "results" / "kubernetes.json"
COVERED = (
    "launchers/kubernetes.py",
    "launchers/manifests.py",
    "launchers/podstates.py",
    "launchers/seldom.py",
    "scripts/kubernetes-build",
    "tests/engines/kubernetes_cluster.py",
    "tests/engines/kubernetes_laws.py",
)
LAWS = ROOT / "tests" / "engines" / "kubernetes_laws.py"


def digest() -> str:
    """Of the sources that the result is about: it is stale where this has changed."""
    return hashlib.sha256(b"\0".join((ROOT / name).read_bytes() for name in COVERED)).hexdigest()[:16]


def counted(report: Path) -> dict[str, Any]:
    """Tests, and the names of those that failed, of pytest's XML."""
    cases = list(ElementTree.parse(report).getroot().iter("testcase"))
    failed = [
        str(case.get("name")) for case in cases if case.find("failure") is not None or case.find("error") is not None
    ]
    return {"tests": len(cases), "failures": failed}


def run(built: Path) -> dict[str, Any]:
    """Start the cluster, run the laws beside it, leave nothing."""
    with Testbed(nodes=1) as bed:
        begun = time.monotonic()
        cluster = Cluster(bed, built)
        ready = time.monotonic() - begun
        folder = bed.shared / "tests"
        folder.mkdir()
        report = bed.shared / "report.xml"
        words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", f"--basetemp={folder}/pytest", f"--junitxml={report}"]
        done = bed.run(
            "ctl", [sys.executable, *words, str(LAWS)], cwd=ROOT, timeout=900,
            env={"KUBECONFIG_OF_THE_TEST": str(cluster.kubeconfig), "FOLDER_OF_THE_TEST": str(folder)},
        )  # fmt: skip
        print(done.stdout[-8000:], done.stderr[-2000:])
        result = {"ready_seconds": round(ready, 1), "seconds": round(time.monotonic() - begun), **counted(report)}
    cluster.forget()
    return result


def main() -> int:
    """Build, run, write the result; 1 where a test failed."""
    if missing():
        sys.exit(missing())
    built = subprocess.run([str(ROOT / "scripts" / "kubernetes-build")], stdout=subprocess.PIPE, text=True, check=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], stdout=subprocess.PIPE, text=True, cwd=ROOT).stdout
    result = run(Path(built.stdout.splitlines()[-1]))
    found = {"commit": commit.strip(), "server": "1.20.2", "digest": digest(), "covers": list(COVERED), **result}
    RESULT.write_text(json.dumps(found, indent=2) + "\n")
    print(json.dumps(found))
    return 1 if result["failures"] or not result["tests"] else 0


if __name__ == "__main__":
    sys.exit(main())
