"""Batches of pictures: the same ones whoever makes them, exactly what prediction sees, and no thread left."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.loops.images.drawn import drawn, files
from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops.images import Augment, Pictures
from trainkit.loops.order import Ids
from trainkit.loops.sources import Pinnable, Source

SHAPE = Preprocessing(resize=40, size=33)
EVERYTHING = Augment(brightness=0.2, contrast=0.2, rotate=8)


def pictures(folder: Path, **settings: Any) -> Pictures:
    found = files(folder) if not list(folder.iterdir()) else sorted(folder.iterdir(), key=lambda p: int(p.stem))
    return Pictures(found, [n % 3 for n in range(len(found))], **{"preprocessing": SHAPE, "workers": 2, **settings})


def shares(count: int, batch: int = 5) -> list[Ids]:
    order = np.random.default_rng(0).permutation(count)
    return [order[start : start + batch] for start in range(0, count, batch)]


def epoch(source: Pictures, number: int = 0, seed: int = 0, batch: int = 5) -> dict[int, Tensor]:
    """Every picture of an epoch by its number."""
    parts = shares(len(source), batch)
    found = {}
    for ids, made in zip(parts, source.batches(iter(parts), number, seed), strict=True):
        assert made is not None
        images, labels = made
        assert labels.tolist() == source.labels[ids].tolist() and images.dtype == torch.float32
        found.update(zip(ids.tolist(), images.clone(), strict=True))
    return found


def same(one: dict[int, Tensor], other: dict[int, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[number], other[number]) for number in one)


def decoders() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("pictures")]


@pytest.mark.parametrize("channels_last", [False, True])
def test_evaluation_sees_what_prediction_sees_to_the_last_bit(channels_last: bool, tmp_path: Path) -> None:
    source = pictures(tmp_path, channels_last=channels_last)
    for _ in range(2):  # the second from the cache
        for number, image in epoch(source).items():
            assert np.array_equal(image.numpy(), SHAPE.read(source.file_of(number)))
    assert len(source.kept) == len(source)


def test_photographs_in_evaluation_too(photographs: Path) -> None:
    found = sorted(photographs.rglob("*.jpg"))[::40]
    shape = Preprocessing(256, 224, interpolation="bicubic")
    source = Pictures(found, [0] * len(found), preprocessing=shape, workers=2)
    for number, image in epoch(source).items():
        assert np.array_equal(image.numpy(), shape.read(found[number]))


@pytest.mark.parametrize("augment", [Augment(), EVERYTHING])
def test_nothing_but_seed_epoch_and_number_decides(augment: Augment, tmp_path: Path) -> None:
    bar = epoch(pictures(tmp_path, augment=augment, workers=0, cache=False), 3, 7)
    for workers in (0, 1, 3):
        for cache in (False, True, 20_000):
            source = pictures(tmp_path, augment=augment, workers=workers, cache=cache)
            assert same(bar, epoch(source, 3, 7)) and same(bar, epoch(source, 3, 7, batch=2))
    assert same(bar, epoch(pictures(tmp_path, augment=augment, channels_last=True), 3, 7))
    ours = pictures(tmp_path, augment=augment)
    assert not any(torch.equal(bar[n], image) for n, image in epoch(ours, 4, 7).items())
    assert not any(torch.equal(bar[n], image) for n, image in epoch(ours, 3, 8).items())


def test_changed_pictures_are_normalised_and_of_their_own_size(tmp_path: Path) -> None:
    augment = Augment(scale=(1, 1), ratio=(1, 1), mirror=0)
    square = tmp_path / "0.jpg"
    drawn(28, 28).save(square)
    (image,) = epoch(Pictures([square], [0], preprocessing=SHAPE, augment=augment, size=28)).values()
    assert torch.allclose(image, torch.from_numpy(Preprocessing(28, 28).read(square)), atol=1e-6)


def test_layouts_labels_and_names(tmp_path: Path) -> None:
    source = pictures(tmp_path, augment=Augment(), channels_last=True, classes=("a", "b", "c"))
    assert isinstance(source, Source) and isinstance(source, Pinnable) and len(source) == 23
    ((images, labels),) = [made for made in source.batches([np.array([4, 2])], 0, 0) if made is not None]
    assert images.shape == (2, 3, 33, 33) and images.is_contiguous(memory_format=torch.channels_last)
    assert labels.tolist() == [1, 2] and labels.dtype == torch.int64
    assert source.file_of(4).name == "4.jpg" and source.classes == ("a", "b", "c")


def test_a_rank_without_pictures_gets_none(tmp_path: Path) -> None:
    nothing = np.array([], dtype=np.int64)
    for workers in (0, 2):
        made = list(pictures(tmp_path, workers=workers).batches([nothing, np.array([1]), *[nothing] * 9], 0, 0))
        assert [batch is None for batch in made] == [True, False, *[True] * 9]


def test_closing_early_ends_the_threads_and_reads_little_ahead(tmp_path: Path) -> None:
    source, taken = pictures(tmp_path, augment=Augment()), 0

    def endless() -> Iterator[Ids]:
        nonlocal taken
        while True:
            taken += 1
            yield np.arange(8)

    batches = source.batches(endless(), 0, 0)
    for _ in range(4):
        next(batches)
    assert len(decoders()) == 2 and taken <= 4 + 2
    batches.close()  # type: ignore[attr-defined]
    assert not decoders()
    next(source.batches(endless(), 0, 0))  # dropped at once
    assert not decoders()


def test_torch_uses_as_many_threads_as_before(tmp_path: Path) -> None:
    before, seen = torch.get_num_threads(), []
    torch.set_num_threads(2)
    try:
        for _ in pictures(tmp_path).batches(shares(23), 0, 0):
            later = threading.Thread(target=lambda: seen.append(torch.get_num_threads()))
            later.start()
            later.join()
            seen.append(torch.get_num_threads())
    finally:
        torch.set_num_threads(before)
    assert set(seen) == {2}


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("augment", [None, Augment()])
def test_a_damaged_picture_is_one_error_with_its_name(workers: int, augment: Augment | None, tmp_path: Path) -> None:
    source = pictures(tmp_path, augment=augment, workers=workers)
    damaged = source.file_of(9)
    damaged.write_bytes(damaged.read_bytes()[:700])
    with pytest.raises(UserErrorException, match="cannot be read as a picture: it is damaged") as caught:
        epoch(source)
    assert str(damaged) in caught.value.message
    assert not decoders()


def test_a_picture_too_narrow_is_named(tmp_path: Path) -> None:
    drawn(1, 30_000).save(tmp_path / "0.png")
    shape = Preprocessing(resize=200, size=200)
    with pytest.raises(UserErrorException, match=r"0\.png: .* too narrow"):
        epoch(Pictures([tmp_path / "0.png"], [0], preprocessing=shape))


def test_an_error_of_the_order_is_passed_on(tmp_path: Path) -> None:
    def broken() -> Iterator[Ids]:
        yield np.arange(3)
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        list(pictures(tmp_path).batches(broken(), 0, 0))
    assert not decoders()


def test_a_cache_holds_no_more_than_it_may(tmp_path: Path) -> None:
    source = pictures(tmp_path, augment=Augment(), cache=60_000)
    epoch(source)
    assert 40_000 < source.kept.bytes <= 60_000 and 0 < len(source.kept) < len(source)
    none = pictures(tmp_path, cache=False)
    epoch(none)
    assert len(none.kept) == none.kept.bytes == 0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"labels": [0]}, "a label for each file: 2 files, 1 labels"),
        ({"files": [], "labels": []}, "at least one file"),
        ({"labels": [0, -1]}, "from 0 on, as integers"),
        ({"labels": [0.5, 1.0]}, "from 0 on, as integers"),
        ({"labels": ["cat", "dog"]}, "from 0 on, as integers"),
        ({"labels": [0, 2], "classes": ("a", "b")}, "label 2, but only 2 classes"),
        ({"workers": -1}, "workers is a number of threads"),
        ({"workers": True}, "workers is a number of threads"),
        ({"cache": "some"}, "cache is 'auto'"),
        ({"cache": -5}, "cache is 'auto'"),
        ({"size": 100}, "give augment= too"),
        ({"size": 0, "augment": Augment()}, "size is a number of pixels"),
        ({"augment": "strong"}, "augment is an Augment"),
        ({"preprocessing": 224}, "preprocessing is a Preprocessing"),
    ],
)
def test_arguments_without_sense_are_refused(settings: dict[str, Any], message: str) -> None:
    given = {"files": ["a.jpg", "b.jpg"], "labels": [0, 1], **settings}
    with pytest.raises(UserErrorException, match=message):
        Pictures(given.pop("files"), given.pop("labels"), **given)
