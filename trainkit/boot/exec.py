"""Called like ssh, by mpirun and horovodrun: runs a command on another node of this job, through the nodes' agents.

    python -m trainkit.boot.exec [ssh's options] NODE COMMAND WORDS...
    python -m trainkit.boot.exec --hosts NAME:RANKS,...
    python -m trainkit.boot.exec --in FOLDER ... COMMAND WORDS...

As with ssh, the words are joined and given to a shell there, output comes back, and so does the exit status: 255 where
the node cannot be reached. Options are ignored. The command has the environment that its node's agent gives to its own
ranks; of this program's environment it gets the variables that TRAINKIT_CARRY names.

The second form prints those of the hosts whose agents live, a line each. The third is `trainkit.boot.programs`.
"""

from __future__ import annotations

import base64
import json
import os
import signal
import socket
import sys
from typing import Any, Dict, List, Sequence, Tuple

CARRY = "TRAINKIT_CARRY"
_WITH_VALUE = "BbcDEeFIiJLlmOopQRSWw"  # ssh's options that take one
_FAILED = 255


def parse(words: Sequence[str]) -> Tuple[str, str]:
    """The node and the shell's line of an ssh command line: `-x -p 22 root@node2 echo hello` -> node2, `echo hello`."""
    rest = _without_options(list(words))
    node = rest.pop(0).rpartition("@")[2] if rest else ""
    line = " ".join(_without_options(rest))  # ssh takes options after the node too, and horovodrun gives some
    if not node or not line:
        raise SystemExit("usage: exec [ssh's options] NODE COMMAND WORDS...")
    return node, line


def _without_options(words: List[str]) -> List[str]:
    while words and words[0].startswith("-"):
        option = words.pop(0)
        if option == "--":
            break
        if len(option) == 2 and option[1] in _WITH_VALUE and words:
            words.pop(0)
    return words


def alive(hosts: str) -> List[str]:
    """Those of the hosts (`NAME:RANKS,...`) whose nodes' agents live; all where all nodes are on this machine."""
    if not os.environ.get("TRAINKIT_RELAY"):
        return hosts.split(",")
    connection = _connect()
    with connection.makefile("rwb") as stream:
        stream.write(b'{"alive": true}\n')
        stream.flush()
        living = json.loads(stream.readline().decode())["alive"]
    return [host for host in hosts.split(",") if host.rpartition(":")[0] in living]


def _connect() -> socket.socket:
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    connection.connect("\0" + os.environ.get("TRAINKIT_RELAY", ""))
    return connection


def ask(node: str, line: str) -> int:
    """Have the line run there; its exit status."""
    try:
        connection = _connect()
    except OSError as error:
        sys.stderr.write("trainkit: this node's agent does not answer: %s\n" % error)
        return _FAILED
    names = [name for name in os.environ.get(CARRY, "").split(",") if name in os.environ]
    request = {"node": node, "line": line, "environment": {name: os.environ[name] for name in names}}
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda number, frame: _say(connection, {"signal": number}))
    _say(connection, request)
    with connection.makefile("rb") as answers:
        for answer in answers:
            message = json.loads(answer.decode())
            if "status" in message:
                if message["why"]:
                    sys.stderr.write("trainkit: %s\n" % message["why"])
                return int(message["status"])
            _write(int(message["stream"]), base64.b64decode(message["data"]))
    sys.stderr.write("trainkit: this node's agent has ended\n")
    return _FAILED


def _say(connection: socket.socket, words: Dict[str, Any]) -> None:
    try:
        connection.sendall(json.dumps(words).encode() + b"\n")
    except OSError:
        pass  # the agent has ended, which the reader will see


def _write(stream: int, data: bytes) -> None:
    while data:
        data = data[os.write(stream, data) :]


def main(argv: List[str]) -> int:
    """Entry point of `python -m trainkit.boot.exec`."""
    if argv[:1] == ["--in"]:
        from trainkit.boot import programs

        programs.run(argv)
    if argv[:1] == ["--hosts"]:
        sys.stdout.write("".join(host + "\n" for host in alive(argv[1])))
        return 0
    return ask(*parse(argv))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
