"""Podman, with or without root: containers are children of the command line itself, there is no daemon."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.job import Container, Inside

from .words import command_words, enter_words, run_words


class Podman:
    """The `podman` command line, version 4 or later. Run by root it is rootful, by anybody else rootless."""

    program = "podman"

    def run(self, container: Container, inside: Inside) -> list[str]:
        """Run a container in the foreground with standard input open; nothing of it stays when it has ended."""
        argv = run_words(self.program, container, inside)
        if inside.uid:
            argv.append("--userns=keep-id")  # else the caller would be root in there, and own nothing under its number
        argv += ["--user", f"{inside.uid}:{inside.gid}"]
        if inside.gpus:
            argv += ["--device", "nvidia.com/gpu=all"]  # which of them are the job's, CUDA_VISIBLE_DEVICES says
        return argv + command_words(container, inside)

    def enter(self, name: str, argv: Sequence[str], terminal: bool) -> list[str]:
        """Run something more in a container that runs."""
        return enter_words(self.program, name, argv, terminal)

    def remove(self, name: str) -> list[str]:
        """End and remove a container, at once; harmless where there is none."""
        return [self.program, "rm", "--force", "--ignore", "--time", "0", "--volumes", name]

    def inspect(self, image: str) -> list[str]:
        """Print facts of a local image as JSON: a list with one object. Fails where it is not there."""
        return [self.program, "image", "inspect", image]

    def load(self, archive: str) -> list[str]:
        """Take images out of a file that `save` has written."""
        return [self.program, "load", "--quiet", "--input", archive]

    def save(self, image: str, archive: str) -> list[str]:
        """Put an image into a file that is not there yet."""
        return [self.program, "save", "--quiet", "--output", archive, image]

    def version(self) -> list[str]:
        """Print podman's version."""
        return [self.program, "version", "--format", "{{.Client.Version}}"]

    def pull(self, image: str, access: Sequence[str] = ()) -> list[str]:
        """Ask the image's registry for it, and fetch what is not here; `access` are words that say as whom."""
        return [self.program, "pull", *access, image]

    def tag(self, image: str, name: str) -> list[str]:
        """Give an image one more name."""
        return [self.program, "tag", image, name]

    def build(self, dockerfile: str, context: str, name: str, id_file: str) -> list[str]:
        """Build an image from absolute paths, name it, and write its id to `id_file`. What is built on is local."""
        return [
            self.program, "build", "--force-rm", "--layers", "--pull=never", "--network=host", "--file", dockerfile,
            "--tag", name, "--iidfile", id_file, context,
        ]  # fmt: skip

    def probe(self, image: str, program: str, arguments: Sequence[str]) -> list[str]:
        """Run one program of an image to see what it prints: without network, and nothing of it stays."""
        words = [self.program, "run", "--rm", "--pull=never", "--log-driver=none", "--network=none"]
        return [*words, "--entrypoint", program, image, *arguments]

    def untag(self, name: str) -> list[str]:
        """Take a name from an image, and the image where that was its last."""
        return [self.program, "image", "rm", name]
