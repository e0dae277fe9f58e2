"""trainkit launchers, doctor: what this machine can run."""

from __future__ import annotations

from typing import Any

import click

from trainkit.cli import codes, output


@click.command()
@output.json_option
def launchers(as_json: bool) -> None:
    """List the launchers (where jobs run) and spreads (how a node becomes ranks) that are installed."""
    from trainkit.boot import plugins

    rows = [
        {"kind": kind, "name": name, "distribution": owner, "object": point.value}
        for kind, group in (("launcher", plugins.LAUNCHERS), ("spread", plugins.SPREADS))
        for name, points in sorted(plugins.found(group).items())
        for owner, point in points
    ]
    header = ["kind", "name", "distribution", "object"]
    output.emit(rows, as_json, output.table([[row[key] for key in header] for row in rows], header))


@click.command()
@output.json_option
def doctor(as_json: bool) -> int:
    """Check that jobs can run here: Python, PyTorch, MPI, launchers, disk, memory, the workspace and its runs.

    Ends with 1 where something keeps jobs from running. Takes some seconds: PyTorch and mpirun are started.
    """
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
