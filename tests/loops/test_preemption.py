"""Signals that ask for the end: noted while training, and nobody else's business before, after and elsewhere."""

from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from trainkit.loops import preemption as preemption_module
from trainkit.loops.checkpoints import load
from trainkit.loops.preemption import EXIT_CODE, SIGNALS, Preempted, Preemption


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    """Those of the tests' own process are left as they were, whatever a test does."""
    before = {number: signal.getsignal(number) for number in SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize("number", SIGNALS)
def test_it_takes_a_note_and_gives_the_signal_back(number: signal.Signals) -> None:
    heard: list[int] = []
    signal.signal(number, lambda *_: heard.append(1))
    with Preemption() as preemption:
        assert not preemption.asked
        for _ in range(3):
            send(number)
            assert preemption.asked
        assert heard == []
    send(number)
    assert heard == [1]


def test_it_is_given_back_after_an_error_and_also_twice_over() -> None:
    before = [signal.getsignal(number) for number in SIGNALS]
    with pytest.raises(KeyError), Preemption() as outer, Preemption() as inner:
        send(signal.SIGTERM)
        assert inner.asked and not outer.asked
        raise KeyError
    assert [signal.getsignal(number) for number in SIGNALS] == before
    again = Preemption()
    with again:
        pass
    with again:
        send(signal.SIGTERM)
    assert again.asked and [signal.getsignal(number) for number in SIGNALS] == before


def test_one_that_is_ignored_stays_ignored_and_one_that_was_taken_over_stays_so() -> None:
    signal.signal(signal.SIGUSR1, signal.SIG_IGN)
    with Preemption() as preemption:
        send(signal.SIGUSR1)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # the user's own code, in the middle of training
    assert not preemption.asked
    assert signal.getsignal(signal.SIGUSR1) == signal.getsignal(signal.SIGTERM) == signal.SIG_IGN


def test_in_another_thread_it_never_asks_and_touches_nothing() -> None:
    found: list[object] = []

    def train() -> None:
        before = signal.getsignal(signal.SIGTERM)
        with Preemption() as preemption:
            found.extend([preemption.asked, signal.getsignal(signal.SIGTERM) == before])

    thread = threading.Thread(target=train)
    thread.start()
    thread.join()
    assert found == [False, True]


def test_a_forked_child_ends_when_it_is_asked_as_it_would_have_before() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with Preemption(), Preemption() as preemption:
        child = os.fork()
        if child == 0:
            os.kill(os.getpid(), signal.SIGTERM)
            os._exit(3)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM
        assert not preemption.asked
        send(signal.SIGTERM)
        assert preemption.asked


def ended_by(number: int, seconds_later: float = 0.0) -> bool:
    """Whether a forked child that gets this signal ends by it."""
    child = os.fork()
    if child == 0:
        preemption_module._ending_since -= seconds_later
        if seconds_later:
            signal.signal(number, preemption_module._while_ending)
        os.kill(os.getpid(), number)
        os._exit(3)
    return os.WIFSIGNALED(os.waitpid(child, 0)[1])


def test_once_it_has_saved_a_repeated_signal_changes_nothing_while_the_process_ends() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with pytest.raises(Preempted), Preemption():
        raise Preempted
    send(signal.SIGTERM)
    assert ended_by(signal.SIGTERM)  # a child is asked as ever
    assert ended_by(signal.SIGTERM, seconds_later=60)  # and so is who has caught the exception and goes on


def test_the_exception_is_an_exit_that_says_how_to_go_on() -> None:
    error = Preempted("Run `python train.py` again to go on from step 7.")
    assert isinstance(error, SystemExit) and error.code == EXIT_CODE == 75
    assert "step 7" in str(error) and str(pickle.loads(pickle.dumps(error))) == str(error)


TRAINING = """
import sys, torch
from pathlib import Path
from trainkit.loops.checkpoints import Checkpoints
from trainkit.loops.preemption import Preempted, Preemption
checkpoints, weight = Checkpoints(Path(sys.argv[1])), torch.zeros(2_000_000)
with Preemption() as preemption:
    for step in range(1, 100_000):
        weight += 1
        checkpoints.save(step, {"model": {"weight": weight}}, {}, [{}], "")
        if step == 2:
            print("training", flush=True)
        if preemption.asked:
            checkpoints.wait()
            raise Preempted
"""


def test_asked_again_and_again_while_it_saves_it_saves_and_ends_with_75(tmp_path: Path) -> None:
    child = subprocess.Popen([sys.executable, "-c", TRAINING, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None and child.stdout.readline() == "training\n"
    with child.stdout:
        while child.poll() is None:
            try:
                child.send_signal(signal.SIGTERM)
                child.wait(0.02)
            except subprocess.TimeoutExpired:
                continue
    assert child.returncode == EXIT_CODE
    found = load(tmp_path)
    assert found.step >= 2 and bool((found.tensors["model"]["weight"] == found.step).all())
    assert not list(tmp_path.glob(".*"))


WORKERS = """
import os, signal, sys, time
import torch.utils.data
from trainkit.loops.preemption import Preemption, patient
class Slow(torch.utils.data.Dataset):
    def __len__(self): return 12
    def __getitem__(self, n):
        if n == 3: os.kill(os.getpid(), signal.SIGTERM)  # as a scheduler that asks all processes
        return n
with Preemption() as preemption:
    loader = torch.utils.data.DataLoader(Slow(), 2, num_workers=2, worker_init_fn=lambda _: patient())
    found = sorted(int(n) for batch in loader for n in batch)
assert found == list(range(12)) and not preemption.asked
print("whole")
"""


def test_a_data_loaders_worker_that_is_asked_too_serves_the_step_that_its_parent_finishes() -> None:
    done = subprocess.run([sys.executable, "-c", WORKERS], capture_output=True, text=True, timeout=120)
    assert done.stdout == "whole\n", done.stderr


def test_a_patient_worker_ends_when_it_is_asked_twice() -> None:
    script = (
        "import os, signal\nfrom trainkit.loops.preemption import patient\npatient()\n"
        "os.kill(os.getpid(), signal.SIGUSR1)\nos.kill(os.getpid(), signal.SIGTERM)\nprint('here', flush=True)\n"
        "os.kill(os.getpid(), signal.SIGTERM)\nprint('never')\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (-signal.SIGTERM, "here\n")
