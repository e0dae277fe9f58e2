"""This machine's addresses and the network interfaces that have them: how nodes of several machines find each other."""

from __future__ import annotations

import fcntl
import socket
import struct
from typing import List, NamedTuple

_ADDRESS, _FLAGS = 0x8915, 0x8913  # SIOCGIFADDR, SIOCGIFFLAGS
_UP, _LOOPBACK = 0x1, 0x8
# Bridges to containers and virtual machines of this machine alone: tried last.
_INNER = ("docker", "br-", "virbr", "veth", "cni", "flannel", "lxc", "podman", "tun", "tap")


class Interface(NamedTuple):
    """A network interface that is up, and its IPv4 address."""

    name: str
    address: str


def interfaces() -> List[Interface]:
    """All interfaces but loopback that are up and have an IPv4 address; those that lead out of the machine first."""
    found = []
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                flags = struct.unpack("16xH", fcntl.ioctl(probe, _FLAGS, request)[:18])[0]
                if not flags & _UP or flags & _LOOPBACK:
                    continue
                address = socket.inet_ntoa(fcntl.ioctl(probe, _ADDRESS, request)[20:24])
            except OSError:  # it has no IPv4 address, or has just gone
                continue
            found.append(Interface(name, address))
    return sorted(found, key=lambda i: i.name.startswith(_INNER))


def interface_of(address: str) -> str:
    """The name of the interface that has this address; empty if none has."""
    return next((i.name for i in interfaces() if i.address == address), "")


def own_address(fd: int) -> str:
    """This machine's end of a TCP connection."""
    import os

    with socket.socket(fileno=os.dup(fd)) as connection:
        return str(connection.getsockname()[0])
