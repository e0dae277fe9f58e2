"""Hosts as users write them, in a list or in a hostfile of Open MPI's or Horovod's kind; pure, nothing is contacted."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

from trainkit.errors import ComputeTargetException

_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*|[0-9A-Fa-f:]*:[0-9A-Fa-f:.]*(%[A-Za-z0-9_.-]+)?")
_USER = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@\\-]*")
_FORMS = "host, user@host, host:port, [IPv6]:port or an alias of ~/.ssh/config"


@dataclass(frozen=True)
class Host:
    """One machine; what is empty or 0 is left to ~/.ssh/config. `slots` is how many ranks it takes, 0: any number."""

    name: str
    user: str = ""
    port: int = 0
    slots: int = 0

    @property
    def text(self) -> str:
        """As `parse_host` reads it."""
        name = f"[{self.name}]" if self.port and ":" in self.name else self.name
        return (f"{self.user}@" if self.user else "") + name + (f":{self.port}" if self.port else "")


def parse_host(text: str) -> Host:
    """One host. Raises ComputeTargetException where the text is no host's."""
    user, at, place = text.rpartition("@")
    bracketed = re.fullmatch(r"\[(.+)\](?::(.*))?", place)
    if bracketed:
        name, port = bracketed[1], bracketed[2]
    elif place.count(":") == 1:
        name, _, port = place.partition(":")
    else:
        name, port = place, None
    if not _NAME.fullmatch(name) or (at and not _USER.fullmatch(user)):
        raise ComputeTargetException(f"{text!r} names no host; possible: {_FORMS}.")
    if port is not None and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise ComputeTargetException(f"{text!r}: {port!r} is no port; possible: 1 to 65535.")
    return Host(name, user, int(port or 0))


def parse_hosts(texts: Iterable[str]) -> tuple[Host, ...]:
    """A list of hosts, each once. Raises ComputeTargetException where one is none, or is there twice."""
    hosts = tuple(parse_host(text) for text in texts)
    _check_once(hosts, "hosts")
    return hosts


def parse_hostfile(text: str, path: str) -> tuple[Host, ...]:
    """The hosts of a hostfile: a host a line, then perhaps `slots=N`; `#` begins a comment.

    Raises ComputeTargetException, with the line, where it says anything else.
    """
    hosts = []
    for number, line in enumerate(text.splitlines(), 1):
        words = line.partition("#")[0].split()
        if not words:
            continue
        slots = 0
        try:
            host = parse_host(words[0])
            for word in words[1:]:
                key, _, value = word.partition("=")
                if key not in ("slots", "max_slots", "max-slots") or not (value.isascii() and value.isdigit()):
                    raise ComputeTargetException(f"{word!r} is not understood; possible: slots=N.")
                slots = int(value) if key == "slots" else slots or int(value)
        except ComputeTargetException as error:
            raise ComputeTargetException(f"{path}, line {number}: {error.message}") from error
        hosts.append(Host(host.name, host.user, host.port, slots))
    _check_once(hosts, path)
    return tuple(hosts)


def _check_once(hosts: Iterable[Host], where: str) -> None:
    seen = set()
    for host in hosts:
        if (host.name, host.port) in seen:
            raise ComputeTargetException(
                f"{where} has {host.text} twice; name each machine once, with slots=N for the ranks it takes."
            )
        seen.add((host.name, host.port))
