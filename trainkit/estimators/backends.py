"""The Azure ML SDK's first names for `distributed_training`: deprecated, and still the same as today's."""

from __future__ import annotations

from trainkit.deprecation import warn_deprecated
from trainkit.distributed import MpiConfiguration, PyTorchConfiguration


class Nccl(PyTorchConfiguration):
    """`PyTorchConfiguration("Nccl")`."""

    def __init__(self) -> None:
        warn_deprecated("Nccl() is the old name of PyTorchConfiguration('Nccl').")
        super().__init__("Nccl")


class Gloo(PyTorchConfiguration):
    """`PyTorchConfiguration("Gloo")`."""

    def __init__(self) -> None:
        warn_deprecated("Gloo() is the old name of PyTorchConfiguration('Gloo').")
        super().__init__("Gloo")


class Mpi(MpiConfiguration):
    """`MpiConfiguration(process_count_per_node)`."""

    def __init__(self, process_count_per_node: int = 1) -> None:
        warn_deprecated("Mpi() is the old name of MpiConfiguration().")
        super().__init__(process_count_per_node)
