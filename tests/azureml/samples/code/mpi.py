"""A distributed script as they were written for the old SDK: MPI's own world, and what Open MPI says of it."""

import os

from azureml.core import Run
from mpi4py import MPI

world = MPI.COMM_WORLD
assert world.rank == int(os.environ["OMPI_COMM_WORLD_RANK"])
run = Run.get_context()
run.log("sum", world.allreduce(world.rank + 1))
run.log("master", "AZ_BATCHAI_MPI_MASTER_NODE" in os.environ)
