"""The verdict: which rank failed first by itself, and who only lost it."""

from __future__ import annotations

from typing import Any

import pytest

from trainkit import outcome
from trainkit.sentences import describe


def rank(number: int, **values: Any) -> dict[str, Any]:
    return {"rank": number, "exit_code": 0, "signal": None, "ended": 10.0, "asked": None, **values}


def failed(number: int, exception: str, message: str, at: float, **values: Any) -> dict[str, Any]:
    return rank(number, exit_code=1, exception=exception, message=message, failed=at, **values)


END = {"node": 0, "reason": "", "problem": "", "commands": []}


def test_all_ranks_well_is_completed() -> None:
    assert outcome.judge(2, [rank(0), rank(1)], [END]) == ("Completed", None)


def test_completed_wins_over_a_request_that_came_too_late() -> None:
    assert outcome.judge(1, [rank(0)], [END], canceled=True)[0] == "Completed"


def test_a_missing_record_is_never_completed() -> None:
    status, verdict = outcome.judge(2, [rank(0)], [END])
    assert status == "Failed"
    assert verdict is not None and verdict["kind"] == "lost" and verdict["rank"] == 1


@pytest.mark.parametrize(
    ("exception", "message"),
    [
        ("RuntimeError", "[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234"),
        ("torch.distributed.DistBackendError", "NCCL error: remote process exited or there was a network error"),
        ("horovod.common.exceptions.HorovodInternalError", "Horovod has been shut down."),
        ("ConnectionResetError", "[Errno 104] Connection reset by peer"),
    ],
)
def test_a_rank_that_lost_its_peer_is_a_victim_even_if_it_spoke_first(exception: str, message: str) -> None:
    records = [failed(0, exception, message, 5.0), failed(1, "ValueError", "bad", 6.0)]
    status, verdict = outcome.judge(2, records, [END])
    assert status == "Failed" and verdict is not None
    assert (verdict["rank"], verdict["victims"], verdict["exception"]) == (1, [0], "ValueError")


def test_of_two_that_failed_by_themselves_the_first_is_named() -> None:
    records = [failed(0, "KeyError", "'a'", 7.0), failed(1, "ValueError", "bad", 6.0)]
    verdict = outcome.judge(2, records, [END])[1]
    assert verdict is not None and verdict["rank"] == 1


def test_a_rank_that_ended_when_asked_is_no_cause() -> None:
    obeyed = rank(0, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1)
    crashed = rank(1, exit_code=None, signal="SIGSEGV", ended=9.0)
    verdict = outcome.judge(2, [obeyed, crashed], [END])[1]
    assert verdict is not None
    assert (verdict["rank"], verdict["kind"], verdict["signal"]) == (1, "signal", "SIGSEGV")


def test_memory_is_told_apart() -> None:
    killed = rank(0, exit_code=None, signal="SIGKILL", memory=True)
    verdict = outcome.judge(1, [killed], [END])[1]
    assert verdict is not None and verdict["kind"] == "memory" and "memory" in verdict["summary"]


def test_a_killed_mpirun_is_named() -> None:
    obeyed = [rank(n, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1) for n in range(2)]
    end = {**END, "commands": [{"argv": ["/opt/bin/mpirun", "-n", "2"], "status": -9}]}
    verdict = outcome.judge(2, obeyed, [end])[1]
    assert verdict is not None
    assert verdict["summary"].startswith("mpirun of node 0 was killed by SIGKILL")


def test_mpirun_of_several_machines_is_called_by_its_name() -> None:
    obeyed = [rank(n, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1) for n in (0, 1)]
    for start in (["/bin/python", "/w/trainkit.zip", "exec"], ["/bin/python", "-m", "trainkit.boot.exec"]):
        argv = [*start, "--in", "attempts/1/bin", "--mpirun", "/opt/a", "/opt/bin/mpirun", "-n", "2"]
        verdict = outcome.judge(2, obeyed, [{**END, "commands": [{"argv": argv, "status": -9}]}])[1]
        assert verdict is not None
        assert verdict["summary"] == "mpirun of node 0 was killed by SIGKILL; no rank failed by itself."


def test_a_rank_without_a_record_is_named_where_mpirun_only_tells_of_it() -> None:
    obeyed = [rank(0, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1)]
    end = {**END, "commands": [{"argv": ["/opt/bin/mpirun", "-n", "2"], "status": 137}]}
    verdict = outcome.judge(2, obeyed, [end])[1]
    assert verdict is not None and verdict["rank"] == 1
    assert verdict["summary"] == "rank 1 ended without a record: killed from outside."
    nobody = outcome.judge(2, [], [end])[1]
    told = "mpirun of node 0 exited with code 137: a process that it had started was killed by SIGKILL"
    assert nobody is not None and nobody["summary"].startswith(told)


def torchrun(node: int, status: int, ended: float, asked: bool = False) -> dict[str, object]:
    argv = ["/bin/python", "-m", "torch.distributed.run", f"--node_rank={node}"]
    command = {"argv": argv, "status": status, "ended": ended, "asked": asked}
    return {**END, "node": node, "reason": "a rank failed", "commands": [command]}


def test_of_several_parents_the_one_that_was_killed_is_named() -> None:
    obeyed = [rank(n, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1) for n in range(2)]
    verdict = outcome.judge(2, obeyed, [torchrun(0, 1, 7.9), torchrun(1, -9, 8.0)], nodes=2)[1]
    assert verdict is not None
    assert verdict["summary"] == "torchrun of node 1 was killed by SIGKILL; no rank failed by itself."
    verdict = outcome.judge(2, obeyed, [torchrun(0, -15, 8.2, asked=True), torchrun(1, 1, 8.0)], nodes=2)[1]
    assert verdict is not None
    assert verdict["summary"] == "torchrun of node 1 exited with code 1; no rank failed by itself."


def test_a_rank_that_lost_a_peer_whose_torchrun_was_killed_is_not_the_cause() -> None:
    records = [
        rank(0, exit_code=None, signal="SIGKILL", asked=8.0, ended=8.1),
        failed(1, "trainkit.loops.parting.RankLost", "Another rank has ended", 8.2),
    ]
    verdict = outcome.judge(2, records, [torchrun(0, -9, 8.0), torchrun(1, 1, 8.3)], nodes=2)[1]
    assert verdict is not None
    assert verdict["summary"] == "torchrun of node 0 was killed by SIGKILL; no rank failed by itself."
    verdict = outcome.judge(2, records[1:], [torchrun(0, -9, 8.0), torchrun(1, 1, 8.3)], nodes=2)[1]
    assert verdict is not None and verdict["summary"].startswith("torchrun of node 0 was killed by SIGKILL")
    verdict = outcome.judge(2, records, [torchrun(0, 1, 8.0), torchrun(1, 1, 8.3)], nodes=2)[1]
    assert verdict is not None and verdict["rank"] == 1


def test_parents_that_an_agent_ended_do_not_hide_a_rank_without_a_record() -> None:
    ends = [torchrun(0, 1, 7.9), torchrun(1, -15, 8.2, asked=True)]
    verdict = outcome.judge(2, [rank(1)], ends, nodes=2)[1]
    assert verdict is not None
    assert verdict["summary"] == "rank 0 ended without a record: killed from outside."


def test_a_node_that_stood_still_accuses_nobody() -> None:
    silent = {"node": 0, "name": "node1", "why": "nothing was heard of it for 8 s"}
    left = {"node": 1, "name": "node2", "why": "its agent ended or was killed"}
    verdict = outcome.judge(2, [], [{**END, "lost": left}, {**END, "node": 1, "lost": silent}], nodes=2)[1]
    assert verdict is not None
    assert verdict["summary"] == "node 0 (node1) was lost: nothing was heard of it for 8 s."
    cut = {**left, "why": "nothing was heard of it for 8 s"}
    ends = [{**END, "name": "node1", "lost": cut}, {**END, "node": 1, "lost": silent}]
    verdict = outcome.judge(2, [], ends, nodes=2)[1]
    assert verdict is not None and verdict["node"] == 1
    told = "nothing was heard of it for 8 s, and it heard nothing of node 0 (node1) either."
    assert verdict["summary"] == f"node 1 ({left['name']}) was lost: {told}"
    others = [{**END, "node": 2, "lost": silent}, {**END, "node": 3, "lost": silent}]
    verdict = outcome.judge(4, [], [*ends, *others], nodes=4)[1]
    assert verdict is not None and verdict["summary"] == "node 0 (node1) was lost: nothing was heard of it for 8 s."


def test_a_stopped_container_explains_ranks_that_obeyed_and_nothing_else() -> None:
    stopped = {**END, "node": 1, "reason": "canceled", "stopped": "The container of x on b was stopped from outside"}
    ends = [{**END, "reason": "canceled"}, stopped]
    obeyed = [rank(n, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1) for n in range(2)]
    status, verdict = outcome.judge(2, obeyed, ends, nodes=2)
    assert status == "Failed" and verdict is not None and (verdict["kind"], verdict["node"]) == ("lost", 1)
    assert verdict["summary"] == "The container of x on b was stopped from outside, though nobody had canceled the run."
    saved = [rank(n, exit_code=outcome.RUN_AGAIN, asked=8.0, ended=8.1) for n in range(2)]
    verdict = outcome.judge(2, saved, ends, nodes=2)[1]
    assert verdict is not None and verdict["kind"] == "preempted" and "resume_from=RUN" in verdict["summary"]
    assert verdict["summary"].startswith("The container of x on b was stopped from outside")
    verdict = outcome.judge(2, [failed(0, "ValueError", "bad", 6.0), obeyed[1]], ends, nodes=2)[1]
    assert verdict is not None and verdict["exception"] == "ValueError"
    assert outcome.judge(2, obeyed, ends, canceled=True, nodes=2) == ("Canceled", None)


def test_the_time_limit_and_a_restarted_machine_are_named() -> None:
    obeyed = [rank(0, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1)]
    timeout = outcome.judge(1, obeyed, [{**END, "reason": "time limit of 2 s"}])[1]
    machine = outcome.judge(1, [], [], lost="machine restarted")[1]
    assert timeout is not None and timeout["kind"] == "timeout"
    assert machine is not None and machine["kind"] == "machine" and "machine restarted" in machine["summary"]


def test_a_cancelled_run_is_cancelled_however_its_ranks_ended() -> None:
    obeyed = rank(0, exit_code=None, signal="SIGTERM", asked=8.0, ended=8.1)
    assert outcome.judge(1, [obeyed], [END], canceled=True) == ("Canceled", None)


def test_the_text_holds_what_a_reader_needs() -> None:
    record = failed(1, "ValueError", "bad label", 6.0, file="/r/code/train.py", line=17, log="/r/logs/rank-1.log")
    record["traceback"] = "Traceback ...\nValueError: bad label"
    verdict = outcome.judge(2, [rank(0), record], [END])[1]
    assert verdict is not None
    text = describe(verdict)
    for words in ("rank 1", "ValueError: bad label", "/r/code/train.py:17", "Traceback", "/r/logs/rank-1.log"):
        assert words in text


def test_a_rank_that_lost_another_one_does_not_stand_for_it() -> None:
    lost = failed(1, "trainkit.loops.parting.RankLost", "Another rank has ended while this one waited", at=5.0)
    verdict = outcome.judge(
        2, [lost], [{**END, "commands": [{"argv": ["/opt/bin/mpirun", "-n", "2"], "status": 137}]}]
    )[1]
    assert verdict is not None and (verdict["rank"], verdict["victims"]) == (0, [1])
    verdict = outcome.judge(2, [failed(0, "ValueError", "no", at=6.0), lost], [END])[1]
    assert verdict is not None and (verdict["rank"], verdict["victims"]) == (0, [1])
