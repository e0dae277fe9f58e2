"""Copies to a GPU that overlap with computing: what arrives is what was read. Runs where there is a CUDA device."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from trainkit.loops.feed import Feed
from trainkit.loops.metrics import Accuracy, ConfusionMatrix, MeanLoss, TopK
from trainkit.loops.order import Order
from trainkit.loops.sources import Samples, Source, Tensors

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")]

COUNT = 200
X = torch.arange(COUNT * 3 * 16 * 16, dtype=torch.float32).reshape(COUNT, 3, 16, 16)


class Pictures:
    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, number: int) -> tuple[Tensor, int]:
        return X[number] + torch.rand(()), number


def sums(source: Source, device: str) -> list[tuple[list[int], list[float]]]:
    """Of each micro-batch the targets and sums of the inputs, with much work on the GPU between batches."""
    busy = torch.rand(1024, 1024, device=device)
    found = []
    for micros in Feed(source, Order(COUNT, 16, 0), 1, 3, torch.device(device), 2, channels_last=True).epoch(0):
        for batch in micros:
            for _ in range(5 if device == "cuda" else 0):
                busy = busy @ busy
            if batch.inputs is None:
                continue
            assert batch.inputs.device.type == device
            assert batch.inputs.is_contiguous(memory_format=torch.channels_last)
            found.append((batch.targets.tolist(), batch.inputs.double().sum((1, 2, 3)).tolist()))
    return found


@pytest.mark.parametrize("workers", [None, 0, 2])
def test_a_gpu_gets_what_the_cpu_gets(workers: int | None) -> None:
    def source() -> Source:
        return Tensors(X, torch.arange(COUNT)) if workers is None else Samples(Pictures(), workers)

    assert sums(source(), "cuda") == sums(source(), "cpu")


def test_batches_for_a_gpu_are_in_page_locked_memory() -> None:
    for source in (Tensors(X, torch.arange(COUNT)), Samples(Pictures()), Samples(Pictures(), 1)):
        Feed(source, Order(COUNT, 16, 0), 0, 1, torch.device("cuda"))
        batch = next(iter(source.batches([torch.arange(4).numpy()], 0, 0)))
        assert batch is not None and batch[0].is_pinned() and batch[1].is_pinned()


def test_the_stream_of_the_gpu_stays_as_it_was() -> None:
    before = torch.cuda.get_rng_state()
    sums(Samples(Pictures()), "cuda")
    assert torch.equal(torch.cuda.get_rng_state(), before)


def test_sums_wait_for_nothing_and_are_those_of_the_cpu() -> None:
    outputs, targets = torch.randn(64, 10), torch.randint(10, (64,))
    there = outputs.cuda(), targets.cuda()
    for metric in (Accuracy(), TopK(3), ConfusionMatrix(10), MeanLoss(torch.nn.CrossEntropyLoss())):
        metric.sums(*there)
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            found = metric.sums(*there)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        assert found.is_cuda and torch.allclose(found.cpu(), metric.sums(outputs, targets), rtol=1e-6)
