"""Runs below a run: made by it, or submitted as its children."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from trainkit.boot import newrun
from trainkit.boot.newrun import find_run, is_run_id
from trainkit.boot.rundir import RunDir, publish
from trainkit.errors import UserErrorException

if TYPE_CHECKING:
    from trainkit.recorded import RecordedRun
    from trainkit.run import Run


def record(parent: RunDir, child_id: str) -> None:
    """Note a child with its parent."""
    publish(parent.children / child_id, {"id": child_id, "time": time.time()})


def start(parent: Run, name: str | None = None, run_id: str | None = None, outputs: str | None = None) -> Run:
    """A new interactive child; with the id of an existing child, that one."""
    from trainkit.experiment import start_interactive
    from trainkit.run import Run

    if run_id is not None:
        if not is_run_id(run_id):
            raise UserErrorException(
                f"{run_id!r} cannot be a run's id: letters, digits, '-', '_' and '.', the first a letter or a digit."
            )
        if (parent._dir.children / run_id).exists():
            return Run.get(parent.workspace, run_id)
    child = start_interactive(parent.experiment, parent=parent.id, name=name, run_id=run_id, outputs=outputs)
    record(parent._dir, child.id)
    return child


def start_several(
    parent: Run, count: int | None = None, tag_key: str | None = None, tag_values: Sequence[Any] | None = None
) -> list[Run]:
    """Children by number, or one for each value of a tag."""
    if (tag_key is None) != (tag_values is None) or (count is None and tag_values is None):
        raise UserErrorException("create_children needs a count, or tag_key with tag_values.")
    values = list(tag_values or [])
    if count is not None and (isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= 10000):
        raise UserErrorException(f"create_children(count={count!r}): give a number from 1 to 10,000.")
    if count is not None and tag_values is not None and count != len(values):
        raise UserErrorException(f"create_children(count={count}) contradicts {len(values)} tag_values; give one.")
    made = [start(parent) for _ in range(count or len(values))]
    for child, value in zip(made, values, strict=False):
        child.tag(str(tag_key), value)
    return made


def below(
    parent: RecordedRun,
    recursive: bool = False,
    tags: Any = None,
    properties: Any = None,
    type: str | None = None,
    status: str | None = None,
) -> Iterator[Run]:
    """The children that fit, newest first; with `recursive` each followed by its own."""
    from trainkit.experiment import lists
    from trainkit.run import Run

    root = parent._root
    paths = [find_run(root, entry.name) for entry in parent._dir.children.glob("*") if entry.name[0] != "."]
    found = [(newrun.listed(path), path) for path in paths if path is not None]
    for fact, path in sorted(found, key=lambda one: (one[0]["created"], one[0]["number"]), reverse=True):
        child = Run._at(path)
        if lists(child, fact, type, tags, properties) and status in (None, child.status):
            yield child
        if recursive:
            yield from below(child, True, tags, properties, type, status)
