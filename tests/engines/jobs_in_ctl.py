"""Starts, watches and ends jobs from inside a testbed's "ctl": each call a process of its own, values as JSON.

python -m tests.engines.jobs_in_ctl '{"act": "start", "launcher": "ssh", "options": {...}, "directory": ..., ...}'
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

from trainkit.boot.plugins import launcher as launcher_class
from trainkit.errors import TrainkitError
from trainkit.testing import launch, make_job


def start(values: dict[str, Any]) -> dict[str, Any]:
    """Start a job on a new run directory as a driver does; its handle, or the error's fields."""
    job, attempt = make_job(Path(values["directory"]), values["script"], **values.get("job", {}))
    try:
        return {"handle": launch(_launcher(values), job, attempt), "run_id": job.run_id}
    except TrainkitError as error:
        kept = {name: getattr(error, name, None) for name in ("message", "transient", "available")}
        return {**kept, "kind": type(error).__name__, "run_id": job.run_id}


def watch(values: dict[str, Any]) -> dict[str, Any]:
    """Look until the job is in one of `phases` or its words hold `words`; all words that were seen."""
    launcher, begun, seen = _launcher(values), time.monotonic(), []
    while True:
        status = launcher.poll(values["handle"])
        if not seen or seen[-1] != [status.phase, status.words]:
            seen.append([status.phase, status.words])
        passed = time.monotonic() - begun
        done = status.phase in values.get("phases", ()) or (values.get("words") or "\0") in status.words
        if done or passed > values["seconds"]:
            return {"phase": status.phase, "words": status.words, "seen": seen, "seconds": passed, "done": done}
        time.sleep(0.01)


def cancel(values: dict[str, Any]) -> dict[str, Any]:
    """Ask for the job's end."""
    _launcher(values).cancel(values["handle"])
    return {}


def _launcher(values: dict[str, Any]) -> Any:
    return launcher_class(values["launcher"])(**values["options"])


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    print(json.dumps({"start": start, "watch": watch, "cancel": cancel}[asked["act"]](asked)))
