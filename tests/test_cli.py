"""The command line as a user meets it: what is printed, what ends with which code, and nothing with a traceback."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from trainkit.boot.rundir import Lines, RunDir, make_private, publish
from trainkit.cli import app, codes, output

Cli = Callable[..., "Result"]


class Result:
    """What one command printed and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def json(self) -> Any:
        """The printed document."""
        return json.loads(self.out)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    """Runs one command line in this process."""

    def run(*words: str) -> Result:
        capsys.readouterr()
        code = app.main(list(words))
        captured = capsys.readouterr()
        return Result(code, captured.out, captured.err)

    return run


def make_run(root: Path, experiment: str = "birds", number: int = 1, status: str = "Completed", **record: Any) -> str:
    """A run's files as a finished job leaves them; its id."""
    created = 1_700_000_000 + number
    run_id = f"{experiment}_{created}_{number:08x}"
    run = RunDir(make_private(root / "runs" / experiment / run_id))
    publish(run.run, {
        "id": run_id, "experiment": experiment, "type": "azureml.scriptrun", "created": float(created),
        "display_name": run_id, "number": number, "parent": None, "workspace": {"name": "tests", "root": str(root)},
        "target": "local", "script": "train.py", "arguments": ["--lr", "0.1 0.2"], "nodes": 1, "ranks_per_node": 2,
        "spread": "mpi", "tags": {"colour": "red"}, "user": "me", "host": "here", **record,
    })  # fmt: skip
    publish(run.job, {})
    stages = Lines(run.stages)
    for at, stage in enumerate(("Preparing", "Queued", "Running", "Finalizing")):
        stages.append({"time": created + at, "status": stage, "details": ""})
    stages.close()
    verdict = {"kind": "exception", "summary": "rank 1 failed with ValueError: no at train.py:3", "rank": 1}
    publish(run.state, {
        "status": status, "time": created + 9.5, "verdict": verdict if status == "Failed" else None, "ranks": [],
        "attempt": 1,
    })  # fmt: skip
    attempt = run.attempt(1)
    for rank in range(2):
        make_private(attempt.logs)
        attempt.rank_log(rank).write_text(f"hello of {rank}\nbye of {rank}", encoding="utf-8")
        events = Lines(run.events_of(f"rank-{rank}"))
        for value in (0.5, float("nan"), 0.25 + rank):
            events.append({"t": created, "a": 1, "k": "metric", "n": "loss", "v": value})
        events.append({"t": created, "a": 1, "k": "metric", "n": "lr", "v": 0.1})
        events.close()
    return run_id


# --- finding and refusing ---


def test_help_names_every_command_and_each_has_an_example() -> None:
    runner = CliRunner()
    overview = runner.invoke(app.trainkit, ["--help"])
    assert overview.exit_code == 0
    for _, name, _, _ in app._COMMANDS:
        assert re.search(rf"^  {name} ", overview.output, re.MULTILINE)
        page = runner.invoke(app.trainkit, [name, "--help"])
        assert page.exit_code == 0, page.output
        assert "--json" in page.output
        if name not in ("launchers", "doctor", "wait"):
            assert f"trainkit {name}" in page.output, f"{name} has no example"


def test_help_imports_no_command() -> None:
    code = (
        "import sys\nfrom trainkit.cli import app\napp.main(['--help'])\n"
        "print(sorted(m for m in sys.modules if m.startswith(('trainkit.', 'torch', 'rich', 'numpy'))))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = done.stdout.splitlines()[-1]
    assert "trainkit.workspace" not in loaded
    assert "trainkit.cli.runs" not in loaded
    assert "torch" not in loaded


@pytest.mark.parametrize(
    ("words", "code", "part"),
    [
        (["lunchers"], codes.USAGE, "did you mean launchers"),
        (["runs", "--nope"], codes.USAGE, "no such option"),
        (["show"], codes.USAGE, "missing argument 'RUN'"),
        (["show", "nothing"], codes.NOT_FOUND, "There is no run 'nothing'"),
        (["show", ""], codes.NOT_FOUND, "There is no run ''"),
        (["show", "../../etc"], codes.NOT_FOUND, "There is no run"),
        (["show", "last"], codes.NOT_FOUND, "There is no run in"),
        (["logs", "nothing", "--rank", "x"], codes.USAGE, "neither a rank"),
        (["runs", "--experiment", "a/../b"], codes.USAGE, "Experiment name must be"),
        (["models", "show", "nothing"], codes.NOT_FOUND, "nothing"),
        (["models", "show", "birds:x"], codes.USAGE, "NAME:VERSION"),
        (["export", "nothing.pt"], codes.NOT_FOUND, "There is no file"),
        (["predict", "nothing.onnx", "a.jpg"], codes.NOT_FOUND, "There is no file"),
        (["snapshot"], codes.USAGE, "--dry-run"),
        (["snapshot", "nowhere", "--dry-run"], codes.USAGE, "nowhere"),
        (["compute", "show", "nothing"], codes.NOT_FOUND, "There is no compute target"),
        (["compute", "add", "x", "--max-nodes", "0"], codes.USAGE, "0"),
        (["submit", "nowhere.py"], codes.USAGE, "There is no script"),
        (["submit", "nowhere.py", "--ranks", "0"], codes.USAGE, "0"),
    ],
)
def test_bad_input_is_one_line_and_a_code(workspace: Any, cli: Cli, words: list[str], code: int, part: str) -> None:
    result = cli(*words)
    assert (result.code, result.out) == (code, "")
    assert part in result.err
    assert result.err.startswith("trainkit: ")
    assert result.err.count("\n") == 1
    error = json.loads(cli(*words, "--json").err)["error"]
    assert error["exit_code"] == code
    assert part in error["message"]


def test_without_a_workspace_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cli: Cli) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (["runs"], ["submit", "x.py"], ["models"]):
        result = cli(*words)
        assert result.code == codes.USAGE
        assert "trainkit init" in result.err


def test_a_damaged_config_is_one_line(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "config.json").write_text("{")
    result = cli("-w", str(tmp_path), "runs")
    assert result.code == codes.USAGE
    assert result.err.count("\n") == 1


def test_the_real_program_runs(tmp_path: Path) -> None:
    program = str(Path(sys.executable).parent / "trainkit")
    made = subprocess.run([program, "init", str(tmp_path / "pets"), "--json"], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    assert json.loads(made.stdout)["name"] == "pets"
    listed = subprocess.run([program, "runs"], cwd=tmp_path / "pets", capture_output=True, text=True)
    assert (listed.returncode, listed.stdout) == (0, "No runs.\n")
    missing = subprocess.run([program, "show", "x"], cwd=tmp_path / "pets", capture_output=True, text=True)
    assert missing.returncode == codes.NOT_FOUND
    assert "Traceback" not in missing.stderr


def test_a_closed_pipe_is_no_traceback(workspace: Any) -> None:
    for number in range(1, 4):
        make_run(workspace.root, number=number)
    program = str(Path(sys.executable).parent / "trainkit")
    script = f"set -o pipefail; {program} logs last --rank all | true; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.parametrize("settings", [{"PYTHONIOENCODING": "ascii"}, {"PYTHONIOENCODING": "utf-8"}, {"COLUMNS": "1"}])
def test_any_text_is_shown_in_any_alphabet(workspace: Any, settings: dict[str, str]) -> None:
    run_id = make_run(workspace.root, arguments=["\u00e4", "half \ud800"], display_name="\U0001f600")
    (RunDir(workspace.root / "runs" / "birds" / run_id).attempt(1).rank_log(0)).write_bytes(b"\xff\xc3\xa9\n")
    for words in (["show", run_id], ["show", run_id, "--json"], ["runs"], ["logs", run_id], ["logs", run_id, "--json"]):
        command = [sys.executable, "-m", "trainkit.cli", *words]
        done = subprocess.run(command, env={**os.environ, **settings}, capture_output=True)
        assert (done.returncode, done.stderr) == (0, b"")
        if "--json" in words:
            json.loads(done.stdout)


def test_closed_streams_are_no_fault(workspace: Any) -> None:
    make_run(workspace.root)
    code = "import os, sys; os.close(0); os.close(1); os.close(2); os.execv(sys.executable, sys.argv[1:])"
    command = [sys.executable, "-c", code, sys.executable, "-m", "trainkit.cli", "runs"]
    assert subprocess.run(command).returncode == 0


def test_init_makes_a_workspace_once(tmp_path: Path, cli: Cli) -> None:
    folder = tmp_path / "my pets!"
    assert cli("init", str(folder)).code == codes.DONE
    before = (folder / "config.json").read_bytes()
    again = cli("init", str(folder), "--json")
    assert again.code == codes.DONE
    assert (folder / "config.json").read_bytes() == before
    assert again.json["root"] == str(folder / ".trainkit")
    assert cli("init", str(folder), "--name", "other").code == codes.USAGE


# --- runs on disk ---


def test_runs_are_listed_newest_first(workspace: Any, cli: Cli) -> None:
    ids = [make_run(workspace.root, number=n, status=s) for n, s in enumerate(("Completed", "Failed", "Canceled"), 1)]
    other = make_run(workspace.root, experiment="pets", number=9)
    rows = cli("runs", "--json").json
    assert [row["id"] for row in rows] == [other, *reversed(ids)]
    assert [row["status"] for row in rows] == ["Completed", "Canceled", "Failed", "Completed"]
    assert rows[2]["details"].startswith("rank 1 failed")
    assert [row["id"] for row in cli("runs", "-e", "birds", "-s", "failed", "--json").json] == [ids[1]]
    assert len(cli("runs", "-n", "2", "--json").json) == 2
    text = cli("runs", "--metric", "loss").out.splitlines()
    assert text[0].split() == ["RUN", "STATUS", "CREATED", "TOOK", "LOSS", "DETAILS"]
    assert "9.5 s" in text[1]
    assert "0.25" in text[1]


def test_a_run_is_found_by_its_ends_and_by_last(workspace: Any, cli: Cli) -> None:
    ids = [make_run(workspace.root, number=n) for n in (1, 2)]
    assert cli("show", "00000001", "--json").json["id"] == ids[0]
    assert cli("show", ids[0][:-3], "--json").json["id"] == ids[0]
    assert cli("show", "last", "--json").json["id"] == ids[1]
    ambiguous = cli("show", "birds")
    assert ambiguous.code == codes.USAGE
    assert "means 2 runs" in ambiguous.err


def test_show_tells_what_and_why(workspace: Any, cli: Cli) -> None:
    make_run(workspace.root, status="Failed")
    page = cli("show", "last")
    assert page.code == codes.DONE
    for part in ("train.py --lr '0.1 0.2'", "1 node(s) x 2 rank(s), spread mpi", "Finalizing", "colour=red",
                 "rank 1 failed with ValueError"):  # fmt: skip
        assert part in page.out
    value = cli("show", "last", "--json").json
    assert value["verdict"]["rank"] == 1
    assert [stage["status"] for stage in value["stages"]] == ["Preparing", "Queued", "Running", "Finalizing"]


def test_terminal_codes_in_names_are_shown_not_obeyed(workspace: Any, cli: Cli) -> None:
    make_run(workspace.root, tags={"a": "\x1b[2Jgone\nline"})
    assert "\x1b" not in cli("show", "last").out


def test_logs_of_ranks(workspace: Any, cli: Cli) -> None:
    make_run(workspace.root)
    assert cli("logs", "last", "--rank", "0").out == "hello of 0\nbye of 0"
    assert cli("logs", "last", "--rank", "1").out == "hello of 1\nbye of 1"
    both = "[0] hello of 0\n[1] hello of 1\n[0] bye of 0\n[1] bye of 1\n"
    assert cli("logs", "last").out == cli("logs", "last", "-r", "all").out == both
    assert sorted(cli("logs", "last", "--json").json["logs"]) == ["0", "1"]
    assert cli("logs", "last", "--attempt", "1", "--json").json["logs"]["1"] == "hello of 1\nbye of 1"
    assert "its attempts are 1 to 1" in cli("logs", "last", "--attempt", "2").err
    assert cli("logs", "last", "-r", "all", "--json").json["logs"]["1"] == "hello of 1\nbye of 1"
    missing = cli("logs", "last", "--rank", "2")
    assert missing.code == codes.NOT_FOUND
    assert "0 to 1" in missing.err


def test_lines_of_several_ranks_are_folded_and_the_cause_comes_first(workspace: Any, cli: Cli) -> None:
    run = RunDir(workspace.root / "runs" / "birds" / make_run(workspace.root, status="Failed", ranks_per_node=2))
    for rank in range(2):
        run.attempt(1).rank_log(rank).write_text(f"begun\nmine: {rank}\nepoch 1\n")
    first, _, rest = cli("logs", "last").out.partition("\n\n")
    assert first == "[1] first cause: rank 1 failed with ValueError: no at train.py:3"
    assert rest.splitlines()[1:] == ["[0-1 x2] begun", "[0] mine: 0", "[1] mine: 1", "[0-1 x2] epoch 1"]
    plain = cli("logs", "last", "--no-fold").out.splitlines()
    assert sorted(plain[3:]) == sorted(f"[{r}] {line}" for r in range(2) for line in ("begun", f"mine: {r}", "epoch 1"))
    assert "first cause" not in cli("logs", "last", "--rank", "0").out


@pytest.mark.parametrize(("status", "code"), [("Completed", 0), ("Failed", 1), ("Canceled", 4)])
def test_waiting_ends_as_the_run_did(workspace: Any, cli: Cli, status: str, code: int) -> None:
    make_run(workspace.root, status=status)
    for words in (
        ["wait", "last"],
        ["wait", "last", "--json"],
        ["logs", "last", "-f"],
        ["logs", "last", "-f", "--json"],
    ):
        result = cli(*words)
        assert result.code == code, words
    assert ("rank 1 failed" in cli("wait", "last").err) == (status == "Failed")
    assert cli("show", "last").code == codes.DONE


def test_metrics_as_text_and_json(workspace: Any, cli: Cli) -> None:
    make_run(workspace.root)
    value = cli("metrics", "last", "--json").json
    assert value == {"loss": [0.5, "NaN", 0.25], "lr": 0.1}
    assert cli("metrics", "last", "loss").out == "0.5\nnan\n0.25\n"
    assert cli("metrics", "last", "lr").out == "0.1\n"
    assert cli("metrics", "last", "--rank", "all", "--json").json["1"]["loss"][-1] == 1.25
    assert "1  1.25" in cli("metrics", "last", "loss", "--rank", "all").out
    rows = cli("metrics", "last").out.splitlines()
    assert rows[0].split() == ["METRIC", "VALUES", "LAST", "MIN", "MAX"]
    unknown = cli("metrics", "last", "acc")
    assert unknown.code == codes.NOT_FOUND
    assert "loss, lr" in unknown.err


def test_cancelling_what_has_ended_says_so(workspace: Any, cli: Cli) -> None:
    run_id = make_run(workspace.root)
    result = cli("cancel", run_id)
    assert result.code == codes.DONE
    assert "had ended already" in result.out


def test_snapshot_lists_without_taking(workspace: Any, cli: Cli) -> None:
    Path("a\x1b[2J\nb").write_text("x")
    assert "a\\x1b[2J\\nb" in cli("snapshot", "--dry-run").out
    Path("train.py").write_text("print(1)\n")
    Path("__pycache__").mkdir()
    Path("__pycache__/x.pyc").write_text("x")
    found = cli("snapshot", "--dry-run", "--json").json
    assert found["files"]["train.py"] == 9
    assert not any("pycache" in name or ".trainkit" in name for name in found["files"])
    assert any(".trainkit" in words for words in found["left_out"])


# --- how things are printed ---


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (float("nan"), "NaN"),
        ([float("inf"), {"a": -float("inf")}], ["Infinity", {"a": "-Infinity"}]),
        ({1: (True, None, 2)}, {"1": [True, None, 2]}),
        (Path("/a"), "/a"),
    ],
)
def test_json_has_only_what_json_knows(value: Any, expected: Any) -> None:
    assert output.plain(value) == expected


def test_lengths_sizes_and_times() -> None:
    assert [output.span(s) for s in (0.84, 42, 187, 7510)] == ["0.8 s", "42 s", "3:07", "2:05:10"]
    assert [output.size(n) for n in (0, 12_300, 4.5e9)] == ["0 B", "12.3 kB", "4.5 GB"]
    now = time.time()
    assert [output.ago(now - s, now) for s in (5, 180, 7300, 200_000)] == ["5 s ago", "3 min ago", "2 h ago", "2 d ago"]


def test_tables_line_up() -> None:
    text = output.table([["a", 1], ["bcd", 22]], ["name", "count"])
    assert text.splitlines() == ["NAME  COUNT", "a         1", "bcd      22"]
