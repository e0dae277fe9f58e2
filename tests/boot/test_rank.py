"""A rank runs the script as Python would, and its record says how that ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from trainkit.boot.rank import expand
from trainkit.boot.rundir import make_private, read_json
from trainkit.boot.shims import ALONE
from trainkit.testing import make_job, wait_until

ENVIRONMENT = {"RANK": "0", "WORLD_SIZE": "1"}


def run(tmp_path: Path, script: str, *, environment: dict[str, str] | None = None, **values: Any) -> tuple[Any, str]:
    """A rank of a world of one: its record and what it printed."""
    job, attempt = make_job(tmp_path / "run", script, **values)
    env = {
        **os.environ,
        **ENVIRONMENT,
        **(environment or {}),
        "TRAINKIT_RUN_DIR": job.run_dir,
        "TRAINKIT_RUN_ID": job.run_id,
        "TRAINKIT_ATTEMPT": "1",
    }
    done = subprocess.run([sys.executable, "-m", "trainkit.boot.rank"], env=env, timeout=60)
    record = read_json(attempt.rank_record(0))
    status = 128 + getattr(signal, record["signal"]) if record["signal"] else record["exit_code"]
    assert done.returncode == status, "mpirun and torchrun see the same end as the record"
    return record, attempt.rank_log(0).read_text()


def test_the_script_is_main_with_its_own_folder_on_the_path(tmp_path: Path) -> None:
    script = (
        "import sys, os, pickle\n"
        "class Thing: pass\n"
        "assert __name__ == '__main__' and sys.modules['__main__'].Thing is Thing\n"
        "assert isinstance(pickle.loads(pickle.dumps(Thing())), Thing)\n"
        "print(sys.argv[1:], os.path.basename(sys.argv[0]), sys.path[0] == os.getcwd())\n"
    )
    record, log = run(tmp_path, script, arguments=("--lr", "0.1", "a b"))
    assert record["exit_code"] == 0
    assert log == "['--lr', '0.1', 'a b'] train.py True\n"


def test_worker_processes_that_are_spawned_find_the_script(tmp_path: Path) -> None:
    script = (
        "import multiprocessing\n"
        "def double(n): return 2 * n\n"
        "if __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool: print(pool.map(double, [1, 2]))\n"
    )
    record, log = run(tmp_path, script)
    assert (record["exit_code"], log) == (0, "[2, 4]\n")


@pytest.mark.parametrize(
    ("script", "code"),
    [("", 0), ("raise SystemExit", 0), ("import sys; sys.exit(0)", 0), ("import sys; sys.exit(3)", 3),
     ("import sys; sys.exit('no data')", 1), ("import os; os._exit(7)", 7)],
)  # fmt: skip
def test_exit_codes_are_those_of_python(tmp_path: Path, script: str, code: int) -> None:
    record, log = run(tmp_path, script)
    assert (record["exit_code"], record["signal"]) == (code, None)
    assert ("no data" in log) == ("no data" in script)


def test_an_exception_is_recorded_with_the_users_own_line(tmp_path: Path) -> None:
    script = "import json\ndef load():\n    return json.loads('{')\nload()\n"
    record, log = run(tmp_path, script)
    assert record["exception"] == "json.decoder.JSONDecodeError"
    assert Path(record["file"]).name == "train.py"
    assert (record["line"], record["function"]) == (3, "load")
    assert "trainkit/boot" not in log and log.rstrip().endswith(record["message"])


def test_a_chain_of_exceptions_is_shown_whole(tmp_path: Path) -> None:
    script = "try:\n    {}['a']\nexcept KeyError as e:\n    raise ValueError('no a') from e\n"
    record, log = run(tmp_path, script)
    assert (record["exception"], record["line"]) == ("ValueError", 4)
    assert "KeyError: 'a'" in log and "direct cause" in log


def test_a_signal_is_recorded_with_the_line_that_python_was_at(tmp_path: Path) -> None:
    record, log = run(tmp_path, "import ctypes\ndef crash():\n    ctypes.string_at(0)\ncrash()\n")
    assert (record["signal"], record["line"], record["function"]) == ("SIGSEGV", 3, "crash")
    assert "Segmentation fault" in log


def test_a_signal_on_a_full_disk_is_recorded(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "run", "import ctypes\nctypes.string_at(0)\n")
    make_private(attempt.logs)
    attempt.rank_log(0).symlink_to("/dev/full")
    env = {"TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_RUN_ID": job.run_id, "TRAINKIT_ATTEMPT": "1"}
    subprocess.run([sys.executable, "-m", "trainkit.boot.rank"], env={**os.environ, **ENVIRONMENT, **env}, timeout=60)
    record = read_json(attempt.rank_record(0)) or {}
    assert (record["signal"], record["line"]) == ("SIGSEGV", 2)


def test_a_threads_exception_fails_nothing_by_itself(tmp_path: Path) -> None:
    script = (
        "import threading\ndef work():\n    raise KeyError('t')\n"
        "t = threading.Thread(target=work)\nt.start(); t.join()\n"
    )
    record, log = run(tmp_path, script)
    assert record["exit_code"] == 0
    assert [(t["exception"], t["line"]) for t in record["threads"]] == [("KeyError", 3)]
    assert "KeyError" in log


def test_what_a_script_leaves_running_is_ended(tmp_path: Path) -> None:
    script = "import subprocess\nprint(subprocess.Popen(['setsid', 'sleep', '300']).pid)\n"
    record, log = run(tmp_path, script)
    assert record["exit_code"] == 0
    assert not Path(f"/proc/{int(log)}").exists()


def test_arguments_are_expanded_from_the_ranks_environment_and_by_no_shell(tmp_path: Path) -> None:
    script = "import sys; print(sys.argv[1:])"
    arguments = ("$RANK", "r${LOCAL_RANK}", "$NO_SUCH", "$(touch evil)", "; touch evil", "`touch evil`")
    record, log = run(tmp_path, script, arguments=arguments)
    assert log == str(["0", "r0", *arguments[2:]]) + "\n"
    assert not (tmp_path / "run" / "code" / "evil").exists()


def test_a_command_runs_once_with_the_interpreter_as_python(tmp_path: Path) -> None:
    command = ("python", "-c", "import os, sys; print(sys.executable, os.environ['NODE_RANK'])")
    record, log = run(tmp_path, "", command=command)
    assert record["exit_code"] == 0
    assert log == f"{sys.executable} 0\n"


def test_a_world_of_another_size_is_refused(tmp_path: Path) -> None:
    job, attempt = make_job(tmp_path / "run", "", ranks_per_node=2)
    env = {**os.environ, **ENVIRONMENT, "TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_ATTEMPT": "1"}
    assert subprocess.run([sys.executable, "-m", "trainkit.boot.rank"], env=env, stderr=-3).returncode == 1
    assert "asked for a world of 2" in read_json(attempt.rank_record(0))["message"]


def test_a_huge_message_still_fits_its_record(tmp_path: Path) -> None:
    record, _ = run(tmp_path, "raise ValueError('x' * 10_000_000)")
    assert record["exception"] == "ValueError" and 1000 < len(record["message"]) < 100_000


def test_a_huge_message_of_wide_characters_still_fits_its_record(tmp_path: Path) -> None:
    script = (
        "import threading\n"
        "def work(): raise OSError('\\U0001F600' * 100_000)\n"
        "for n in range(4):\n    t = threading.Thread(target=work); t.start(); t.join()\n"
        "raise ValueError('\\U0001F600' * 100_000)\n"
    )
    record, _ = run(tmp_path, script)
    assert (record["exception"], record["line"], len(record["threads"])) == ("ValueError", 5, 4)


@pytest.mark.parametrize(
    ("script", "exit_code"),
    [
        ("sys.exit(2 ** 100)", 255),
        ("sys.exit(-1)", 255),
        ("sys.exit('\\udcff')", 1),
        ("class Mute:\n    def __str__(self): raise RuntimeError\nsys.exit(Mute())", 1),
        ("class Own(SystemExit): pass\nraise Own(7)", 7),
        ("if os.fork() == 0: sys.exit(4)\nos.wait(); sys.exit(6)", 6),
        ("if os.fork() == 0: raise ValueError('a child')\nos.wait()", 0),
        ("os.close(1); os.close(2)", 0),
    ],
)
def test_the_exit_code_is_the_one_that_python_gives(tmp_path: Path, script: str, exit_code: int) -> None:
    record, _ = run(tmp_path, "import os, sys\n" + script)
    assert (record["exit_code"], record.get("exception")) == (exit_code, None)
    (tmp_path / "plain.py").write_text("import os, sys\n" + script)
    assert subprocess.run([sys.executable, tmp_path / "plain.py"], stderr=-3).returncode == exit_code


@pytest.mark.parametrize(
    ("script", "exception"),
    [
        ("sys.stdout = sys.stderr = None\nraise ValueError", "ValueError"),
        ("sys.stderr = object()\nraise ValueError", "ValueError"),
        ("os.close(1); os.close(2)\nraise ValueError", "ValueError"),
        ("class Own(BaseException): pass\nraise Own", "Own"),
        ("class Mute(Exception):\n    def __str__(self): raise SystemExit\nraise Mute", "Mute"),
        ("raise type('Odd', (Exception,), {'__module__': None})", "Odd"),
        ("import shutil\nos.mkdir('x'); os.chdir('x'); shutil.rmtree('.', True); os.rmdir(os.path.abspath('.'))\n"
         "exec(compile('raise KeyError(1)', 'relative.py', 'exec'))", "KeyError"),
        ("import threading as t\nt.Thread(target=t.Event().wait, args=(600,)).start()\nraise KeyError", "KeyError"),
        ("def again(): again()\nagain()", "RecursionError"),
    ],
)  # fmt: skip
def test_an_exception_is_recorded_however_the_script_went_about_it(tmp_path: Path, script: str, exception: str) -> None:
    record, _ = run(tmp_path, "import os, sys\n" + script)
    assert (record["exit_code"], record["exception"]) == (1, exception)
    assert exception in record["traceback"]


def test_a_crash_is_not_blamed_on_what_a_forked_child_raised(tmp_path: Path) -> None:
    script = "import os\nif os.fork() == 0: raise ValueError('a child')\nos.wait()\nos.abort()\n"
    record, _ = run(tmp_path, script)
    assert (record["signal"], record.get("exception"), record["line"]) == ("SIGABRT", None, 4)


def test_unknown_names_stay_as_they_are() -> None:
    assert expand("$A-${B}$C$$", {"A": "1", "B": "2"}) == "1-2$C$$"
    assert json.loads(expand('{"a": "$A"}', {"A": "x"})) == {"a": "x"}


def test_who_is_told_to_be_alone_waits_for_nobody(tmp_path: Path) -> None:
    script = "import time; open('../begun', 'w').close(); time.sleep(600)"
    job, attempt = make_job(tmp_path / "run", script, ranks_per_node=2, grace_seconds=600.0)
    told = {"TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_RUN_ID": job.run_id, "TRAINKIT_ATTEMPT": "1"}
    place = {"RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"}
    shim = subprocess.Popen([sys.executable, "-m", "trainkit.boot.rank"], env={**os.environ, **place, **told})
    try:
        wait_until((tmp_path / "run" / "begun").exists, 30, "the script's beginning")
        shim.send_signal(signal.SIGTERM)
        wait_until(attempt.rank_record(0).exists, 30, "the record")
        assert shim.poll() is None, "the others may yet save their state"
        shim.send_signal(ALONE)
        assert shim.wait(30) == 128 + signal.SIGTERM
    finally:
        shim.kill()
        shim.wait()


_ASKED_BEFORE = """
import os, signal, sys
from trainkit.boot import rank
requests = [signal.%s]
os.register_at_fork(before=lambda: requests and os.kill(os.getpid(), requests.pop()))
sys.exit(rank.main())
"""


@pytest.mark.parametrize("request_to_end", ["SIGTERM", "SIGINT"])
def test_a_request_to_end_that_comes_before_the_script_is_passed_on_to_it(tmp_path: Path, request_to_end: str) -> None:
    job, attempt = make_job(tmp_path / "run", "import time; time.sleep(600)", grace_seconds=600.0)
    told = {"TRAINKIT_RUN_DIR": job.run_dir, "TRAINKIT_RUN_ID": job.run_id, "TRAINKIT_ATTEMPT": "1"}
    shim = [sys.executable, "-c", _ASKED_BEFORE % request_to_end]
    done = subprocess.run(shim, env={**os.environ, **ENVIRONMENT, **told}, timeout=60)
    record = read_json(attempt.rank_record(0)) or {}
    assert (done.returncode, record["signal"], record["asked_to_end"]) == (128 + signal.SIGTERM, "SIGTERM", True)


def test_a_script_blocks_no_signal_that_its_starter_does_not(tmp_path: Path) -> None:
    _, log = run(tmp_path, "import signal; print(signal.pthread_sigmask(signal.SIG_BLOCK, []))")
    assert log == "set()\n"
