"""What `use_gpu` means: False hides GPUs, True takes one for each rank where there are any, "required" insists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from trainkit.boot.gpus import Gpu, visible
from trainkit.distributed import World
from trainkit.errors import UnsupportedJob, UserErrorException

__all__ = ["Devices", "Gpu", "choose", "visible", "words"]


@dataclass(frozen=True)
class Devices:
    """What a job's ranks compute on; `backend` is what torch.distributed is to use between them."""

    gpus_per_node: int
    words: str
    backend: str
    ids: tuple[str, ...] = ()  # as CUDA_VISIBLE_DEVICES names them, of all nodes that this machine hosts


def words(gpus: Sequence[Gpu]) -> str:
    """For people: "2 x NVIDIA A100", or "cpu"."""
    return ", ".join(f"{n} x {name}" for name, n in Counter(g.name for g in gpus).items()) or "cpu"


def choose(use_gpu: object, world: World, gpus: Sequence[Gpu] | None, target: str) -> Devices:
    """The devices of a job on `target`, whose GPUs are `gpus` (None: not known from here).

    Raises UnsupportedJob where the target has too few, or none and the job needs them.
    """
    if use_gpu not in (True, False, "required"):
        raise UserErrorException(f"use_gpu is True, False or 'required', not {use_gpu!r}.")
    if use_gpu and gpus is None:
        return Devices(world.ranks_per_node, f"{world.size} GPU(s) of {target}", world.backend or "nccl")
    if use_gpu == "required" and not gpus:
        raise UnsupportedJob(
            f"use_gpu='required', but {target} has no GPU. Choose another target, or use_gpu=True to go without."
        )
    if not use_gpu or not gpus:
        if world.backend == "nccl":
            why = "use_gpu=False hides them" if gpus else f"{target} has none"
            raise UnsupportedJob(
                f"The communication backend Nccl needs GPUs, and {why}. Use 'Gloo', or leave the backend out: then it "
                "is Nccl with GPUs and Gloo without."
            )
        return Devices(0, "cpu", world.backend or "gloo")
    if world.size > len(gpus):
        raise UnsupportedJob(
            f"{world.size} ranks ({world.nodes} x {world.ranks_per_node}) with one GPU each were asked of {target}, "
            f"which has {words(gpus)}. Ask for at most {len(gpus)} rank(s), or use_gpu=False to run on the CPU."
        )
    chosen = gpus[: world.size]
    return Devices(world.ranks_per_node, words(chosen), world.backend or "nccl", tuple(g.id for g in chosen))
