"""Apptainer, as arguments only: no test of trainkit's runs it, since Debian 12 has no package of it."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.job import Container, Inside

from .words import bind


class Apptainer:
    """The `apptainer` command line, version 1.1 or later: images are files, processes are the caller's own.

    NOT RUN IN THE TESTS: the words are those of its manual. A container is a process there, and keeps nothing: there is
    nothing to remove, no name to enter it by, no shared memory of its own (it is the node's) and no label. It takes
    over the environment of who starts it.
    """

    program = "apptainer"

    def run(self, container: Container, inside: Inside) -> list[str]:
        """Run an image's program in the foreground; it ends with whoever started it."""
        argv = [self.program, "exec", "--contain", "--no-eval", "--pid", "--no-init"]
        argv += ["--home", inside.home, "--pwd", inside.directory]
        for folder in container.mounts:
            argv += ["--mount", bind(folder)]
        if inside.gpus:
            argv.append("--nv")
        return [*argv, *container.arguments, container.image, *inside.argv]

    def enter(self, name: str, argv: Sequence[str], terminal: bool) -> list[str]:
        """Not possible, since a container has no name: the words fail, and say so to whoever reads them."""
        return ["false", "a container of apptainer cannot be entered", name, *argv]

    def remove(self, name: str) -> list[str]:
        """No words: nothing stays of a container that has ended."""
        return []

    def inspect(self, image: str) -> list[str]:
        """Print facts of an image file as JSON; fails where it is not there."""
        return [self.program, "inspect", "--json", image]

    def load(self, archive: str) -> list[str]:
        """No words: an image is a file, which every node has to see."""
        return []

    def save(self, image: str, archive: str) -> list[str]:
        """Put an image into a file."""
        return [self.program, "build", archive, image]

    def version(self) -> list[str]:
        """Print apptainer's version."""
        return [self.program, "--version"]

    def probe(self, image: str, program: str, arguments: Sequence[str]) -> list[str]:
        """Run one program of an image to see what it prints."""
        return [self.program, "exec", "--contain", image, program, *arguments]
