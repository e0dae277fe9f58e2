"""Pictures as a loop reads them: decoded off the main thread, kept where memory allows, changed at random by key."""

from __future__ import annotations

from trainkit.loops.images.augment import Augment
from trainkit.loops.images.pictures import Pictures
from trainkit.loops.images.tree import Pair, Tree, read_folder, read_tree, split

__all__ = ["Augment", "Pair", "Pictures", "Tree", "read_folder", "read_tree", "split"]
