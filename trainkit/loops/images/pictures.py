"""Pictures as a loop's source: files in, normalised batches out, the same ones whoever decodes them and wherever."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from trainkit.errors import UserErrorException
from trainkit.export.preprocessing import Preprocessing, read_picture
from trainkit.loops.images.augment import Augment, cut, lit, turned
from trainkit.loops.images.crew import in_order
from trainkit.loops.images.decode import decoded, from_pillow
from trainkit.loops.images.kept import Kept, Limit
from trainkit.loops.order import Ids

_PART = 4  # pictures that a thread makes before it asks for more


@dataclass
class _Batch:
    """A batch that threads fill in."""

    images: Tensor
    targets: Tensor
    parts: list[Callable[[], None]] = field(default_factory=list)


class Pictures:
    """Files and the numbers of their classes, as a source of float32 pictures [n, 3, size, size] and labels [n].

    Without `augment` every picture is what `preprocessing` makes of it, to the last bit: what an exported model sees.
    With it a picture is changed at random, which follows from (seed, epoch, its number) alone, to `size` pixels a side
    (`preprocessing.size` if not given; a part that fills the frame looks larger than the whole does, so 7/8 of it
    brings training and prediction together: Touvron et al., "Fixing the train-test resolution discrepancy", 2019).
    JPEG files far larger than the smallest part needs are then decoded at a half, quarter or eighth of their size.

    `workers` threads decode ahead of the reader (0: none; None: as many as this process has cores). `cache` says how
    much of the decoded pictures stays in memory: "auto" up to a quarter of what is free, False nothing, True all, or a
    number of bytes. Neither changes a single bit. `channels_last` is the memory layout of the batches.

    Raises UserErrorException here for arguments that make no sense, and names the file where a picture cannot be read.
    """

    def __init__(
        self,
        files: Sequence[str | os.PathLike[str]],
        labels: Sequence[int],
        *,
        preprocessing: Preprocessing | None = None,
        augment: Augment | None = None,
        size: int | None = None,
        classes: Sequence[str] = (),
        workers: int | None = None,
        cache: Limit = "auto",
        channels_last: bool = False,
    ) -> None:
        for name, value, kind in (("augment", augment, Augment), ("preprocessing", preprocessing, Preprocessing)):
            if value is not None and not isinstance(value, kind):
                article = "an" if kind is Augment else "a"
                raise UserErrorException(f"Pictures: {name} is {article} {kind.__name__} or None, not {value!r}.")
        self.files = tuple(Path(file) for file in files)
        self.labels = _numbers(labels, len(self.files), len(classes))
        self.preprocessing = preprocessing or Preprocessing(resize=256, size=224)
        self.augment, self.size = augment, _side(size, self.preprocessing, augment)
        self.classes, self.channels_last = tuple(classes), channels_last
        self.workers = _count(workers)
        self.pinned = False  # batches in page-locked memory, for copies to a GPU
        self.kept = Kept(cache)
        mean, std = (torch.tensor(values) for values in (self.preprocessing.mean, self.preprocessing.std))
        self._mean, self._std = self._channels(mean), self._channels(std)
        self._factor, self._shift = self._channels(1 / (255 * std)), self._channels(-mean / std)

    def __len__(self) -> int:
        return len(self.files)

    def file_of(self, number: int) -> Path:
        """The file of a sample."""
        return self.files[number]

    def batches(self, shares: Iterable[Ids], epoch: int, seed: int) -> Iterator[tuple[Tensor, Tensor] | None]:
        """For each array of picture numbers the batch (pictures, labels); None for an empty array."""
        work = (self._batch(ids, epoch, seed) if len(ids) else None for ids in shares)
        done = in_order(work, self.workers)
        try:
            for batch in done:
                yield None if batch is None else (batch.images, batch.targets)
        finally:
            done.close()

    def _batch(self, ids: Ids, epoch: int, seed: int) -> _Batch:
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = torch.empty(
            (len(ids), 3, self.size, self.size), device="cpu", dtype=torch.float32, memory_format=layout,
            pin_memory=self.pinned,
        )  # fmt: skip
        batch = _Batch(images, self.labels[torch.from_numpy(ids)])
        for start in range(0, len(ids), _PART):
            numbers = ids[start : start + _PART].tolist()
            batch.parts.append(partial(self._fill, images[start : start + _PART], numbers, epoch, seed))
        return batch

    def _fill(self, images: Tensor, numbers: list[int], epoch: int, seed: int) -> None:
        """Make these pictures, each stage for all of them at once: its code then stays in the processor's cache."""
        pixels = [self._pixels(number) for number in numbers]
        if self.augment is None:
            for image, picture in zip(images.unbind(), pixels, strict=True):
                image.copy_(picture)
                self._rows(image).div_(255).sub_(self._mean).div_(self._std)  # as `Preprocessing.apply` rounds
            return
        draw = self.augment.draw
        changes = [draw(p.shape[2], p.shape[1], (seed, epoch, n)) for p, n in zip(pixels, numbers, strict=True)]
        parts = [cut(picture, change, self.size) for picture, change in zip(pixels, changes, strict=True)]
        for image, part, change in zip(images.unbind(), parts, changes, strict=True):
            image.copy_(part)
            if change.degrees:
                image.copy_(turned(image, change.degrees))
            if change.brightness != 1 or change.contrast != 1:
                lit(image, change, float(part.numpy().mean()))
            self._rows(image).mul_(self._factor).add_(self._shift)

    def _pixels(self, number: int) -> Tensor:
        pixels = self.kept.get(number)
        if pixels is None:
            pixels = self._read(self.files[number])
            self.kept.put(number, pixels)
        return pixels

    def _read(self, file: Path) -> Tensor:
        """What is the same each time: the picture's pixels, or the part of them that the model sees."""
        if self.augment is not None:
            return decoded(file, self.augment.least(self.size))
        picture = read_picture(file)
        try:
            return from_pillow(self.preprocessing.frame(picture))
        except UserErrorException as e:
            raise UserErrorException(f"{file}: {e.message}") from e

    def _rows(self, image: Tensor) -> Tensor:
        """A picture such that the numbers of its channels fit to it, and what is next to each other is so in memory."""
        return image.permute(1, 2, 0).view(self.size, 3 * self.size) if self.channels_last else image

    def _channels(self, values: Tensor) -> Tensor:
        return values.repeat(self.size) if self.channels_last else values.reshape(3, 1, 1)


def _numbers(labels: Sequence[int], count: int, classes: int) -> Tensor:
    if count == 0:
        raise UserErrorException("Pictures needs at least one file.")
    try:
        numbers = torch.as_tensor(labels)
    except (TypeError, ValueError, RuntimeError):
        numbers = torch.full((count,), -1)
    if numbers.shape != (count,):
        raise UserErrorException(f"Pictures needs a label for each file: {count} files, {len(labels)} labels.")
    if numbers.dtype not in (torch.int64, torch.int32, torch.uint8) or numbers.min() < 0:
        raise UserErrorException("The labels of Pictures are the numbers of the classes, from 0 on, as integers.")
    if classes and int(numbers.max()) >= classes:
        raise UserErrorException(f"There is a label {int(numbers.max())}, but only {classes} classes, from 0 on.")
    return numbers.to(torch.int64)


def _side(size: int | None, preprocessing: Preprocessing, augment: Augment | None) -> int:
    if size is None:
        return preprocessing.size
    if augment is None:
        raise UserErrorException(
            f"Pictures(size={size}) is that of changed pictures: give augment= too, or preprocessing= another size."
        )
    if isinstance(size, bool) or not isinstance(size, int) or not 1 <= size <= 8192:
        raise UserErrorException(f"Pictures: size is a number of pixels from 1 to 8192, not {size!r}.")
    return size


def _count(workers: int | None) -> int:
    if workers is None:
        return len(os.sched_getaffinity(0))
    if isinstance(workers, bool) or not isinstance(workers, int) or not 0 <= workers <= 256:
        raise UserErrorException(f"workers is a number of threads from 0 to 256, or None, not {workers!r}.")
    return workers
