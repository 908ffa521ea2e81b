"""The address of a server: an interface and a port, or a socket file."""

import errno
import ipaddress
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from attention_patterns.errors import InvalidSettingsError, ServerError

_FILE = "unix:"
_LACKING = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # "localhost" names IPv6 also where there is none


@dataclass(frozen=True)
class Address:
    """The address of a server; its text is the endpoint that a client dials.

    Attributes:
        host: Name or number of an interface, IPv6 with or without brackets; or "unix:PATH", a socket file.
        port: Port of the interface, 0 for a free one; without effect for a socket file.

    Raises:
        InvalidSettingsError: The host is empty.
    """

    host: str
    port: int

    def __post_init__(self) -> None:
        if not self._name.strip("/"):
            raise InvalidSettingsError(
                f"host is {self.host!r}, expected the name or number of an interface, such as 127.0.0.1 or ::1, or "
                "unix:PATH"
            )

    def __str__(self) -> str:
        """Returns the endpoint: "127.0.0.1:50051", "[::1]:50051" or "unix:/path"."""
        if self.socket_file:
            return self.host
        return f"[{self._name}]:{self.port}" if ":" in self._name else f"{self._name}:{self.port}"

    @property
    def socket_file(self) -> Path | None:
        """Path of the socket file; None for an interface."""
        return Path(self._name) if self.host.startswith(_FILE) else None

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the address."""
        return (
            self.socket_file is not None or self._name == "localhost" or bool(self._number and self._number.is_loopback)
        )

    def collides_with(self, other: "Address") -> bool:
        """Returns whether both stand for the same port of the same interface."""
        if self.socket_file or other.socket_file or self.port != other.port or not self.port:
            return False
        everywhere = any(address._number and address._number.is_unspecified for address in (self, other))
        return everywhere or self._name == other._name

    def resolve(self) -> list[tuple[socket.AddressFamily, tuple[Any, ...]]]:
        """Returns the family and socket address of each interface that the host stands for.

        Raises:
            ServerError: The host is not known.
        """
        try:
            entries = socket.getaddrinfo(self._name, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        except (OSError, UnicodeError) as error:  # UnicodeError: a label of the name is too long
            raise self.refusal(error) from error
        return [(family, address) for family, _, _, _, address in entries]

    def check_free(self) -> None:
        """Binds the address and releases it.

        Raises:
            ServerError: It cannot be bound: it is taken, not of this machine, or not permitted.
        """
        if self.socket_file is None:
            with self.hold():
                return
        try:
            _check_socket_file(self.socket_file)
        except OSError as error:
            raise self.refusal(error) from error

    @contextmanager
    def hold(self, *, shared: bool = False) -> Iterator[int]:
        """Binds the interface, never listens there, and yields the port, which is held until the end.

        Args:
            shared: Whether other processes of this user may bind the port as well.

        Raises:
            ServerError: The address cannot be bound.
        """
        with ExitStack() as holders:
            try:
                port = self._bind(holders, shared=shared)
            except OSError as error:
                raise self.refusal(error) from error
            yield port

    def bind_to(self, server: grpc.Server, credentials: grpc.ServerCredentials | None) -> int:
        """Binds the address for a server, and returns the port.

        Raises:
            ServerError: The address cannot be bound.
        """
        try:
            if credentials:
                return server.add_secure_port(str(self), credentials)
            return server.add_insecure_port(str(self))
        except RuntimeError as error:
            raise self.refusal(error) from error

    def refusal(self, error: Exception) -> ServerError:
        """Returns the error that names the address and why it cannot be bound."""
        return ServerError(f"{self} cannot be bound: {getattr(error, 'strerror', None) or error}")

    def _bind(self, holders: ExitStack, *, shared: bool) -> int:
        """Binds all that the name stands for to one port, and returns it; what this machine lacks may be left out."""
        port, lacking = 0, None
        for family, address in self.resolve():
            try:
                holder = holders.enter_context(socket.socket(family, socket.SOCK_STREAM))
                # Connections that end there do not take it.
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, shared)
                holder.bind((address[0], port or self.port, *address[2:]))
            except OSError as error:
                if error.errno not in _LACKING:
                    raise
                lacking = error
            else:
                port = holder.getsockname()[1]
        if lacking and not port:
            raise lacking
        return port

    @property
    def _name(self) -> str:
        if self.host.startswith(_FILE):
            return self.host.removeprefix(_FILE)
        return self.host.removeprefix("[").removesuffix("]")

    @property
    def _number(self) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
        try:
            return ipaddress.ip_address(self._name)
        except ValueError:  # a name
            return None


def _check_socket_file(path: Path) -> None:
    """Checks that a socket can be made at ``path``, in place of one that a killed server left.

    Raises:
        OSError: It cannot, or a server listens there, whose place would be taken without a word.
    """
    with socket.socket(socket.AF_UNIX) as probe:
        if path.exists() and not path.is_socket():
            raise FileExistsError(errno.EEXIST, "the file exists and is no socket")
        if not path.exists():
            probe.bind(str(path))
            path.unlink()
            return
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            if os.access(path.parent, os.W_OK):
                return
            raise PermissionError(errno.EACCES, "the folder of the socket file is not writable") from None
    raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
