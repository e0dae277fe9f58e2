"""trainkit doctor: what this machine, or the nodes of a compute target, can run."""

from __future__ import annotations

from typing import Any

import click

from trainkit.cli import codes, output


@click.command()
@click.option("-t", "--target", metavar="NAME", help="Look at the nodes of this compute target instead, all at once.")
@click.option("--nodes", type=click.IntRange(2), help="With --target: how many.  [default: max_nodes or hosts, or 2]")
@click.option("--wait-seconds", type=click.FloatRange(min=1), default=120.0, show_default=True,
              help="With --target: for the nodes to start.")  # fmt: skip
@output.json_option
def doctor(target: str | None, nodes: int | None, wait_seconds: float, as_json: bool) -> int:
    """Check that jobs can run here: Python, PyTorch, MPI, launchers, disk, memory, the workspace and its runs.

    Ends with 1 where something keeps jobs from running. Takes some seconds: PyTorch and mpirun are started.

    With --target, its nodes compare notes as before every job on several machines: packages, code, clocks, shared
    folders, room, limits, links between them, the health of GPUs. No run is submitted. Ends with 5 where something
    keeps jobs from running there.

    \b
    Examples:
      trainkit doctor
      trainkit doctor --target cluster --nodes 4
    """
    if target is not None:
        from trainkit.cli import find
        from trainkit.cli.nodes import examine

        found = examine(find.workspace(), target, nodes, wait_seconds)
        output.emit(found.to_json(), as_json, found.text())
        return codes.OUTSIDE if found.problems else codes.DONE
    return _here(as_json)


def _here(as_json: bool) -> int:
    """All checks of this machine, each printed as it ends."""
    from trainkit.cli.checks import checks

    found: list[dict[str, Any]] = []
    for check in checks():
        found.append({"check": check.name, "state": check.state, "found": check.words, "remedy": check.remedy})
        if not as_json:
            mark = {"ok": "ok  ", "warn": "warn", "bad": "BAD "}[check.state]
            click.echo(f"{mark}  {check.name:<14} {check.words}")
            if check.remedy:
                click.echo(f"{'':22}{check.remedy}")
    healthy = all(check["state"] != "bad" for check in found)
    if as_json:
        output.print_json({"healthy": healthy, "checks": found})
    return codes.DONE if healthy else codes.FAILED
