"""`make test-kubernetes`: the launcher `kubernetes` on a real API server, scheduler and kubelet; one-node jobs.

Run by hand, for it builds Kubernetes first (scripts/kubernetes-build): python -m tests.engines.on_demand_kubernetes.
Writes benchmarks/results/kubernetes.json: commit, counts, failures, and a digest of the sources that it covers.
"""

from __future__ import annotations

import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

from tests.engines.kubernetes_cluster import Cluster
from tests.engines.ondemand import ROOT, Result, Row, complete
from tests.engines.testbed import Testbed, missing

LAWS = ROOT / "tests" / "engines" / "kubernetes_laws.py"


def rows_of(report: Path) -> list[Row]:
    """What became of each test, of pytest's XML."""
    rows = []
    for case in ElementTree.parse(report).getroot().iter("testcase"):
        kinds = {"failure": "failed", "error": "failed", "skipped": "skipped"}
        bad = next((child for child in case if child.tag in kinds), None)
        outcome, wrong = ("passed", "") if bad is None else (kinds[bad.tag], (bad.text or "")[-2000:])
        rows.append(Row(str(case.get("name")), outcome, round(float(case.get("time", 0)), 1), wrong))
    return rows


def run(built: Path) -> list[Row]:
    """Start the cluster, run the laws beside it, leave nothing."""
    with Testbed(nodes=1) as bed:
        cluster = Cluster(bed, built)
        folder = bed.shared / "tests"
        folder.mkdir()
        report = bed.shared / "report.xml"
        words = ["-m", "pytest", "-v", "-p", "no:cacheprovider", f"--basetemp={folder}/pytest", f"--junitxml={report}"]
        done = bed.run(
            "ctl", [sys.executable, *words, str(LAWS)], cwd=ROOT, timeout=900,
            env={"KUBECONFIG_OF_THE_TEST": str(cluster.kubeconfig), "FOLDER_OF_THE_TEST": str(folder)},
        )  # fmt: skip
        print(done.stdout[-8000:], done.stderr[-2000:])
        rows = complete(rows_of(report), done.returncode)
    cluster.forget()
    return rows


def main() -> int:
    """Build, run, write the result; 1 where a test failed."""
    if missing():
        sys.exit(missing())
    built = subprocess.run([str(ROOT / "scripts" / "kubernetes-build")], stdout=subprocess.PIPE, text=True, check=True)
    result = Result("kubernetes")
    rows = run(Path(built.stdout.splitlines()[-1]))
    return int(bool(result.write(rows, engines={"kubernetes": "1.20.2"})))


if __name__ == "__main__":
    sys.exit(main())
