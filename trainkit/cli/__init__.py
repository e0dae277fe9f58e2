"""The command line: `trainkit submit | runs | show | logs | ...`, one small file for each group of commands.

app.py finds and runs commands, output.py prints, find.py turns what was typed into workspaces and runs.
"""

from __future__ import annotations


def main() -> None:
    """Run the command line and exit with its code (docs/reference/exit-codes.md)."""
    from trainkit.cli.app import run

    run()
