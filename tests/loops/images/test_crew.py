"""Threads that make batches leave torch's own threads to those who train."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch

from trainkit.loops.images.crew import in_order


@dataclass
class Made:
    """A batch whose parts say with how many threads torch computes in them."""

    found: list[int] = field(default_factory=list)
    parts: list[Callable[[], None]] = field(default_factory=list)


def test_torch_uses_one_thread_in_each_and_as_many_as_before_outside() -> None:
    before = torch.get_num_threads()

    def batch() -> Made:
        made = Made()

        def part() -> None:
            torch.empty(1000).copy_(torch.zeros(1000, dtype=torch.uint8))
            made.found.append(torch.get_num_threads())

        made.parts = [part] * 4
        return made

    seen = [n for made in in_order((batch() for _ in range(6)), 2) if made is not None for n in made.found]
    assert seen == [1] * 24
    assert torch.get_num_threads() == before
