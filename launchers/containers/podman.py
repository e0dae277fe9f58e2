"""Podman, with or without root: containers are children of the command line itself, there is no daemon."""

from __future__ import annotations

from trainkit.job import Container, Inside

from .words import Alike, command_words, run_words


class Podman(Alike):
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

    def remove(self, name: str) -> list[str]:
        """End and remove a container, at once; harmless where there is none."""
        return [self.program, "rm", "--force", "--ignore", "--time", "0", "--volumes", name]

    def save(self, image: str, archive: str) -> list[str]:
        """Put an image into a file that is not there yet."""
        return [self.program, "save", "--quiet", "--output", archive, image]

    def version(self) -> list[str]:
        """Print podman's version."""
        return [self.program, "version", "--format", "{{.Client.Version}}"]

    def build(self, dockerfile: str, context: str, name: str, id_file: str) -> list[str]:
        """Build an image from absolute paths, name it, and write its id to `id_file`. What is built on is local."""
        return [
            self.program, "build", "--force-rm", "--layers", "--pull=never", "--network=host", "--file", dockerfile,
            "--tag", name, "--iidfile", id_file, context,
        ]  # fmt: skip
