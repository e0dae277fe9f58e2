"""The metrics that a run records: values, lists, rows, tables, images, and the matrices of classifiers."""

from __future__ import annotations

import json
import time
from typing import Any, Callable, Dict, Mapping, Optional, Sequence

from trainkit.boot import images, values
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import RunDir
from trainkit.boot.writer import EventWriter
from trainkit.errors import UserErrorException

SCHEMAS = ("confusion_matrix", "accuracy_table", "residuals", "predictions")


class MetricLog:
    """The part of a run that records metrics: each call appends one line to its writer's events."""

    _dir: RunDir
    _attempt: int
    _rank: Rank
    _append: Callable[[Dict[str, Any]], None]
    _writer: str
    _events: EventWriter

    def log(self, name: str, value: Any, description: str = "", step: Optional[int] = None) -> None:
        """Record one value of a metric: a number, text or truth value, also of numpy, or a tensor with one element.

        Several values under one name make a list. Raises UserErrorException for what is not one value.
        """
        if type(value) is not float:
            value = values.scalar(name, value)
        if type(name) is not str or not name:
            name = values.check_metric_name(name)
        event = {"t": time.time(), "a": self._attempt, "k": "metric", "n": name, "v": value}
        if step is not None:
            event["s"] = values.step_number(name, step)
        if description:
            event["d"] = str(description)
        self._append(event)

    def _event(self, kind: str, name: str, value: Any, description: Optional[str] = "") -> None:
        event = {"t": time.time(), "a": self._attempt, "k": kind, "n": name, "v": value}
        if description:
            event["d"] = str(description)
        self._append(event)

    def mark(self) -> Dict[str, int]:
        """Where this process's record stands: what a checkpoint keeps, for `rewind`."""
        return {self._writer: self._events.position()}

    def rewind(self, marks: Mapping[str, int], void: str = "both") -> None:
        """Void what was recorded after the marks, because it is going to be done again: metrics of earlier attempts
        and, in this attempt, those recorded so far. Tags, properties and files stay.

        `marks` are those of `mark`: by rank 0 of any ranks, by another rank its own. With `void` "earlier" this
        attempt's metrics stay (nothing that it repeats was kept), with "own" those of earlier attempts do.
        """
        if void not in ("both", "earlier", "own"):
            raise UserErrorException("rewind: void is 'both', 'earlier' or 'own', not %r." % (void,))
        if not isinstance(marks, Mapping) or not all(
            isinstance(name, str) and type(place) is int and place >= 0 for name, place in marks.items()
        ):
            raise UserErrorException("rewind takes the marks that `mark` returned; this was given: %r." % (marks,))
        if self._writer != "rank-0" and set(marks) - {self._writer}:
            raise UserErrorException(
                "%s can rewind its own record, not that of %s: let rank 0 do it."
                % (self._writer, ", ".join(sorted(set(marks) - {self._writer})))
            )
        self._event("rewind", void, dict(marks))

    def log_list(self, name: str, value: Sequence[Any], description: str = "") -> None:
        """Record several values of a metric at once; read back, they are a list, also where they are one."""
        name = values.check_metric_name(name)
        self._event("list", name, values.values(name, value), description)

    def log_row(self, name: str, description: Optional[str] = None, **kwargs: Any) -> None:
        """Record one row of a table whose columns are the keyword arguments."""
        name = values.check_metric_name(name)
        if not kwargs:
            raise UserErrorException("log_row(%r) has no columns: give them as keyword arguments, as in x=1." % name)
        row = {key: values.cell("%s[%r]" % (name, key), value) for key, value in kwargs.items()}
        self._event("row", name, row, description)

    def log_table(self, name: str, value: Mapping[str, Any], description: str = "") -> None:
        """Record a table, given as a dict of columns: lists of one length, or single values."""
        name = values.check_metric_name(name)
        self._event("table", name, values.columns(name, value), description)

    def log_image(self, name: str, path: Any = None, plot: Any = None, description: str = "") -> None:
        """Record an image: a file (`path`), or a figure (`plot=plt`) or Pillow image. It reads back as a file name."""
        name = values.check_metric_name(name)
        stored = images.store(self._dir, name, path, plot, self._rank.rank)
        self._event("image", name, stored, description)

    def log_confusion_matrix(self, name: str, value: Any, description: str = "") -> None:
        """Record a confusion matrix: a dict, or its JSON, with schema_type, schema_version and data."""
        self._log_schema("confusion_matrix", name, value, description)

    def log_accuracy_table(self, name: str, value: Any, description: str = "") -> None:
        """Record an accuracy table: a dict, or its JSON, with schema_type, schema_version and data."""
        self._log_schema("accuracy_table", name, value, description)

    def log_residuals(self, name: str, value: Any, description: str = "") -> None:
        """Record the residuals of a regression: a dict, or its JSON, with schema_type, schema_version and data."""
        self._log_schema("residuals", name, value, description)

    def log_predictions(self, name: str, value: Any, description: str = "") -> None:
        """Record the predictions of a regression: a dict, or its JSON, with schema_type, schema_version and data."""
        self._log_schema("predictions", name, value, description)

    def _log_schema(self, kind: str, name: str, value: Any, description: str) -> None:
        name = values.check_metric_name(name)
        try:
            found = json.loads(value) if isinstance(value, (str, bytes)) else value
            plain = json.loads(json.dumps(found))
        except (TypeError, ValueError) as error:
            raise UserErrorException(
                "The %s %r cannot be logged: it is not JSON (%s)." % (kind, name, error)
            ) from error
        if not isinstance(plain, dict) or not isinstance(plain.get("data"), dict):
            raise UserErrorException(
                "The %s %r cannot be logged: it must be a dict with the keys 'schema_type', 'schema_version' and "
                "'data', the last a dict." % (kind, name)
            )
        other = plain.get("schema_type", kind)
        if other != kind:
            raise UserErrorException(
                "The %s %r cannot be logged: its schema_type is %r; log it with log_%s." % (kind, name, other, other)
                if other in SCHEMAS
                else "The %s %r cannot be logged: its schema_type is %r, not %r." % (kind, name, other, kind)
            )
        self._event(kind, name, plain, description)
