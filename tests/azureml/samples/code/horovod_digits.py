"""A distributed script as they were written for the old SDK: PyTorch with Horovod, all ranks into one run."""

import argparse

import horovod.torch as hvd
import torch
from azureml.core.run import Run
from torch import nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.data.distributed import DistributedSampler

parser = argparse.ArgumentParser(description="PyTorch Example")
parser.add_argument("--batch-size", type=int, default=64)
parser.add_argument("--epochs", type=int, default=2)
parser.add_argument("--lr", type=float, default=0.01)
args = parser.parse_args()

hvd.init()
torch.manual_seed(42)
run = Run.get_context()
generator = torch.Generator().manual_seed(1)
pixels = torch.rand(256, 16, generator=generator)
data = TensorDataset(pixels, (pixels.sum(1) > 8).long())
sampler = DistributedSampler(data, num_replicas=hvd.size(), rank=hvd.rank())
loader = DataLoader(data, batch_size=args.batch_size, sampler=sampler)
model = nn.Linear(16, 2)
hvd.broadcast_parameters(model.state_dict(), root_rank=0)
optimizer = torch.optim.SGD(model.parameters(), lr=args.lr * hvd.size(), momentum=0.5)
optimizer = hvd.DistributedOptimizer(optimizer, named_parameters=model.named_parameters())
for epoch in range(1, args.epochs + 1):
    sampler.set_epoch(epoch)
    for batch, target in loader:
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(batch), target)
        loss.backward()
        optimizer.step()
        run.log("loss", loss.item())
run.log("rank", hvd.rank())
run.log("weights", model.weight.sum().item())
if hvd.rank() == 0:
    print("Test set: Average loss: {:.4f}".format(hvd.allreduce(loss, name="avg_loss").item()))
else:
    hvd.allreduce(loss, name="avg_loss")
hvd.shutdown()
