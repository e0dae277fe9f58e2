"""Who may use a compute target's nodes: tickets, first come, first served.

A ticket says that a run wants nodes of a target; it is granted once all tickets before it are and enough nodes are
free. Tickets are neither held by a process nor timed: one ends when it is released, or when somebody looks and its run
has ended. So no kill and no reboot loses a place in the queue, and none blocks it.

All tickets of a target are one file, replaced in one step while the target's flock is held; the kernel frees that when
its holder dies, and whoever comes next finds the file as it was before or after the step.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from trainkit.boot.rundir import RunDir, encode, make_private, read_json, replace
from trainkit.errors import UserErrorException, WorkspaceException


@dataclass(frozen=True)
class Ticket:
    """One run's place; `sequence` is unique in its target and grows with the time of the request."""

    run_id: str
    run_dir: str
    nodes: int
    granted: bool
    sequence: int


class Slots:
    """The tickets of the target whose files are in `directory`; `max_nodes` is None where there is no limit.

    A limit set later with `set_limit` counts instead, for everybody.
    """

    def __init__(self, directory: Path, max_nodes: int | None) -> None:
        self.directory = Path(directory)
        self.name = self.directory.name
        self._max_nodes = max_nodes
        self._file = self.directory / "tickets.json"
        self._limit_file = self.directory / "limit.json"

    @property
    def max_nodes(self) -> int | None:
        """The limit that is in force."""
        limit = read_json(self._limit_file, "max_nodes")
        return int(limit["max_nodes"]) if limit else self._max_nodes

    def request(self, run_id: str, run_dir: Path | str, nodes: int) -> Ticket:
        """A ticket for a run whose directory exists; the one it has where it asked before.

        Raises UserErrorException for more nodes than the target has.
        """
        with self._held() as (number, tickets):
            for ticket in tickets:
                if ticket.run_id == run_id:
                    return ticket
            limit = self.max_nodes
            if nodes < 1 or (limit is not None and nodes > limit):
                raise UserErrorException(
                    f"{nodes} nodes are asked of {self.name}, which has {limit}: ask for 1 to {limit}, or raise the "
                    f"limit with compute_target.update(max_nodes={nodes})."
                    if limit is not None
                    else f"{nodes} nodes are asked of {self.name}: ask for at least 1."
                )
            new = Ticket(run_id, os.fspath(run_dir), nodes, False, number)
            self._write(number + 1, [*tickets, new])
            return new

    def acquire(self, run_id: str) -> str:
        """Empty once the run's ticket is granted; until then a sentence: what it waits for. Ask again, at leisure."""
        with self._held() as (number, tickets):
            place = next((i for i, ticket in enumerate(tickets) if ticket.run_id == run_id), None)
            if place is None:
                raise UserErrorException(
                    f"The run {run_id} has no ticket for {self.name}; it has ended, or never asked."
                )
            mine = tickets[place]
            if mine.granted:
                return ""
            limit = self.max_nodes
            used = sum(ticket.nodes for ticket in tickets if ticket.granted)
            before = [ticket for ticket in tickets[:place] if not ticket.granted]
            if limit is None or (not before and used + mine.nodes <= limit):
                tickets[place] = Ticket(mine.run_id, mine.run_dir, mine.nodes, True, mine.sequence)
                self._write(number, tickets)
                return ""
            return self._reason(mine, limit, used, before, [t for t in tickets if t.granted])

    def release(self, run_id: str) -> None:
        """Give the run's nodes, or its place in the queue, back; without effect where it has none."""
        with self._held() as (number, tickets):
            kept = [ticket for ticket in tickets if ticket.run_id != run_id]
            if len(kept) != len(tickets):
                self._write(number, kept)

    def tickets(self) -> list[Ticket]:
        """All tickets of runs that have not ended, in the order of their requests."""
        return [ticket for ticket in self._read()[1] if not _ended(ticket)]

    def foreseen(self, nodes: int) -> str:
        """What a run that asked now for so many nodes would wait for; empty where there is room. Writes nothing."""
        tickets, limit = self.tickets(), self.max_nodes
        used = sum(ticket.nodes for ticket in tickets if ticket.granted)
        before = [ticket for ticket in tickets if not ticket.granted]
        if limit is None or (not before and used + nodes <= limit):
            return ""
        mine = Ticket("", "", nodes, False, 0)
        return self._reason(mine, limit, used, before, [ticket for ticket in tickets if ticket.granted])

    def set_limit(self, max_nodes: int) -> None:
        """Set the limit for everybody. Raises UserErrorException where a ticket asks for more nodes."""
        with self._held() as (_, tickets):
            for ticket in tickets:
                if ticket.nodes > max_nodes:
                    raise UserErrorException(
                        f"{self.name} cannot be limited to {max_nodes} nodes: the run {ticket.run_id}, which has not "
                        f"ended, asked for {ticket.nodes}. Cancel it first, or wait for it."
                    )
            replace(self._limit_file, {"max_nodes": max_nodes})

    def close(self) -> None:
        """Forget the limit: the target is deleted. Raises UserErrorException where runs hold or await its nodes."""
        with self._held() as (_, tickets):
            if tickets:
                raise UserErrorException(
                    f"{self.name} has runs that have not ended: {', '.join(t.run_id for t in tickets)}. Cancel them "
                    f"first, or wait for them."
                )
            self._limit_file.unlink(missing_ok=True)

    def _reason(self, mine: Ticket, limit: int, used: int, before: list[Ticket], running: list[Ticket]) -> str:
        """Why a ticket is not granted yet."""
        words = f"waits for {mine.nodes} of {limit} node{'s' if limit != 1 else ''} of {self.name}; "
        if before:
            return words + f"{len(before)} run{'s are' if len(before) > 1 else ' is'} before it"
        names = ", ".join(ticket.run_id for ticket in running[:3]) + (", ..." if len(running) > 3 else "")
        return words + f"{used} {'are' if used != 1 else 'is'} in use by {names}"

    @contextmanager
    def _held(self) -> Iterator[tuple[int, list[Ticket]]]:
        """The next number and the tickets of runs that have not ended, while nobody else may change them."""
        make_private(self.directory)
        fd = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            number, tickets = self._read()
            alive = [ticket for ticket in tickets if not _ended(ticket)]
            if len(alive) != len(tickets):
                self._write(number, alive)
            yield number, alive
        finally:
            os.close(fd)

    def _read(self) -> tuple[int, list[Ticket]]:
        try:
            found: dict[str, Any] | None = read_json(self._file)
            if found is None:
                return 1, []
            return int(found["next"]), [Ticket(**values) for values in found["tickets"]]
        except (ValueError, KeyError, TypeError, WorkspaceException) as error:
            raise WorkspaceException(
                f"{self._file} is damaged ({error.__cause__ or error}). Delete it once no run of {self.name} is alive; "
                f"runs that wait ask again by themselves."
            ) from error

    def _write(self, number: int, tickets: list[Ticket]) -> None:
        """Replace the file; its temporary name is always the same, so that one a killed writer left is written over."""
        temporary = self.directory / "tickets.new"
        with open(temporary, "wb", opener=_private) as file:
            file.write(encode({"next": number, "tickets": [asdict(ticket) for ticket in tickets]}))
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, self._file)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _ended(ticket: Ticket) -> bool:
    """Whether the ticket's run has a final state, or was deleted."""
    run = RunDir(ticket.run_dir)
    if run.state.exists():
        return True
    try:
        os.stat(run.path)
    except FileNotFoundError:
        return True
    return False
