"""The in-job run: what may be logged, by whom, and what survives."""

from __future__ import annotations

import decimal
import enum
import json
import math
import multiprocessing
import os
import pickle
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from trainkit import events
from trainkit.boot.context import RunContext
from trainkit.boot.files import checked_name
from trainkit.boot.ranks import Rank
from trainkit.boot.rundir import RunDir, publish
from trainkit.boot.values import scalar
from trainkit.errors import RunEnvironmentException, UserErrorException

QUICK = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def run_dir(tmp_path: Path) -> RunDir:
    """A run's directory as a submit leaves it, with the little that the in-job run needs."""
    run = RunDir(tmp_path / "runs" / "exp" / "exp_1_00000000")
    publish(run.run, {"id": "exp_1_00000000", "experiment": "exp", "type": "azureml.scriptrun", "created": 1.0})
    return run


def of_rank(run: RunDir, rank: int = 0, size: int = 1, attempt: int = 1) -> RunContext:
    """The context that a rank gets."""
    return RunContext(run.path, f"rank-{rank}", attempt, Rank(rank, size, rank, size))


def same(a: Any, b: Any) -> bool:
    return a == b or (isinstance(a, float) and isinstance(b, float) and math.isnan(a) and math.isnan(b))


SCALARS = st.one_of(
    st.floats(), st.integers(-(10**40), 10**40), st.booleans(), st.text(max_size=50),
    st.sampled_from([1e308, -1e308, 5e-324, math.inf, -math.inf, math.nan, "", "\ud800", "\n", "\u2028"]),
)  # fmt: skip
ANY_TEXT = st.text(st.characters(), min_size=1, max_size=60)  # half surrogate pairs and control characters included


@QUICK
@given(st.lists(st.tuples(ANY_TEXT, SCALARS), max_size=20))
def test_every_metric_is_read_as_it_was_logged(tmp_path: Path, logged: list[tuple[str, Any]]) -> None:
    run = RunDir(tmp_path / os.urandom(4).hex())
    context = of_rank(run)
    expected: dict[str, list[Any]] = {}
    for name, value in logged:
        context.log(name, value)
        expected.setdefault(name, []).append(value)
    found = events.metrics(run.path)
    assert found.keys() == expected.keys()
    for name, values in expected.items():
        got = found[name] if len(values) > 1 else [found[name]]
        assert len(got) == len(values) and all(map(same, got, values))
        assert [type(v) for v in got] == [type(v) for v in values]


@QUICK
@given(st.dictionaries(ANY_TEXT, st.one_of(st.none(), SCALARS), max_size=8))
def test_every_tag_and_property_is_read_as_text(tmp_path: Path, given_tags: dict[str, Any]) -> None:
    run = RunDir(tmp_path / os.urandom(4).hex())
    context = of_rank(run)
    context.set_tags(given_tags)
    context.add_properties(given_tags)
    expected = {key: None if value is None else str(value) for key, value in given_tags.items()}
    assert events.tags(run.path) == expected
    assert events.properties(run.path) == expected


@QUICK
@given(st.text(st.characters() | st.sampled_from("/.~\\\0"), max_size=300) | st.just("a/" * 600 + "b"))
def test_any_file_name_is_stored_inside_the_run_or_refused(tmp_path: Path, name: str) -> None:
    run = RunDir(tmp_path / os.urandom(4).hex())
    source = tmp_path / "source"
    source.write_bytes(b"content")
    try:
        of_rank(run).upload_file(name, source)
    except UserErrorException as error:
        assert error.message
    else:
        kept = [p for p in run.path.rglob("*") if p.is_file() and p.read_bytes() == b"content"]
        assert len(kept) == 1 and run.path in kept[0].resolve().parents
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["source"]


@pytest.mark.parametrize(
    "name",
    ["", "/etc/passwd", "../x", "a/../../x", "..", "a/..", ".", "./", "a/", "a\0b", "\ud800", 7, None, "x" * 256],
)
def test_impossible_file_names_get_one_clear_error(name: Any) -> None:
    with pytest.raises(UserErrorException, match="cannot name a file of a run"):
        checked_name(name)


def test_numpy_values_are_logged(run_dir: RunDir) -> None:
    np = pytest.importorskip("numpy")
    context = of_rank(run_dir)
    for value in (np.float32(0.5), np.float64(0.5), np.float16(0.5), np.array(0.5), np.array([[0.5]])):
        context.log("half", value)
    context.log("count", np.int64(3))
    context.log("yes", np.bool_(True))
    context.log("text", np.str_("abc"))
    context.log("long", np.longdouble("0.25"))
    context.log_list("list", np.arange(3))
    context.log_table("table", {"x": np.arange(2), "y": [1.5, np.float32(2.5)]})
    found = events.metrics(run_dir.path)
    assert found["half"] == [0.5] * 5
    assert (found["count"], found["yes"], found["text"], found["long"]) == (3, True, "abc", 0.25)
    assert found["list"] == [0, 1, 2]
    assert found["table"] == {"x": [0, 1], "y": [1.5, 2.5]}
    for value in (np.arange(2), np.zeros(0), np.complex64(1j), np.datetime64("2020-01-01")):
        with pytest.raises(UserErrorException, match="cannot be logged"):
            context.log("x", value)


def test_tensors_are_logged(run_dir: RunDir) -> None:
    torch = pytest.importorskip("torch")
    context = of_rank(run_dir)
    values = [torch.tensor(0.5), torch.tensor([0.5]), torch.tensor([[0.5]], dtype=torch.bfloat16),
              torch.tensor(0.5, requires_grad=True) * 1]  # fmt: skip
    for value in values:
        context.log("half", value)
    context.log("count", torch.tensor(3))
    context.log("step", 1, step=torch.tensor(7))
    context.log_list("list", torch.arange(3))
    found = events.metrics(run_dir.path)
    assert found["half"] == [0.5] * 4
    assert found["count"] == 3
    assert found["list"] == [0, 1, 2]
    assert [p.step for p in events.points(run_dir.path, "step")] == [7]
    with pytest.raises(UserErrorException, match="it has 2 elements"):
        context.log("x", torch.zeros(2))
    with pytest.raises(UserErrorException, match="its value cannot be read"):
        context.log("x", torch.zeros(1, device="meta"))


class Colour(enum.IntEnum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "plain"), [(Colour.RED, 1), (decimal.Decimal("0.5"), 0.5), (10**30, 10**30), (True, True), ("", "")]
)
def test_other_values_become_plain(value: Any, plain: Any) -> None:
    assert scalar("x", value) == plain
    assert type(scalar("x", value)) is type(plain)


@pytest.mark.parametrize(
    "value", [None, [1], (1, 2), {}, {1}, b"x", 1j, object(), len, pytest.param(1 << 20000, id="huge")]
)
def test_what_is_not_one_value_is_refused(run_dir: RunDir, value: Any) -> None:
    with pytest.raises(UserErrorException, match="'x' cannot be logged"):
        of_rank(run_dir).log("x", value)
    assert events.metrics(run_dir.path) == {}


@pytest.mark.parametrize("name", ["", None, 3, b"x"])
def test_metric_names_are_texts(run_dir: RunDir, name: Any) -> None:
    with pytest.raises(UserErrorException, match="metric's name"):
        of_rank(run_dir).log(name, 1)


def test_rows_and_tables_are_columns(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    context.log_row("rows", x=1, y=2.0)
    assert events.metrics(run_dir.path)["rows"] == {"x": 1, "y": 2.0}
    context.log_row("rows", x=2, z="late")
    assert events.metrics(run_dir.path)["rows"] == {"x": [1, 2], "y": [2.0, None], "z": [None, "late"]}
    context.log_table("table", {"a": [1, 2], "b": [3, 4]}, description="two")
    context.log_list("one", [5])
    found = events.metrics(run_dir.path)
    assert found["table"] == {"a": [1, 2], "b": [3, 4]}
    assert found["one"] == [5]
    with pytest.raises(UserErrorException, match="differ in length"):
        context.log_table("bad", {"a": [1], "b": [1, 2]})
    with pytest.raises(UserErrorException, match="not a list"):
        context.log_list("bad", "text")
    with pytest.raises(UserErrorException, match="no columns"):
        context.log_row("bad")


def test_images_of_files_and_figures_are_kept(run_dir: RunDir, tmp_path: Path) -> None:
    Image = pytest.importorskip("PIL.Image")
    picture = Image.new("RGB", (4, 4))
    picture.save(tmp_path / "given.jpg")
    context = of_rank(run_dir)
    context.log_image("Loss / epoch", plot=picture)
    context.log_image("photo", path=str(tmp_path / "given.jpg"))
    context.log_image("photo", path=tmp_path / "given.jpg")
    of_rank(run_dir, 1, 2).log_image("photo", path=tmp_path / "given.jpg")
    found = events.metrics(run_dir.path)
    assert found == {"Loss / epoch": "images/Loss_epoch_1.png", "photo": ["images/photo_1.jpg", "images/photo_2.jpg"]}
    assert Image.open(run_dir.uploads / found["Loss / epoch"]).size == (4, 4)
    assert events.metrics(run_dir.path, 1) == {"photo": "images/rank-1/photo_1.jpg"}
    for bad in ({}, {"path": "x", "plot": picture}, {"plot": 3}, {"path": tmp_path / "missing.png"}):
        with pytest.raises(UserErrorException):
            context.log_image("bad", **bad)


def test_confusion_matrices_are_kept_as_they_are(run_dir: RunDir) -> None:
    matrix = {"schema_type": "confusion_matrix", "schema_version": "v1", "data": {"matrix": [[1, 2], [3, 4]]}}
    context = of_rank(run_dir)
    context.log_confusion_matrix("dict", matrix)
    context.log_confusion_matrix("text", json.dumps(matrix))
    context.log_residuals("residuals", {**matrix, "schema_type": "residuals"})
    assert events.metrics(run_dir.path)["dict"] == matrix == events.metrics(run_dir.path)["text"]
    with pytest.raises(UserErrorException, match="log it with log_residuals"):
        context.log_predictions("wrong", {**matrix, "schema_type": "residuals"})
    for bad in ("{", {"data": 3}, [1], {"data": {"x": object()}}, {**matrix, "schema_type": "picture"}):
        with pytest.raises(UserErrorException):
            context.log_confusion_matrix("bad", bad)


def test_each_rank_keeps_its_own_metrics(run_dir: RunDir) -> None:
    for rank in range(3):
        of_rank(run_dir, rank, 3).log("loss", rank)
    RunContext(run_dir.path).log("note", "client")
    assert events.metrics(run_dir.path) == {"loss": 0, "note": "client"}
    assert events.metrics(run_dir.path, 2) == {"loss": 2}
    assert events.metrics(run_dir.path, "all") == {0: {"loss": 0, "note": "client"}, 1: {"loss": 1}, 2: {"loss": 2}}


def test_a_file_of_all_ranks_is_stored_once_and_is_rank_0s(run_dir: RunDir, tmp_path: Path) -> None:
    ranks = [of_rank(run_dir, rank, 3) for rank in range(3)]
    for context in (ranks[1], ranks[2], ranks[0]):
        source = tmp_path / f"rank-{context.rank}.txt"
        source.write_text(f"of rank {context.rank}")
        context.upload_file("all.txt", source)
    assert (run_dir.uploads / "all.txt").read_text() == "of rank 0"
    for context in ranks:
        with pytest.raises(UserErrorException, match="stored once"):
            context.upload_file("all.txt", __file__)
    again = of_rank(run_dir, 0, 3, attempt=2)
    again.upload_file("all.txt", __file__)
    assert (run_dir.uploads / "all.txt").read_bytes() == Path(__file__).read_bytes()


def test_uploading_what_is_in_outputs_already_changes_nothing(run_dir: RunDir, tmp_path: Path) -> None:
    run_dir.outputs.mkdir(parents=True)
    (run_dir.outputs / "model.pt").write_text("weights")
    context = of_rank(run_dir)
    context.upload_file("outputs/model.pt", run_dir.outputs / "model.pt")
    (tmp_path / "other.pt").write_text("others")
    with pytest.raises(UserErrorException, match="already"):
        context.upload_file("outputs/model.pt", tmp_path / "other.pt")
    assert (run_dir.outputs / "model.pt").read_text() == "weights"


def test_folders_are_uploaded_whole_or_not_at_all(run_dir: RunDir, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    (folder / "deep").mkdir(parents=True)
    (folder / "a.txt").write_text("a")
    (folder / "deep" / "b.txt").write_text("b")
    context = of_rank(run_dir)
    context.upload_folder("kept", str(folder))
    assert (run_dir.uploads / "kept" / "deep" / "b.txt").read_text() == "b"
    with pytest.raises(UserErrorException):
        context.upload_files(["one", "../two"], [folder / "a.txt", folder / "a.txt"])
    with pytest.raises(UserErrorException):
        context.upload_files(["one", "two"], [folder / "a.txt", folder / "missing"])
    assert not (run_dir.uploads / "one").exists()
    with pytest.raises(UserErrorException, match="no such folder"):
        context.upload_folder("kept", tmp_path / "missing")


def test_a_property_is_written_once(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    context.add_properties({"seed": 1, "x" * 300: "long"})
    context.add_properties({"seed": 1})
    with pytest.raises(UserErrorException, match="'1' already"):
        context.add_properties({"seed": 2})
    for rank in range(1, 3):  # each has its own value: the first one's counts, and nobody fails
        of_rank(run_dir, rank, 3).add_properties({"host": f"node-{rank}", "seed": 1})
    assert events.properties(run_dir.path) == {"seed": "1", "x" * 300: "long", "host": "node-1"}


def test_tags_of_all_writers_are_merged_in_time(run_dir: RunDir) -> None:
    for rank in range(2):
        of_rank(run_dir, rank, 2).tag("stage", "training")
    client = RunContext(run_dir.path)
    client.set_tags({"stage": "checked", "by": "me"})
    client.remove_tags("by")
    assert events.tags(run_dir.path) == {"stage": "checked"}
    for bad in ({"": 1}, {3: 1}, "text"):
        with pytest.raises(UserErrorException):
            client.set_tags(bad)  # type: ignore[arg-type]


def test_threads_and_forked_children_share_a_writer(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    context.log("before", 1)

    def work(offset: int) -> None:
        for n in range(500):
            context.log("n", offset + n)

    threads = [threading.Thread(target=work, args=(1000 * t,)) for t in range(4)]
    child = multiprocessing.get_context("fork").Process(target=work, args=(9000,))
    child.start()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    child.join()
    assert child.exitcode == 0
    expected = sorted(n + offset for offset in (0, 1000, 2000, 3000, 9000) for n in range(500))
    assert sorted(events.metrics(run_dir.path)["n"]) == expected


SCRIPT = """
import os, signal, sys
from trainkit.boot.context import RunContext
run = RunContext.get_context()
assert run is RunContext.get_context()
for n in range(1000):
    run.log("n", n)
os.kill(os.getpid(), signal.SIGKILL)
"""


def python(script: str, environment: dict[str, str], *options: str) -> subprocess.CompletedProcess[str]:
    """Run a script in a process of its own."""
    command = [sys.executable, *options, "-c", script]
    return subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=60)


def test_what_was_logged_survives_the_kill_of_the_process(run_dir: RunDir) -> None:
    environment = {"TRAINKIT_RUN_DIR": str(run_dir.path), "TRAINKIT_RANK": "2", "TRAINKIT_WORLD_SIZE": "3",
                   "TRAINKIT_ATTEMPT": "1"}  # fmt: skip
    assert python(SCRIPT, environment).returncode == -9
    assert events.metrics(run_dir.path, 2) == {"n": list(range(1000))}


def test_a_torn_line_is_passed_over_and_ended_by_the_next_writer(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    context.log("n", 1)
    with open(run_dir.events_of("rank-0"), "ab") as file:
        file.write(b'{"t": 2, "k": "metric", "n": "n", "v": [1, 2')
    assert events.metrics(run_dir.path) == {"n": 1}
    of_rank(run_dir).log("n", 3)
    assert events.metrics(run_dir.path) == {"n": [1, 3]}


def test_outside_a_job_there_is_no_run(run_dir: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRAINKIT_RUN_DIR", raising=False)
    with pytest.raises(RunEnvironmentException, match="not part of a job"):
        RunContext.get_context()
    monkeypatch.setenv("TRAINKIT_RUN_DIR", str(tmp_path / "gone"))
    with pytest.raises(RunEnvironmentException, match="does not exist"):
        RunContext.get_context()


def test_in_a_job_complete_and_fail_only_flush(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    with context as run:
        run.log("x", 1)
    context.fail("reason", error_code=3)
    assert not run_dir.state.exists()
    assert events.metrics(run_dir.path) == {"x": 1}


def test_only_the_standard_library_is_imported(run_dir: RunDir) -> None:
    script = """
import sys
before = set(sys.modules)
from trainkit.boot.context import RunContext
RunContext.get_context().log("x", 1)
names = {name.partition(".")[0] for name in set(sys.modules) - before} - set(sys.stdlib_module_names)
assert names <= {"trainkit"}, names
try:
    RunContext.get_context().get_metrics()
except AttributeError as error:
    assert "install trainkit" in str(error)
"""
    done = python(script, {"TRAINKIT_RUN_DIR": str(run_dir.path)})
    assert done.returncode == 0, done.stderr


def test_secrets_come_from_the_environment(run_dir: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGISTRY_PASSWORD", "hush")
    context = of_rank(run_dir)
    assert context.get_secret("registry-password") == "hush"
    assert context.get_secrets(["REGISTRY_PASSWORD"]) == {"REGISTRY_PASSWORD": "hush"}
    with pytest.raises(UserErrorException, match="no secret 'missing-one'"):
        context.get_secret("missing-one")


def test_a_worker_process_may_be_handed_the_run(run_dir: RunDir) -> None:
    copy = pickle.loads(pickle.dumps(of_rank(run_dir, 1, 2)))
    copy.log("x", 1)
    assert (copy.rank, copy.world_size) == (1, 2)
    assert events.metrics(run_dir.path, 1) == {"x": 1}


def starts(interpreter: str) -> bool:
    """Whether this is a Python, and not a stand-in for one that is switched off."""
    return subprocess.run([interpreter, "-c", ""], capture_output=True).returncode == 0


def test_the_oldest_python_of_a_job_can_record(run_dir: RunDir) -> None:
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    named = [path for path in map(shutil.which, ("python3.8", "python3.9")) if path]
    older = [path for path in [*map(str, sorted(versions.glob("3.[89].*/bin/python3"))), *named] if starts(path)]
    if not older:
        pytest.skip("no Python 3.8 or 3.9 on this machine")
    script = """
from trainkit.boot.context import RunContext
run = RunContext.get_context()
run.log("x", 0.5, step=1)
run.tag("k", "v")
run.add_properties({"p": 1})
run.upload_file("f.txt", __import__("io").StringIO("text"))
run.flush()
"""
    environment = {"TRAINKIT_RUN_DIR": str(run_dir.path), "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([older[0], "-c", script], env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert events.metrics(run_dir.path) == {"x": 0.5}
    assert (run_dir.uploads / "f.txt").read_text() == "text"


def test_what_was_logged_is_forced_onto_the_disk_without_a_word(run_dir: RunDir) -> None:
    context = of_rank(run_dir)
    for n in range(2):  # the background thread goes on after its first round
        context.log("x", n)
        deadline = time.monotonic() + 30
        while context._events._waiting:
            assert time.monotonic() < deadline, "nothing forces the lines onto the disk"
            time.sleep(0.02)
