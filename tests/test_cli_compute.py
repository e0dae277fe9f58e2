"""Compute targets and plug-ins from the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.strangers import moon  # noqa: F401
from trainkit.cli import codes

Run = Callable[..., tuple[int, str, str]]
pytestmark = pytest.mark.usefixtures("moon")


@pytest.fixture
def cli(workspace: Any, command_line: Run) -> Run:
    """The command line, in a workspace of its own."""
    Path("train.py").write_text("print('trained', flush=True)\n")
    return command_line


def options(*pairs: str) -> list[str]:
    return [word for pair in pairs for word in ("--option", pair)]


def test_a_cluster_is_attached_used_and_detached(cli: Run) -> None:
    words = options("crater=Tycho", "hosts=a,b", "hosts=c", "crew=3", "speed=2", "dark=yes", "labels=k=v,l=w",
                    "side=far", "key_file=k", 'rover={"name": "second"}', 'rovers={"name": "a", "wheels": 3}',
                    'rovers={"name": "b"}')  # fmt: skip
    code, out, err = cli("compute", "add", "cluster", "--launcher", "moon", *words)
    assert code == codes.DONE, err
    assert out == "Compute target cluster: the launcher 'moon', as many nodes as the cluster gives.\n"
    shown = json.loads(cli("compute", "show", "cluster", "--json")[1])
    assert shown["options"] == {
        "crater": "Tycho", "hosts": ["a", "b", "c"], "crew": 3, "speed": 2, "dark": True, "side": "far",
        "key_file": str(Path("k").absolute()), "password": "", "labels": {"k": "v", "l": "w"},
        "rover": {"name": "second", "wheels": 4, "token": ""},
        "rovers": [{"name": "a", "wheels": 3, "token": ""}, {"name": "b", "wheels": 4, "token": ""}],
    }  # fmt: skip
    assert (shown["type"], shown["launcher"], shown["scaleSettings"]["maxNodeCount"]) == ("Attached", "moon", None)
    out = cli("compute")[1]
    assert "the launcher 'moon' (crater=Tycho, hosts=a,b,c, crew=3" in out
    assert "rovers=(name=a,wheels=3),(name=b,wheels=4)" in out
    assert "hosts a, b, c" in cli("compute", "show", "cluster")[1]
    code, out, err = cli("submit", "train.py", "-t", "cluster", "--dry-run")
    assert (code, "the launcher 'moon' sends\nto Tycho" in out) == (codes.DONE, True), err
    assert cli("submit", "train.py", "-t", "cluster", "--wait")[0] == codes.DONE
    code, _, err = cli("compute", "delete", "cluster")
    assert (code, "cluster was attached: `trainkit compute detach cluster`" in err) == (codes.USAGE, True)
    assert cli("compute", "detach", "cluster")[0] == codes.DONE
    assert cli("compute", "show", "cluster")[0] == codes.NOT_FOUND


def test_created_targets_are_as_before(cli: Run) -> None:
    assert cli("compute", "add", "small", "--max-nodes", "1", "--launcher", "local")[0] == codes.DONE
    assert "at most 1 node(s)" in cli("compute", "add", "plain", "--max-nodes", "1")[1]
    assert "at most 4 node(s)" in cli("compute", "add", "other", "--vm-size", "NC6", "--idle-seconds", "60")[1]
    listed = {t["name"]: t for t in json.loads(cli("compute", "list", "--json")[1])}
    assert {name: t["launcher"] for name, t in listed.items()} == dict.fromkeys(("small", "plain", "other"), "local")
    assert "NC6 is not mapped" in listed["other"]["words"]
    code, _, err = cli("compute", "detach", "plain")
    assert (code, "plain was created" in err) == (codes.USAGE, True)


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (["--launcher", "sun"], "no launcher named 'sun'; installed are"),
        (["--launcher", "broken"], "a_package_that_nobody_has"),
        (["--launcher", "stone"], "is no launcher: it has no start"),
        (["--launcher", "moon"], "needs the option crater"),
        (["--launcher", "moon", *options("crater")], "it must be KEY=VALUE"),
        (["--launcher", "moon", *options("=x")], "it must be KEY=VALUE"),
        (["--launcher", "moon", *options("crater=x", "crew=two")], "The option crew is 'two'; it is a whole number"),
        (["--launcher", "moon", *options("crater=x", "dark=perhaps")], "it is true or false"),
        (["--launcher", "moon", *options("crater=x", "crater=y")], "given more than once: 'x', 'y'"),
        (["--launcher", "moon", *options("crater=x", "hots=a")], "no option 'hots'; did you mean hosts?"),
        (["--launcher", "moon", *options("crater=x", "password=hunter2")], "Give it by reference"),
        (["--launcher", "moon", *options("crater=x", "labels=k")], "it is KEY=VALUE, or several"),
        (["--launcher", "moon", *options("crater=x", 'rover={"wheel": 1}')], "has no 'wheel'; it has name, wheels"),
        (["--launcher", "moon", *options("crater=x", "rover={}")], "missing 1 required positional argument: 'name'"),
        (["--launcher", "moon", "--vm-size", "x"], "--vm-size describes a target that is created"),
        (options("crater=x"), "--option is for --launcher"),
        (["--max-nodes", "0"], "0 is not in the range"),
    ],
)
def test_what_cannot_be_attached(cli: Run, workspace: Any, words: list[str], part: str) -> None:
    code, out, err = cli("compute", "add", "cluster", *words)
    assert (code, out) == (codes.USAGE, "")
    assert part in err
    assert workspace.compute_targets == {}


def test_a_target_whose_launcher_is_gone_is_still_listed(cli: Run, moon: Path) -> None:  # noqa: F811
    assert cli("compute", "add", "cluster", "--launcher", "moon", *options("crater=x"))[0] == codes.DONE
    (moon / "moonbase-1.0.dist-info" / "entry_points.txt").write_text("[trainkit.launchers]\n")
    code, out, _ = cli("compute")
    assert code == codes.DONE
    assert "There is no launcher named 'moon'" in out
    code, _, err = cli("submit", "train.py", "-t", "cluster")
    assert (code, "There is no launcher named 'moon'" in err) == (codes.USAGE, True)
    assert cli("compute", "detach", "cluster")[0] == codes.DONE


def test_plug_ins_are_listed_with_their_fields_and_faults(cli: Run) -> None:
    rows = {(row["kind"], row["name"]): row for row in json.loads(cli("launchers", "--json")[1])}
    ours, theirs = rows["launcher", "local"], rows["launcher", "moon"]
    assert (ours["distribution"], ours["problem"], ours["words"][:9]) == ("trainkit", None, "Runs jobs")
    assert theirs["words"] == "Runs jobs on the moon, which is this machine."
    fields = {field["name"]: field for field in theirs["fields"]}
    assert fields["crater"] == {"name": "crater", "type": "a text", "required": True, "default": None}
    assert (fields["hosts"]["type"], fields["crew"]["default"]) == ("a list of texts", 2)
    assert fields["rovers"]["type"] == "a list of Rover(name, wheels, token)"
    assert "a_package_that_nobody_has" in rows["launcher", "broken"]["problem"]
    assert {"fork", "mpi", "torchrun"} <= {name for kind, name in rows if kind == "spread"}
    text = cli("launchers")[1]
    assert "launcher broken  (moonbase: brokenbase:Broken)\n    cannot be used: ModuleNotFoundError" in text
    assert "    crew      a whole number, by default 2\n" in text
    assert "    crater    a text, needed\n" in text
