"""This process's place among the ranks that mpirun, torchrun, srun, horovodrun or a trainkit job started."""

from __future__ import annotations

import os
from dataclasses import dataclass

import torch

from trainkit.boot.contact import Contact, here
from trainkit.boot.ranks import Rank
from trainkit.errors import RunEnvironmentException, UserErrorException
from trainkit.loops import meeting, parting
from trainkit.loops.collectives import Alone, Collective, barrier
from trainkit.loops.collectives.horovod import over_horovod
from trainkit.loops.collectives.mpi import over_mpi, world_of_mpi

BACKENDS = ("auto", "torch", "gloo", "nccl", "horovod", "mpi")


@dataclass(frozen=True)
class World:
    """One rank's place, the device that it computes on, and its line to the other ranks.

    `cores` is this rank's share of the machine's processor cores.
    """

    rank: int
    size: int
    local_rank: int
    local_size: int
    device: torch.device
    collective: Collective
    cores: int


_joined: dict[tuple[str, str], World] = {}


def join(backend: str = "auto", device: str = "auto") -> World:
    """Meet the other ranks of this launch, if there are any; again with the same arguments, the same world.

    `backend` "auto" is the job's own, Horovod under horovodrun, NCCL where each rank has a GPU, MPI under its mpirun,
    else gloo; "torch" is NCCL or gloo. `device` "auto" is a GPU where there is one. Raises UserErrorException for other
    names, MissingPackage, and RunEnvironmentException where the ranks have no way to each other.
    """
    if (backend, device) not in _joined:
        _joined[backend, device] = _join(backend, device)
    return _joined[backend, device]


def alone(device: str = "auto") -> World:
    """A world of one rank."""
    return World(0, 1, 0, 1, _device(device, Rank()), Alone(), _cores(Rank()))


def _join(backend: str, device: str) -> World:
    if backend not in BACKENDS:
        raise UserErrorException(f"There is no backend {backend!r}; it is one of {', '.join(BACKENDS)}.")
    contact = here()
    rank = contact.world.rank
    if rank.world_size == 1:
        return alone(device)
    chosen, place = _device(device, rank), _cores(rank)
    if chosen.type == "cpu" and not contact.threads:
        torch.set_num_threads(place)  # else every rank would take the whole machine
    name = backend if backend != "auto" else _choice(contact, chosen)
    others = [world for world in _joined.values() if _speaks(world.collective.name, name) and world.device == chosen]
    if others:
        return others[0]
    return World(
        rank.rank, rank.world_size, rank.local_rank, rank.local_size, chosen, _meet(name, contact, chosen), place
    )


def _speaks(name: str, wanted: str) -> bool:
    return name == wanted or (wanted == "torch" and name in ("gloo", "nccl"))


def _meet(name: str, contact: Contact, device: torch.device) -> Collective:
    """The line to the other ranks, tried once: who cannot reach them learns it here."""
    rank = contact.world.rank
    line: Collective
    if name == "horovod":
        line = over_horovod(rank.rank, rank.world_size)
        parting.watch(contact.in_job)
    elif name == "mpi":
        line = over_mpi(rank.rank, rank.world_size, rank.dialect)
        parting.watch(contact.in_job, world_of_mpi())
    else:
        line = meeting.over_torch(name, contact, device)
        parting.watch(contact.in_job)
    barrier(line)
    return line


def _choice(contact: Contact, device: torch.device) -> str:
    """The backend where nobody has named one."""
    rank = contact.world.rank
    if contact.backend:
        return contact.backend
    if rank.dialect == "horovod":
        return "horovod"
    if device.type == "cuda" and torch.cuda.device_count() >= rank.local_size:
        return "nccl"
    if contact.mpi:
        mpi = world_of_mpi()
        if (
            mpi is not None
            and mpi.COMM_WORLD.Get_size() == rank.world_size
            and mpi.Query_thread() >= mpi.THREAD_SERIALIZED
        ):
            return "mpi"
    return "torch"


def _device(name: str, rank: Rank) -> torch.device:
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    try:
        asked = torch.device("cuda" if name == "auto" else name)
    except RuntimeError:
        asked = None
    if asked is None or asked.type != "cuda":
        raise UserErrorException(f"There is no device {name!r}; it is 'auto', 'cpu', 'cuda' or 'cuda:N'.")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if not count or (asked.index or 0) >= count:
        raise RunEnvironmentException(
            f"device={name!r} asks for a GPU and this machine shows this process {count}; use device='cpu', or look at "
            "CUDA_VISIBLE_DEVICES and the driver."
        )
    device = torch.device("cuda", rank.local_rank % count if asked.index is None else asked.index)
    torch.cuda.set_device(device)
    return device


def _cores(rank: Rank) -> int:
    """This rank's share of the cores; a launcher may already have tied it to its own ones."""
    mine = len(os.sched_getaffinity(0))
    bound = mine < (os.cpu_count() or 1)
    return max(1, mine // (1 if bound else rank.local_size))
