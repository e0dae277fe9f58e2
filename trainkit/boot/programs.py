"""Programs that mpirun and horovodrun call by name or path, in a folder of the attempt: written before those begin.

    python -m trainkit.boot.exec --in FOLDER [--mpirun FILE] [--hosts NAME:RANKS,...] [--only NAME,...] COMMAND WORDS...

FOLDER/ssh asks the nodes' agents instead (`trainkit.boot.exec`), FOLDER/mpirun is FILE, FOLDER/hosts prints those of
the hosts whose agents live. With `--only`, FOLDER is the first on the command's PATH, and the command sees no other
variables than those named, because it would show them on command lines. Its ranks read FOLDER/environment in a shell,
which reads all of them where the command holds them open in memory: no value is in a file, and none outlives it. This
process then becomes the command. It touches nothing but FOLDER.
"""

from __future__ import annotations

import os
import shlex
import sys
from typing import Dict, List, Mapping, Sequence, Tuple

_KNOWN = ("TRAINKIT_RELAY", "TRAINKIT_CARRY")
_OPTIONS = ("--in", "--mpirun", "--hosts", "--only")


def options_of(words: Sequence[str]) -> Tuple[Dict[str, str], List[str]]:
    """The options before a command, and the command."""
    rest, found = list(words), {}
    while rest and rest[0] in _OPTIONS:
        found[rest[0]] = rest[1]
        rest = rest[2:]
    return found, rest


def exports(environment: Mapping[str, str]) -> str:
    """A shell's text that sets these variables; those whose names a shell does not take are left out."""
    lines = ["export %s=%s\n" % (n, shlex.quote(v)) for n, v in sorted(environment.items()) if n.isidentifier()]
    return "".join(lines)


def run(words: Sequence[str]) -> None:
    """Write the programs and become the command."""
    options, command = options_of(words)
    folder = os.path.abspath(options["--in"])
    os.makedirs(folder, mode=0o700, exist_ok=True)
    here = (sys.argv[0], "exec") if sys.argv[0].endswith(".zip") else ("-m", "trainkit.boot.exec")
    _program(folder, "ssh", (sys.executable, *here))
    environment = dict(os.environ)
    if "--mpirun" in options:
        _program(folder, "mpirun", (options["--mpirun"],))
    if "--hosts" in options:
        _program(folder, "hosts", (sys.executable, *here, "--hosts", options["--hosts"]))
    if "--only" in options:
        _write(folder, "environment", '. "%s"\n' % _in_memory(exports(environment)), 0o600)
        environment = {name: environment[name] for name in options["--only"].split(",") if name in environment}
        environment["PATH"] = folder + os.pathsep + environment.get("PATH", os.defpath)
    os.execvpe(command[0], command, environment)


def _in_memory(text: str) -> str:
    """Where processes of this user read a text that is in no file, while this process, or what it becomes, lives."""
    memory = os.memfd_create("environment")
    os.set_inheritable(memory, True)  # it stays open when this process becomes another
    with open(os.dup(memory), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    return "/proc/%d/fd/%d" % (os.getpid(), memory)


def _program(folder: str, name: str, words: Sequence[str]) -> None:
    """One that becomes another, and knows this node's relay also where its caller has forgotten that."""
    known = [variable for variable in _KNOWN if variable in os.environ]
    defaults = ['[ -n "$%s" ] || %s' % (variable, exports({variable: os.environ[variable]})) for variable in known]
    command = 'exec %s "$@"\n' % " ".join(shlex.quote(word) for word in words)
    _write(folder, name, "#!/bin/sh\n" + "".join(defaults) + command, 0o700)


def _write(folder: str, name: str, text: str, mode: int) -> None:
    partial = os.path.join(folder, ".%s.%d" % (name, os.getpid()))
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    with open(os.open(partial, flags, mode), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
    os.replace(partial, os.path.join(folder, name))
