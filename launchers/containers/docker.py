"""Docker, through its command line and whichever daemon that is set to talk to (DOCKER_HOST, its contexts)."""

from __future__ import annotations

from trainkit.job import Container, Inside

from .words import Alike, command_words, run_words


class Docker(Alike):
    """The `docker` command line, version 20.10 or later. The daemon runs as root: containers get the caller's ids."""

    program = "docker"

    def run(self, container: Container, inside: Inside) -> list[str]:
        """Run a container in the foreground with standard input open; nothing of it stays when it has ended."""
        argv = run_words(self.program, container, inside)
        argv += ["--user", f"{inside.uid}:{inside.gid}"]
        if inside.gpus:
            argv += ["--gpus", "all"]  # which of them are the job's, CUDA_VISIBLE_DEVICES says
        return argv + command_words(container, inside)

    def remove(self, name: str) -> list[str]:
        """End and remove a container; fails, harmlessly, where there is none."""
        return [self.program, "rm", "--force", "--volumes", name]

    def save(self, image: str, archive: str) -> list[str]:
        """Put an image into a file, which is overwritten."""
        return [self.program, "save", "--output", archive, image]

    def version(self) -> list[str]:
        """Print the version of the daemon, then the names of its parts; fails where none answers."""
        return [self.program, "version", "--format", "{{.Server.Version}}{{range .Server.Components}} {{.Name}}{{end}}"]

    def build(self, dockerfile: str, context: str, name: str, id_file: str) -> list[str]:
        """Build an image from absolute paths, name it, and write its id to `id_file`. What is built on is local."""
        return [
            self.program, "build", "--force-rm", "--network=host", "--file", dockerfile, "--tag", name,
            "--iidfile", id_file, context,
        ]  # fmt: skip
