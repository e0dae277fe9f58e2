"""The old import names, for the tests of this folder alone."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest

from trainkit.boot import oldnames


@pytest.fixture
def old_names(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Installed as `import trainkit.azureml` does, and gone afterwards."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "meta_path", list(sys.meta_path))
    oldnames.install()
    yield
    for name in [name for name in sys.modules if name.partition(".")[0] == "azureml"]:
        del sys.modules[name]
