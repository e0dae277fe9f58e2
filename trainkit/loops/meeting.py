"""Where the ranks of a launch meet for torch.distributed, also where their launcher names no address."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import cast

import torch
import torch.distributed as dist

from trainkit.boot.contact import Contact
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import make_private
from trainkit.errors import MissingPackage, RunEnvironmentException
from trainkit.loops import parting
from trainkit.loops.collectives.base import gather
from trainkit.loops.collectives.mpi import world_of_mpi
from trainkit.loops.collectives.torchdist import TorchDistributed, group

_MEETING_SECONDS = 300.0  # for rank 0 to say where it is


def over_torch(name: str, contact: Contact, device: torch.device) -> TorchDistributed:
    """Meet the others by torch.distributed: "gloo", "nccl", or "torch" for what fits.

    Raises RunEnvironmentException where the ranks cannot find each other, or NCCL has no GPU for each of them.
    """
    rank = contact.world.rank
    cuda = device.type == "cuda"
    if name == "nccl" and not cuda:
        raise RunEnvironmentException("backend='nccl' needs a GPU for each rank, and there is none; use 'gloo'.")
    with_nccl = cuda and name != "gloo"
    if dist.is_initialized():
        if dist.get_world_size() != rank.world_size:
            raise RunEnvironmentException(
                f"The script has set up torch.distributed for {dist.get_world_size()} ranks, but {rank.dialect} has "
                f"started {rank.world_size}."
            )
        gloo = group("gloo")
    else:
        address, file = _place(rank, contact)
        dist.init_process_group("gloo", init_method=address, rank=rank.rank, world_size=rank.world_size)
        parting.at_parting(lambda: _leave(file if rank.rank == 0 else None))
        gloo = cast(dist.ProcessGroup, dist.group.WORLD)
    line = TorchDistributed(gloo, gloo, nccl=False)
    if not with_nccl:
        return line
    mine = f"{socket.gethostname()} {torch.cuda.get_device_properties(device).uuid}".encode()
    if len(set(gather(line, mine))) == rank.world_size:
        return TorchDistributed(gloo, group("nccl"), nccl=True)
    if name == "nccl":
        raise RunEnvironmentException(
            f"backend='nccl' needs a GPU for each of the {rank.world_size} ranks, and some share one; start fewer "
            "ranks a machine, or use backend='gloo'."
        )
    return line


def _leave(file: Path | None) -> None:
    dist.destroy_process_group()
    if file is not None:
        file.unlink(missing_ok=True)


def _place(rank: Rank, contact: Contact) -> tuple[str, Path | None]:
    """Where the ranks meet: an address for init_process_group, and the file that it names if it names one."""
    if contact.address:
        return "env://", None
    if contact.rendezvous[0]:
        return _address_by_horovodrun(rank, contact.rendezvous), None
    if contact.world.key and rank.local_size == rank.world_size:  # one machine: mpirun names no address, a file will do
        file = _private_folder() / f"world-{contact.world.key}"
        return f"file://{file}", file
    return _address_by_mpi(rank), None


def _private_folder() -> Path:
    """A folder that nobody else can write to, the same for all of this user's processes on this machine."""
    folder = make_private(Path(tempfile.gettempdir()) / f"trainkit-{os.getuid()}")
    facts = folder.lstat()
    if facts.st_uid != os.getuid() or facts.st_mode & 0o077 or folder.is_symlink():
        raise RunEnvironmentException(
            f"The ranks would meet in {folder}, but others can write there; remove it, or set TMPDIR to a folder "
            "of your own."
        )
    return folder


def _address_by_horovodrun(rank: Rank, rendezvous: tuple[str, int]) -> str:
    """Rank 0's address and a free port of it, told to all ranks through horovodrun's key-value server."""
    url = f"http://{rendezvous[0]}:{rendezvous[1]}/trainkit/meeting"
    ask = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    if rank.rank == 0:
        ask.open(urllib.request.Request(url, data=_free_address().encode(), method="PUT"))
    deadline = time.monotonic() + _MEETING_SECONDS
    while True:
        try:
            with ask.open(url) as answer:
                return str(answer.read().decode())
        except (urllib.error.URLError, ConnectionError) as error:  # not said yet
            if time.monotonic() > deadline:
                raise RunEnvironmentException(
                    f"Rank 0 has not said where it is: nothing is found at horovodrun's {url} ({error})."
                ) from error
        time.sleep(0.05)


def _address_by_mpi(rank: Rank) -> str:
    """Rank 0's address and a free port of it, told to all ranks through MPI itself."""
    mpi = world_of_mpi()
    if mpi is None:
        raise MissingPackage(
            f"{rank.world_size} ranks of {rank.dialect} on several machines have no MASTER_ADDR and MASTER_PORT to "
            "meet at; set them, start the script with torchrun or `trainkit submit`, or let the ranks tell each "
            "other through MPI: pip install mpi4py"
        )
    world = mpi.COMM_WORLD
    if world.Get_size() != rank.world_size:
        raise RunEnvironmentException(
            f"{rank.dialect} started {rank.world_size} ranks, but mpi4py sees {world.Get_size()}: it uses another MPI "
            f"library ({mpi.Get_library_version().splitlines()[0]}). Use the mpirun of that library."
        )
    return str(world.bcast(_free_address() if rank.rank == 0 else ""))


def _free_address() -> str:
    """A free port of this machine, by an address at which other machines reach it."""
    name = socket.gethostname()
    found = []
    with contextlib.suppress(OSError):
        found = [str(entry[4][0]) for entry in socket.getaddrinfo(name, None, socket.AF_INET)]
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; the kernel picks the address that leads outside
        found.append(probe.getsockname()[0])
    outside = [address for address in found if not address.startswith("127.")]
    if not outside:
        raise RunEnvironmentException(
            f"Other machines cannot reach {name}: it knows itself as {', '.join(found) or 'nothing'}. Set MASTER_ADDR "
            "and MASTER_PORT to an address of the machine of rank 0."
        )
    with socket.socket() as listener:
        listener.bind((outside[0], 0))
        return f"tcp://{outside[0]}:{listener.getsockname()[1]}"
