"""`RunDetails(run).show()`: in place of a picture that changes, what there is to say about a run at this moment."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from trainkit.run import Run

_LINES = 10  # of the log
_WIDTH = 200  # of a line of it


class RunDetails:
    """A run's progress as text, in a notebook and in a terminal alike."""

    def __init__(self, run_instance: Run) -> None:
        self.run = run_instance

    def show(self, render_lib: object = None, widget_settings: object = None) -> None:
        """Print the run's status, its metrics, and the end of its log. Waits for nothing: call it again for more."""
        sys.stdout.write(self._text())
        sys.stdout.flush()

    def get_widget_data(self, widget_settings: object = None) -> dict[str, Any]:
        """The run's details, as plain values."""
        return self.run.get_details()

    def _text(self) -> str:
        from trainkit.boot.rundir import TERMINAL

        run = self.run
        standing = run.get_detailed_status()
        status, details = standing["status"], standing["details"]
        lines = [f"RunId: {run.id}", f"Web View: {run.get_portal_url()}", f"Status: {status}"]
        lines[2] += f" ({details})" if details else ""
        lines += [f"{name}: {_last(value)}" for name, value in run.get_metrics().items()]
        lines += self._log()
        if status not in TERMINAL:
            lines.append(f"Goes on: run.wait_for_completion(show_output=True), or `trainkit logs -f {run.id}`.")
        return "\n".join(lines) + "\n"

    def _log(self) -> list[str]:
        from trainkit import runfiles
        from trainkit.rundetails import log_text

        logs = runfiles.log_files(self.run._dir)
        name = runfiles.DRIVER_LOG if runfiles.DRIVER_LOG in logs else next(iter(logs), "")
        end = log_text(logs[name]).splitlines()[-_LINES:] if name else []
        return [f"The end of {name}:", *(f"    {line[:_WIDTH]}" for line in end)] if end else []


def _last(value: Any) -> str:
    """A metric in a few words: the last of several values."""
    if isinstance(value, list) and value:
        return f"{value[-1]} ({len(value)} values)"
    if isinstance(value, dict):
        return f"a {value['schema_type']}" if "schema_type" in value else f"a table of {', '.join(value)}"
    return str(value)
