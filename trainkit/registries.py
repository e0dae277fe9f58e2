"""`ContainerRegistry`: a private registry of images, and the password for it, which no file ever holds."""

from __future__ import annotations

import re
from typing import Any

from trainkit.errors import UserErrorException
from trainkit.imagespec import RegistrySpec

__all__ = ["ContainerRegistry"]

_REFERENCE = re.compile(r"(env:[A-Za-z_][A-Za-z0-9_]*|keyring:[^\s\0]+)")
_ADDRESS = re.compile(r"[A-Za-z0-9][A-Za-z0-9.\-]*(:[0-9]{1,5})?(/[A-Za-z0-9._\-]+)*|\[[0-9a-fA-F:]+\](:[0-9]{1,5})?")


class ContainerRegistry:
    """A private registry: its address, a user name and a password, used only for images of that address.

    The password is a text, which lives in this process's memory and, while a run is prepared, in that of its driver;
    or where it is: "env:NAME" of an environment variable, "keyring:SERVICE" of the system's keyring. Pickling, saving
    and registering leave a password by value out; it is in no repr.
    """

    __slots__ = ("_password", "address", "username")

    def __init__(self, address: str | None = None, username: str | None = None, password: str | None = None) -> None:
        self.address = address
        self.username = username
        self._password = password

    @property
    def password(self) -> str | None:
        """The password, or where it is."""
        return self._password

    @password.setter
    def password(self, value: str | None) -> None:
        self._password = value

    @property
    def reference(self) -> str:
        """Where the password is, "env:NAME" or "keyring:SERVICE"; "" where it was given by value or not at all."""
        return self._password if isinstance(self._password, str) and _REFERENCE.fullmatch(self._password) else ""

    @property
    def secret(self) -> str:
        """The password that was given by value; "" for none."""
        return "" if self.reference else self._password or ""

    def spec(self) -> RegistrySpec | None:
        """The registry without a password by value; None where nothing is said. Raises UserErrorException."""
        if self.address is None and self.username is None and self._password is None:
            return None
        where = "docker.base_image_registry"
        for name, value in (("address", self.address), ("username", self.username), ("password", self._password)):
            if value is not None and (not isinstance(value, str) or not value or not value.isprintable()):
                shown = "" if name == "password" else f", not {value!r}"
                raise UserErrorException(f"{where}.{name} is a text in one line{shown}.")
        address = re.sub(r"^https?://", "", self.address or "").rstrip("/")
        if not _ADDRESS.fullmatch(address):
            raise UserErrorException(
                f"{where}.address is what stands before the image's name, such as 'registry.example.org:5000', not "
                f"{self.address!r}."
            )
        host = address.partition("/")[0]
        if not re.search(r"[.:]", host) and host != "localhost":
            raise UserErrorException(
                f"{where}.address is {self.address!r}, which the engines take for a folder of Docker Hub: a registry's "
                "address has a dot or a port, as 'registry.example.org' and 'store:5000' do, or is 'localhost'."
            )
        if isinstance(self._password, str) and re.match(r"(env|keyring):", self._password) and not self.reference:
            raise UserErrorException(
                f"{where}.password names no place: write 'env:NAME' of an environment variable, or 'keyring:SERVICE'."
            )
        if bool(self.username) != bool(self._password):
            has, lacks = ("user name", "password") if self.username else ("password", "user name")
            raise UserErrorException(
                f"{where} has a {has} for {address}, but no {lacks}. A password that was given by value is kept in no "
                "file: set it again after an environment was loaded, or name where it is, as password='env:NAME' or "
                "'keyring:SERVICE'. Without both the engine's own login counts."
            )
        return RegistrySpec(address, self.username or "", self.reference)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ContainerRegistry) and all(
            getattr(self, name) == getattr(other, name) for name in self.__slots__
        )

    __hash__ = None  # type: ignore[assignment]  # it can be changed

    def __repr__(self) -> str:
        return f"ContainerRegistry(address={self.address!r}, username={self.username!r})"

    def __reduce__(self) -> tuple[Any, ...]:
        return ContainerRegistry, (self.address, self.username, self.reference or None)

    def __copy__(self) -> ContainerRegistry:
        return ContainerRegistry(self.address, self.username, self._password)

    def __deepcopy__(self, memo: object) -> ContainerRegistry:
        return self.__copy__()
