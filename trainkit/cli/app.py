"""The program `trainkit`: finds a command's file by its name, and turns every error into one line and an exit code."""

from __future__ import annotations

import importlib
import json
import os
import sys
from typing import Any, NoReturn

import click

from trainkit.cli import codes
from trainkit.errors import TrainkitError

# Section, command, the file that holds it, what `trainkit --help` says. A file is imported when its command is used.
_COMMANDS = (
    ("Run jobs", "init", "setup", "Make this directory a workspace."),
    ("Run jobs", "submit", "submit", "Submit a script as a job."),
    ("Run jobs", "snapshot", "setup", "List what a job would get of a directory."),
    ("Run jobs", "check", "loops", "Compare a loop's first steps on different numbers of ranks."),
    ("Run jobs", "cancel", "runs", "End runs and every process of them."),
    ("Look at runs", "runs", "runs", "List runs, newest first."),
    ("Look at runs", "show", "runs", "Tell all about one run, and why it failed."),
    ("Look at runs", "wait", "logs", "Wait until a run has ended."),
    ("Look at runs", "logs", "logs", "Print what a run printed; -f follows it."),
    ("Look at runs", "shell", "shell", "Open a shell where a rank runs, with its environment."),
    ("Look at runs", "metrics", "results", "Print a run's metrics."),
    ("Look at runs", "verify", "loops", "Prove that a run saw every sample once and its checkpoints are whole."),
    ("Look at runs", "files", "results", "List a run's files."),
    ("Look at runs", "download", "results", "Copy files out of a run."),
    ("Models", "models", "models", "List, show, register, download or delete models."),
    ("Models", "export", "export", "Turn a trained model into one checked ONNX file."),
    ("Models", "predict", "export", "Classify images with an ONNX file."),
    ("This machine", "env", "env", "List, show, build or remove environments: packages and images."),
    ("This machine", "compute", "compute", "Add, list, show, delete or detach compute targets."),
    ("This machine", "launchers", "launchers", "List the launchers and spreads that are installed."),
    ("This machine", "doctor", "machine", "Check that jobs can run here."),
)

_EPILOG = """\
\b
Examples:
  trainkit init
  trainkit submit train.py -- --lr 0.1
  trainkit submit train.py --nodes 1 --ranks 2 --spread mpi --wait -- --lr 0.1
  trainkit runs
  trainkit logs last -f
  trainkit download last outputs/model.pt

A RUN is a run's id, the beginning or the end of one, or `last`. Every command takes --json.
Exit codes: 0 done, 1 the run failed, 2 bad input, 3 not found, 4 canceled, 5 the machine refused, 130 interrupted.
"""


class Commands(click.Group):
    """A group whose commands are imported when they are used."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All names, in the order of the table."""
        return [name for _, name, _, _ in _COMMANDS]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command, from its file."""
        for _, name, module, _ in _COMMANDS:
            if name == cmd_name:
                command: click.Command = getattr(importlib.import_module("trainkit.cli." + module), name)
                return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """As click does, but a name that doesn't exist gets the nearest ones that do."""
        if args and not args[0].startswith("-") and self.get_command(ctx, args[0]) is None:
            import difflib

            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 3, 0.5)
            meant = f"; did you mean {' or '.join(near)}?" if near else "; `trainkit --help` lists them."
            raise click.UsageError(f"there is no command {args[0]!r}{meant}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The table of commands, by section, without importing any."""
        for section in dict.fromkeys(section for section, *_ in _COMMANDS):
            with formatter.section(section):
                formatter.write_dl([(name, words) for of, name, _, words in _COMMANDS if of == section])


@click.command("trainkit", cls=Commands, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "-w",
    "--workspace",
    metavar="PATH",
    help="The workspace's directory or config.json; else it is searched for from the current directory upwards.",
)
@click.version_option(package_name="trainkit", message="trainkit %(version)s")
@click.pass_context
def trainkit(ctx: click.Context, workspace: str | None) -> None:
    """Train PyTorch and fastai models on machines that you own, and keep a record of every run.

    Each command has its own --help.
    """
    ctx.obj = {"workspace": workspace}


def run(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit."""
    arguments = sys.argv[1:] if arguments is None else arguments
    sys.exit(main(arguments))


def main(arguments: list[str]) -> int:
    """Run one command line; the exit code. Every error has become a line on standard error."""
    own = arguments[: arguments.index("--")] if "--" in arguments else arguments
    as_json = "--json" in own
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # what a terminal's alphabet lacks is shown, never an error
            stream.reconfigure(errors="backslashreplace")
    try:
        result: Any = trainkit.main(args=arguments, prog_name="trainkit", standalone_mode=False)
        if sys.stdout is not None:  # None where it was closed by whoever started this
            sys.stdout.flush()
        return result if isinstance(result, int) else codes.DONE
    except click.exceptions.Exit as e:
        return e.exit_code
    except click.UsageError as e:
        help_line = f" See `{e.ctx.command_path} --help`." if e.ctx else ""
        return _report("UsageError", _sentence(e.format_message()) + help_line, codes.USAGE, as_json)
    except click.ClickException as e:
        return _report(type(e).__name__, e.format_message(), codes.USAGE, as_json)
    except (click.Abort, KeyboardInterrupt):
        return _report("Interrupted", "interrupted.", codes.INTERRUPTED, as_json)
    except TrainkitError as e:
        return _report(type(e).__name__, e.message, codes.code_of(e), as_json)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return codes.BROKEN_PIPE
    except OSError as e:
        if os.environ.get("TRAINKIT_DEBUG"):
            raise
        return _report(type(e).__name__, _of_system(e), codes.OUTSIDE, as_json)
    except Exception as e:
        if os.environ.get("TRAINKIT_DEBUG"):
            raise
        words = f"a fault in trainkit: {type(e).__name__}: {e} (TRAINKIT_DEBUG=1 shows where)"
        return _report(type(e).__name__, words, codes.FAULT, as_json)


def _sentence(text: str) -> str:
    text = text[:1].lower() + text[1:] if text[:2].istitle() else text
    return text if text.endswith((".", "?", "!")) else text + "."


def _of_system(error: OSError) -> str:
    where = f"{error.filename}: " if error.filename else ""
    return f"{where}{error.strerror or error}."


def _report(kind: str, message: str, code: int, as_json: bool) -> int:
    if as_json:
        error = {"type": kind, "message": message, "exit_code": code}
        print(json.dumps({"error": error}), file=sys.stderr)
    else:
        print("trainkit: " + message, file=sys.stderr)
    return code
