"""Makes the ranks that mpirun, torchrun, srun or a trainkit job started find each other, with torch.distributed."""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor

from trainkit import MissingPackage, RunEnvironmentException
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import make_private
from trainkit.boot.worlds import this_world


@dataclass(frozen=True)
class Here:
    """This process's place among the ranks, and the device that it computes on."""

    rank: int
    size: int
    device: torch.device
    workers: int  # processes that read pictures for this rank
    meeting: Path | None = None  # the file in which the ranks found each other, if it was one

    def total(self, *values: float) -> list[float]:
        """Each value's sum over all ranks; every rank calls it."""
        sums = torch.tensor(values, dtype=torch.float64, device=self.device)
        if self.size > 1:
            dist.all_reduce(sums)
        return [float(v) for v in sums]

    def model(self, model: torch.nn.Module) -> torch.nn.Module:
        """The model on this rank's device; with several ranks its gradients are their mean over all ranks."""
        model = model.to(self.device)
        if self.size == 1:
            return model
        return torch.nn.parallel.DistributedDataParallel(model)

    def agree(self, model: torch.nn.Module) -> None:
        """Give every rank the statistics that rank 0 has gathered, so that all validate the same model."""
        if self.size > 1:
            for buffer in model.buffers():
                dist.broadcast(buffer, 0)

    def put(self, pictures: Tensor) -> Tensor:
        """A batch on the device, in the memory format that convolutions are fastest in."""
        return pictures.to(self.device, non_blocking=True, memory_format=torch.channels_last)


def join(env: Mapping[str, str]) -> Here:
    """Meet the other ranks of this launch, if there are any; `env` is the process's environment.

    Raises RunEnvironmentException where several ranks have no way to find each other.
    """
    world = this_world(env)
    rank = world.rank
    cuda = torch.cuda.is_available()
    device = torch.device("cuda", rank.local_rank % torch.cuda.device_count()) if cuda else torch.device("cpu")
    cores = max(1, len(os.sched_getaffinity(0)) // (1 if _bound() else rank.local_size))
    if cuda:
        torch.cuda.set_device(device)
    elif not env.get("OMP_NUM_THREADS"):
        torch.set_num_threads(cores)  # else every rank would take the whole machine
    torch.set_flush_denormal(True)  # numbers near zero cost ten times the time on some processors
    meeting = None
    if rank.world_size > 1:
        # NCCL wants a GPU for each rank: either all are to be seen here, or the launcher shows each rank its own.
        own_gpu = cuda and (torch.cuda.device_count() >= rank.local_size or torch.cuda.device_count() == 1)
        address, meeting = _meeting(rank, world.key, env)
        dist.init_process_group(
            "nccl" if own_gpu else "gloo", init_method=address, rank=rank.rank, world_size=rank.world_size
        )
    return Here(rank.rank, rank.world_size, device, min(8, cores) if cuda else 0, meeting)


def leave(here: Here) -> None:
    """Wait until every rank has come this far, then part."""
    if here.size > 1:
        dist.barrier()
        dist.destroy_process_group()
    if here.meeting and here.rank == 0:
        here.meeting.unlink(missing_ok=True)


def _bound() -> bool:
    """Whether the launcher has tied this process to some of the machine's cores."""
    return len(os.sched_getaffinity(0)) < (os.cpu_count() or 1)


def _meeting(rank: Rank, key: str, env: Mapping[str, str]) -> tuple[str, Path | None]:
    """Where the ranks meet: an address for init_process_group, and the file that it names if it names one."""
    if rank.dialect in ("trainkit", "torchrun") or {"MASTER_ADDR", "MASTER_PORT"} <= env.keys():
        return "env://", None
    if key and rank.local_size == rank.world_size:  # one machine: mpirun names no address, a file will do
        file = _private_folder() / f"world-{key}"
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


def _address_by_mpi(rank: Rank) -> str:
    """Rank 0's address and a free port of it, told to all ranks through MPI itself."""
    try:
        from mpi4py import MPI
    except ImportError as error:
        raise MissingPackage(
            f"{rank.world_size} ranks of {rank.dialect} on several machines have no MASTER_ADDR and MASTER_PORT to "
            "meet at; set them, start the script with torchrun or `trainkit submit`, or let the ranks tell each "
            "other through MPI: pip install mpi4py"
        ) from error
    world = MPI.COMM_WORLD
    if world.Get_size() != rank.world_size:
        raise RunEnvironmentException(
            f"{rank.dialect} started {rank.world_size} ranks, but mpi4py sees {world.Get_size()}: it uses another MPI "
            f"library ({MPI.Get_library_version().splitlines()[0]}). Use the mpirun of that library."
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
