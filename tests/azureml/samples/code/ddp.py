"""A distributed script as they were written for the old SDK: torch.distributed, by what the job's environment says."""

import os
import sys

import torch
import torch.distributed as dist
from azureml.core import Run
from torch.nn.parallel import DistributedDataParallel

rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
assert sys.argv[1:] == ["--rank", str(rank), "--local", os.environ["LOCAL_RANK"]]
dist.init_process_group("gloo", init_method="env://", rank=rank, world_size=size)
torch.manual_seed(rank)
model = DistributedDataParallel(torch.nn.Linear(4, 1))
model(torch.ones(8, 4)).sum().backward()
run = Run.get_context()
run.log("gradient", model.module.weight.grad.sum())
run.log("world", dist.get_world_size())
if rank == 0:
    os.makedirs("outputs", exist_ok=True)
    torch.save(model.module.state_dict(), "outputs/cifar_net.pt")
dist.destroy_process_group()
