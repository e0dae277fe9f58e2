"""Docker, through its command line and whichever daemon that is set to talk to (DOCKER_HOST, its contexts)."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.job import Container, Inside

from .words import command_words, enter_words, run_words


class Docker:
    """The `docker` command line, version 20.10 or later. The daemon runs as root: containers get the caller's ids."""

    program = "docker"

    def run(self, container: Container, inside: Inside) -> list[str]:
        """Run a container in the foreground with standard input open; nothing of it stays when it has ended."""
        argv = run_words(self.program, container, inside)
        argv += ["--user", f"{inside.uid}:{inside.gid}"]
        if inside.gpus:
            argv += ["--gpus", "all"]  # which of them are the job's, CUDA_VISIBLE_DEVICES says
        return argv + command_words(container, inside)

    def enter(self, name: str, argv: Sequence[str], terminal: bool) -> list[str]:
        """Run something more in a container that runs."""
        return enter_words(self.program, name, argv, terminal)

    def remove(self, name: str) -> list[str]:
        """End and remove a container; fails, harmlessly, where there is none."""
        return [self.program, "rm", "--force", "--volumes", name]

    def inspect(self, image: str) -> list[str]:
        """Print facts of a local image as JSON: a list with one object. Fails where it is not there."""
        return [self.program, "image", "inspect", image]

    def load(self, archive: str) -> list[str]:
        """Take images out of a file that `save` has written; they keep their ids."""
        return [self.program, "load", "--quiet", "--input", archive]

    def save(self, image: str, archive: str) -> list[str]:
        """Put an image into a file, which is overwritten."""
        return [self.program, "save", "--output", archive, image]

    def version(self) -> list[str]:
        """Print the version of the daemon, then the names of its parts; fails where none answers."""
        return [self.program, "version", "--format", "{{.Server.Version}}{{range .Server.Components}} {{.Name}}{{end}}"]

    def pull(self, image: str, access: Sequence[str] = ()) -> list[str]:
        """Ask the image's registry for it, and fetch what is not here; `access` are words that say as whom."""
        return [self.program, "pull", *access, image]

    def tag(self, image: str, name: str) -> list[str]:
        """Give an image one more name."""
        return [self.program, "tag", image, name]

    def build(self, dockerfile: str, context: str, name: str, id_file: str) -> list[str]:
        """Build an image from absolute paths, name it, and write its id to `id_file`. What is built on is local."""
        return [
            self.program, "build", "--force-rm", "--network=host", "--file", dockerfile, "--tag", name,
            "--iidfile", id_file, context,
        ]  # fmt: skip

    def probe(self, image: str, program: str, arguments: Sequence[str]) -> list[str]:
        """Run one program of an image to see what it prints: without network, and nothing of it stays."""
        words = [self.program, "run", "--rm", "--pull=never", "--log-driver=none", "--network=none"]
        return [*words, "--entrypoint", program, image, *arguments]

    def untag(self, name: str) -> list[str]:
        """Take a name from an image, and the image where that was its last."""
        return [self.program, "image", "rm", name]
