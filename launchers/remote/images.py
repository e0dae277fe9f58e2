"""A job's image, for hosts that do not share a disk with this one: sent once, as an archive, to those that lack it."""

from __future__ import annotations

from collections.abc import Sequence

from trainkit.errors import LaunchError
from trainkit.job import Container, Job

from .asking import Line, Reply
from .calls import Call, run_all
from .hosts import Host
from .pulling import by_ssh, explain

_SEND_SECONDS = 4 * 3600.0
_LOOK_SECONDS = 60.0
_STALL_SECONDS = 60


def send(line: Line, replies: Sequence[Reply], job: Job) -> None:
    """Bring the image's archive to each host that has neither it nor the image. Raises LaunchError."""
    container = job.container
    if container is None or not container.archive:
        return
    request = {"act": "image", "engine": container.engine, "image": container.image}
    looks = [(reply.host, {**request, "archive": reply.values["archive"]}) for reply in replies]
    answers = line.ask(looks, _LOOK_SECONDS)
    failed = next((answer for answer in answers if answer.error), None)
    if failed is not None:
        raise LaunchError(f"{failed.host.text}: {failed.error}")
    lacking = [reply for reply, answer in zip(replies, answers, strict=True) if answer.values["lacks"]]
    sent = run_all([_push(line.words, r.host, container, str(r.values["archive"])) for r in lacking], _SEND_SECONDS)
    for reply, answer in zip(lacking, sent, strict=True):
        problem = answer.problem or explain(answer.status, answer.output)
        if problem:
            raise LaunchError(
                f"The image {container.name} could not be sent to {reply.host.text}: {problem}", transient=True
            )


def _push(words: Sequence[str], host: Host, container: Container, path: str) -> Call:
    """The call that brings the archive there, whole or not at all."""
    shell, place = by_ssh(words, host)
    return Call((
        "rsync", "--chmod=F600", "--protect-args", f"--timeout={_STALL_SECONDS}", shell, "--", container.archive,
        f"{place}:{path}",
    ))  # fmt: skip
