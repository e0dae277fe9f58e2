"""Which lines several texts have in common: as numbers of lines, for texts of many thousand lines. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import compress, islice

_PROBED = 16  # lines that are looked at for whether many are the same at the same places


def numbers(texts: Sequence[list[bytes]]) -> list[list[int]]:
    """For each text the numbers of its lines that others have too; one and the same list where they are at one place.

    Lines that all have at the same place are found first, by comparing them: that is cheaper than to look each up.
    """
    alike = _same_places(texts)
    shared = {texts[0][number] for number in alike}
    others = _without(texts, alike)
    if len(set(shared).union(*others)) == len(shared) + sum(map(len, others)) or not _add_more(shared, others):
        return [alike] * len(texts)
    return [[number for number, line in enumerate(lines) if line in shared] for lines in texts]


def begin_alike(places: Sequence[list[int]], texts: Sequence[list[bytes]]) -> list[list[int]]:
    """The first of each text's numbers, as many as stand for the same lines in all texts."""
    lists = [[lines[number] for number in own] for lines, own in zip(texts, places, strict=True)]
    low, high = 0, min(map(len, lists))
    first = lists[0]
    while low < high:
        middle = (low + high + 1) // 2
        if all(other[low:middle] == first[low:middle] for other in lists[1:]):
            low = middle
        else:
            high = middle - 1
    return [own[:low] for own in places]


def _same_places(texts: Sequence[list[bytes]]) -> list[int]:
    """The numbers of the lines that are the same in all texts; none where the first ones suggest that few are."""
    count = len(texts)
    few = not any(row.count(row[0]) == count for row in islice(zip(*texts, strict=False), _PROBED))
    return [] if few else [number for number, row in enumerate(zip(*texts, strict=False)) if row.count(row[0]) == count]


def _without(texts: Sequence[list[bytes]], places: Sequence[int]) -> Sequence[list[bytes]]:
    """The texts' lines but those of these numbers."""
    if not places:
        return texts
    kept = bytearray(b"\1") * max(map(len, texts))
    for number in places:
        kept[number] = 0
    return [list(compress(lines, kept)) for lines in texts]


def _add_more(shared: set[bytes], others: Sequence[list[bytes]]) -> bool:
    """Add the lines that are in several of the lists, or shared already, to the shared ones; whether there are any."""
    seen, again = set(shared), False
    for lines in others:
        own = set(lines)
        more = own & seen
        again = again or bool(more)
        shared |= more
        seen |= own
    return again
