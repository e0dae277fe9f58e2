"""Sums by MPI, through mpi4py.

A blocking Allreduce is the fastest that an MPI library has, and the only one that makes progress by itself. So one
thread makes the calls, in order, while others compute; whoever waits for a sum that has not begun makes them itself.
"""

from __future__ import annotations

import ctypes
import threading
from collections import deque
from collections.abc import Callable, Iterator
from queue import SimpleQueue
from typing import Any

import torch
from torch import Tensor

from trainkit.boot.contact import yield_while_waiting
from trainkit.errors import MissingPackage, RunEnvironmentException
from trainkit.loops.collectives.base import Collective, Done, Ranks, Work, as_bytes

_WIDE = (torch.bfloat16, torch.float16)  # MPI cannot sum these: they are summed in float32
_PIECE = 1 << 28  # elements in one call: MPI counts in 32 bits


_cuda: Any = torch.cuda  # its events and streams have no types


def _pieces(tensor: Tensor) -> Iterator[Tensor]:
    flat = tensor.view(-1)
    return (flat[first : first + _PIECE] for first in range(0, len(flat), _PIECE))


class _Call:
    """One call of MPI, made by the thread or by whoever waits for it."""

    def __init__(self, line: Mpi, act: Callable[[], None]) -> None:
        self._line, self._act = line, act
        self.done = False
        self.error: BaseException | None = None
        self.ready: Any = None  # on CUDA: the event after which the device has the sum

    def run(self) -> None:
        """Make the call; an error is kept for whoever waits."""
        try:
            self._act()
        except BaseException as error:
            self.error = error
        self.done = True

    def wait(self) -> None:
        """Return when the sum is there."""
        while not self.done:
            self._line.make_next()
        if self.error is not None:
            raise self.error
        if self.ready is not None:
            torch.cuda.current_stream().wait_event(self.ready)


class Mpi(Ranks):
    """All ranks of MPI's world, on a communicator and a thread of their own."""

    name = "mpi"

    def __init__(self, mpi: Any, rank: int) -> None:
        self._mpi = mpi
        self._comm = mpi.COMM_WORLD.Split(0, rank)
        self.rank, self.size = int(self._comm.Get_rank()), int(self._comm.Get_size())
        self._aware = takes_cuda(mpi)
        self._pinned: dict[tuple[torch.dtype, int], Tensor] = {}
        self._streams: dict[torch.device, Any] = {}
        self._calls: deque[_Call] = deque()
        self._turn = threading.Lock()
        self._wake: SimpleQueue[bool] = SimpleQueue()
        threading.Thread(target=self._serve, name="trainkit-mpi", daemon=True).start()

    def allreduce(self, flat: Tensor) -> Work:
        """Queue a sum for the thread."""
        if not flat.numel():
            return Done()
        if flat.is_cuda:
            return self._queue(self._sum_cuda(flat))
        return self._queue(_Call(self, lambda: self._sum(flat)))

    def broadcast(self, flat: Tensor) -> None:
        """Rank 0's bytes to all; waits."""
        host = as_bytes(flat).cpu()

        def act() -> None:
            for piece in _pieces(host):
                self._comm.Bcast([piece.numpy(), self._mpi.BYTE], 0)

        self._queue(_Call(self, act)).wait()
        if flat.is_cuda:
            as_bytes(flat).copy_(host)

    def apart(self) -> Collective:
        """Another communicator with another thread."""
        if self._mpi.Query_thread() < self._mpi.THREAD_MULTIPLE:
            raise RunEnvironmentException(
                "Statistics over all ranks are exchanged while gradients are, from two threads, and this MPI was "
                "started for one: leave mpi4py.rc.thread_level at 'multiple', or use backend='gloo'."
            )
        return Mpi(self._mpi, self.rank)

    def close(self) -> None:
        """End the thread; the communicator is left to MPI's own end, for freeing it would wait for the others."""
        self._wake.put(False)

    def make_next(self) -> None:
        """Make the next call, if one is waiting; one at a time, in order."""
        with self._turn:
            if self._calls:
                self._calls.popleft().run()

    def _queue(self, call: _Call) -> _Call:
        self._calls.append(call)
        self._wake.put(True)
        return call

    def _serve(self) -> None:
        while self._wake.get():
            self.make_next()

    def _sum(self, flat: Tensor) -> None:
        """The sum of a tensor in main memory."""
        wide = flat.float() if flat.dtype in _WIDE else flat.detach()
        for piece in _pieces(wide):
            self._comm.Allreduce(self._mpi.IN_PLACE, piece.numpy())
        if wide.dtype != flat.dtype:
            flat.copy_(wide)

    def _sum_cuda(self, flat: Tensor) -> _Call:
        """The sum of a tensor on a GPU: taken from there by the MPI library, or brought through pinned memory."""
        filled = _cuda.Event()
        filled.record(torch.cuda.current_stream(flat.device))
        stream = self._streams.get(flat.device) or _cuda.Stream(flat.device)
        self._streams[flat.device] = stream

        def act() -> None:
            ready = _cuda.Event()
            with _cuda.stream(stream):
                stream.wait_event(filled)
                wide = flat.float() if flat.dtype in _WIDE else flat.detach()
                if self._aware:
                    stream.synchronize()
                    for piece in _pieces(wide):
                        self._comm.Allreduce(self._mpi.IN_PLACE, piece)
                else:
                    self._by_host(wide, stream)
                if wide.dtype != flat.dtype:
                    flat.copy_(wide)
                ready.record(stream)
                flat.record_stream(stream)
            call.ready = ready

        call = _Call(self, act)
        return call

    def _by_host(self, wide: Tensor, stream: Any) -> None:
        """Through pinned memory, which the next sum of this size uses again: calls are made one at a time."""
        key = (wide.dtype, wide.numel())
        if key not in self._pinned:
            self._pinned[key] = torch.empty(wide.numel(), dtype=wide.dtype, pin_memory=True)
        host = self._pinned[key]
        host.copy_(wide.view(-1), non_blocking=True)
        stream.synchronize()
        self._sum(host)
        wide.view(-1).copy_(host, non_blocking=True)
        stream.synchronize()


def takes_cuda(mpi: Any) -> bool:
    """Whether the MPI library says that it takes pointers to a GPU's memory."""
    library = ctypes.CDLL(mpi.__file__)
    if hasattr(library, "MPIX_Query_cuda_support"):  # Open MPI
        return bool(library.MPIX_Query_cuda_support())
    if hasattr(library, "MPIX_GPU_query_support"):  # MPICH
        answer = ctypes.c_int(0)
        return library.MPIX_GPU_query_support(0, ctypes.byref(answer)) == 0 and bool(answer.value)
    return False


def world_of_mpi() -> Any:
    """The module mpi4py.MPI, with MPI started; None where mpi4py or an MPI library is missing."""
    yield_while_waiting()
    try:
        from mpi4py import MPI
    except (ImportError, RuntimeError):
        return None
    return MPI


def over_mpi(rank: int, size: int, dialect: str) -> Mpi:
    """MPI's world in this rank of `size`; MissingPackage or RunEnvironmentException where it is none, or another."""
    mpi = world_of_mpi()
    if mpi is None:
        raise MissingPackage("backend='mpi' needs mpi4py and an MPI library: pip install 'trainkit[mpi]'")
    seen = mpi.COMM_WORLD.Get_size()
    if seen != size:
        raise RunEnvironmentException(
            f"{dialect or 'the launcher'} started {size} ranks, but mpi4py sees {seen}: they were not started by the "
            f"mpirun of its library ({mpi.Get_library_version().splitlines()[0]}). Start them with that one, or use "
            "backend='gloo'."
        )
    if mpi.Query_thread() < mpi.THREAD_SERIALIZED:
        raise RunEnvironmentException(
            "MPI was started for a single thread, and gradients are summed in one of their own: leave "
            "mpi4py.rc.thread_level at 'multiple', or use backend='gloo'."
        )
    return Mpi(mpi, rank)
