"""trainkit check, verify: is a loop's training the same on any number of ranks, and did a run see what it should."""

from __future__ import annotations

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import click

from trainkit.cli import codes, find, output


def _worlds(ctx: click.Context, parameter: click.Parameter, value: str) -> tuple[int, ...]:
    sizes = tuple(dict.fromkeys(int(word) for word in value.split(",") if word.isdigit() and int(word)))
    if len(sizes) < 2 or len(sizes) != len(value.split(",")):
        raise click.BadParameter(f"{value!r} is no list of two or more different numbers of ranks, such as 1,2,4", ctx)
    return sizes


@click.command()
@click.argument("script")
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED, metavar="[-- ARGUMENT...]")
@click.option("--world", default="1,2,4", show_default=True, callback=_worlds, help="Numbers of ranks to compare.")
@click.option("--steps", type=click.IntRange(1), default=5, show_default=True, help="How many optimizer steps.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), default=600.0, show_default=True,
              help="The most that one world may take.")  # fmt: skip
@output.json_option
def check(
    script: str, arguments: tuple[str, ...], world: tuple[int, ...], steps: int, seconds: float, as_json: bool
) -> int:
    """Compare the first steps of SCRIPT, or of a loop's module:function, on different numbers of ranks.

    Nothing is recorded. Exit code 0: they are the same; 1: they differ, and the first difference is named; 2: SCRIPT
    fails, or trains by no loop.

    \b
    Examples:
      trainkit check train.py -- --lr 0.1
      trainkit check birds.train:build --world 1,3 --steps 10
    """
    from trainkit.loops.checking import command_of, steps_of_world
    from trainkit.loops.divergence import first_divergence

    argv = command_of(script, arguments)
    with tempfile.TemporaryDirectory(prefix="trainkit-check-") as folder:
        worlds = {size: steps_of_world(argv, os.environ, Path(folder), size, steps, seconds) for size in world}
    found = first_divergence(worlds)
    rows = [[size, s.number, len(s.ids), s.loss, s.norm, s.rates[0] if s.rates else None]
            for size, made in worlds.items() for s in made]  # fmt: skip
    value = {"worlds": list(world), "steps": rows, "divergence": dataclasses.asdict(found) if found else None}
    text = output.table(
        [[*row[:3], *(f"{x:.7g}" if isinstance(x, float) else x for x in row[3:])] for row in rows],
        ["ranks", "step", "samples", "loss", "gradient", "rate"],
    )
    if found is None:
        text += "\n\nThe same on " + ", ".join(map(str, world)) + " ranks."
    else:
        text += f"\n\nFirst divergence: {found.quantity} in step {found.step}, {world[0]} and {found.world} ranks: "
        text += found.words + "."
    output.emit(value, as_json, text)
    return codes.DONE if found is None else codes.FAILED


@click.command()
@click.argument("run")
@output.json_option
def verify(run: str, as_json: bool) -> int:
    """Prove from the record of a RUN that each epoch saw every sample exactly once, and that its checkpoints are whole.

    However often it was killed, resumed or given another number of ranks. Exit code 1 where something is wrong.

    \b
    Examples:
      trainkit verify last
    """
    from trainkit.loops.verifying import verify as verified

    path = find.run_dir(find.root(), run)
    found = verified(path)
    value: dict[str, Any] = {"id": path.name, **dataclasses.asdict(found)}
    text = output.fields([
        ("run", path.name),
        ("epochs", found.epochs),
        ("samples", found.samples),
        ("ranks", ", ".join(map(str, found.worlds))),
        ("attempts", ", ".join(map(str, found.attempts))),
        ("checkpoints", found.checkpoints),
    ])  # fmt: skip
    text += "\n\n" + ("\n".join(found.problems) or "Every sample of every epoch was seen exactly once; all is whole.")
    output.emit(value, as_json, text)
    return codes.FAILED if found.problems else codes.DONE
