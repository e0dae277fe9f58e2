"""Runs a command on a host as exactly these words, in place of itself: python -m ... COUNT SSH... COMMAND...

ssh joins a command's words by spaces for a shell to split again: so each is quoted. The first COUNT words are ssh's.
"""

from __future__ import annotations

import os
import shlex
import sys


def command(argv: list[str], terminal: bool) -> list[str]:
    """The command line of ssh, with a terminal on the other side where there is one on this."""
    count = int(argv[0])
    ssh, words = argv[1 : count + 1], argv[count + 1 :]
    if terminal:
        ssh = ["-t" if word == "-T" else word for word in ssh]
    return [*ssh, shlex.join(words)] if words else ssh


if __name__ == "__main__":
    line = command(sys.argv[1:], sys.stdin.isatty())
    os.execvp(line[0], line)
