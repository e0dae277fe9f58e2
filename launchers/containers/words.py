"""The words that docker and podman have in common: podman's command line is docker's, but for what each file says."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.job import Container, Inside


def run_words(program: str, container: Container, inside: Inside) -> list[str]:
    """`PROGRAM run` up to what the engine adds of its own; `command_words` end it.

    Variables are named, never valued: their values come from the environment that the engine's client is started in.
    HOME is the exception, since the client needs its own.
    """
    argv = [program, "run", "--rm", "--interactive", "--name", inside.name]
    for key in sorted(inside.labels):
        argv += ["--label", f"{key}={inside.labels[key]}"]
    # The output of what runs here is in the run's own logs; SELinux would have to relabel all of a workspace.
    argv += ["--pull=never", "--log-driver=none", "--network=host", "--security-opt=label=disable"]
    argv += ["--shm-size", container.shm_size, "--workdir", inside.directory]
    for folder in container.mounts:
        argv += ["--mount", bind(folder)]
    for name in inside.variables:
        argv += ["--env", name]
    return argv + ["--env", "HOME=" + inside.home]


def command_words(container: Container, inside: Inside) -> list[str]:
    """The end of the command line: the user's own arguments, the image, and what runs in it.

    The program takes the place of the image's entrypoint, which might start something else, or be a shell script that
    loses signals.
    """
    return [*container.arguments, "--entrypoint", inside.argv[0], container.image, *inside.argv[1:]]


def bind(folder: str) -> str:
    """The value of `--mount` that shows a folder at its own path; it is a line of CSV, so that any path goes."""
    fields = ["type=bind"]
    for key in ("source", "target"):
        field = f"{key}={folder}"
        quoted = field.replace('"', '""')
        fields.append(f'"{quoted}"' if any(c in field for c in ',"') else field)
    return ",".join(fields)


class Alike:
    """What docker and podman say in the same words; each adds its own."""

    program: str

    def enter(self, name: str, argv: Sequence[str], terminal: bool) -> list[str]:
        """Run something more in a container that runs, as the user that it was started for."""
        return [self.program, "exec", "--interactive", *(["--tty"] if terminal else []), name, *argv]

    def inspect(self, image: str) -> list[str]:
        """Print facts of a local image as JSON: a list with one object. Fails where it is not there."""
        return [self.program, "image", "inspect", image]

    def load(self, archive: str) -> list[str]:
        """Take images out of a file that `save` has written; they keep their ids."""
        return [self.program, "load", "--quiet", "--input", archive]

    def pull(self, image: str, access: Sequence[str] = ()) -> list[str]:
        """Ask the image's registry for it, and fetch what is not here; `access` are words that say as whom."""
        return [self.program, "pull", *access, image]

    def tag(self, image: str, name: str) -> list[str]:
        """Give an image one more name."""
        return [self.program, "tag", image, name]

    def probe(self, image: str, program: str, arguments: Sequence[str]) -> list[str]:
        """Run one program of an image to see what it prints: without network, and nothing of it stays."""
        words = [self.program, "run", "--rm", "--pull=never", "--log-driver=none", "--network=none"]
        return [*words, "--entrypoint", program, image, *arguments]

    def untag(self, name: str) -> list[str]:
        """Take a name from an image, and the image where that was its last."""
        return [self.program, "image", "rm", name]
