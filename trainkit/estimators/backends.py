"""The Azure ML SDK's first names for `distributed_training`: deprecated, and still the same as today's."""

from __future__ import annotations

import warnings

from trainkit.distributed import MpiConfiguration, PyTorchConfiguration


def _deprecated(old: str, new: str) -> None:
    warnings.warn(f"{old} is the old name of {new}.", DeprecationWarning, stacklevel=3)


class Nccl(PyTorchConfiguration):
    """`PyTorchConfiguration("Nccl")`."""

    def __init__(self) -> None:
        _deprecated("Nccl()", "PyTorchConfiguration('Nccl')")
        super().__init__("Nccl")


class Gloo(PyTorchConfiguration):
    """`PyTorchConfiguration("Gloo")`."""

    def __init__(self) -> None:
        _deprecated("Gloo()", "PyTorchConfiguration('Gloo')")
        super().__init__("Gloo")


class Mpi(MpiConfiguration):
    """`MpiConfiguration(process_count_per_node)`."""

    def __init__(self, process_count_per_node: int = 1) -> None:
        _deprecated("Mpi()", "MpiConfiguration()")
        super().__init__(process_count_per_node)
