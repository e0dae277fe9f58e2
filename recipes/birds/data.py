"""Where the recipe's pictures come from, and how they become a source that a loop reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from trainkit import UserErrorException
from trainkit.export.preprocessing import Preprocessing
from trainkit.loops.images import Augment, Pair, Pictures
from trainkit_recipes.birds.sample import sample_data
from trainkit_recipes.fetch import ARCHIVES, unpacked

CHANGES = Augment(scale=(0.4, 1.0), ratio=(0.78, 1.28), brightness=0.2, contrast=0.2, squeeze=True)


def cache_folder(env: Mapping[str, str]) -> Path:
    """Where downloads and drawn pictures are kept, for all checkouts and jobs of this user on this machine."""
    named = env.get("TRAINKIT_CACHE", "")
    base = env.get("XDG_CACHE_HOME", "")
    return Path(named) if named else (Path(base) if base else Path.home() / ".cache") / "trainkit"


def find_data(name: str, cache: Path) -> Path:
    """The folder of a data set: "sample", "fowl", "hymenoptera" (fetched or drawn on first use), or any path."""
    if name == "sample":
        return sample_data(cache)
    if name in ARCHIVES:
        return unpacked(name, cache)
    folder = Path(name).expanduser()
    if not folder.is_dir():
        what = "is not a folder" if folder.exists() else "does not exist"
        raise UserErrorException(
            f"The data {str(folder.absolute())!r} {what}; ask for 'sample', {', '.join(map(repr, ARCHIVES))}, or a "
            "folder with train/CLASS/*.jpg and val/CLASS/*.jpg."
        )
    return folder.absolute()


def pictures(pairs: Sequence[Pair], shape: Preprocessing, changed: bool) -> Pictures:
    """Files and their classes as a source: changed at random for training, else only resized and cut to the centre.

    Changed pictures are 7/8 as large: a random part fills the frame more than the whole does, and things should look
    as large in training as later (Touvron et al., "Fixing the train-test resolution discrepancy", 2019). It also saves
    a quarter of the time.
    """
    files, labels = zip(*pairs, strict=True)
    if not changed:
        return Pictures(files, labels, preprocessing=shape, channels_last=True)
    part = max(32, shape.size * 7 // 8 // 16 * 16)
    return Pictures(files, labels, preprocessing=shape, augment=CHANGES, size=part, channels_last=True)
