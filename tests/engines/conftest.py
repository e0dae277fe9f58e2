"""Testbeds as fixtures; tests that take one are marked `engine`: skipped without root or sshd, failed under CI."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.engines import slurmd
from tests.engines import testbed as beds


@pytest.fixture(scope="session")
def testbed() -> Iterator[beds.Testbed]:
    """Two nodes and ctl, shared by the tests of a session: leave it as it was (nodes on, links up, no jobs)."""
    reason = beds.missing()
    if reason:
        pytest.skip(reason)
    with beds.Testbed(nodes=2) as bed:
        yield bed


@pytest.fixture(scope="module")
def slurm() -> Iterator[beds.Testbed]:
    """A testbed of a module's own with two nodes and Slurm on it."""
    reason = beds.missing() or slurmd.missing()
    if reason:
        pytest.skip(reason)
    with beds.Testbed(nodes=2) as bed:
        bed.slurm()
        yield bed
