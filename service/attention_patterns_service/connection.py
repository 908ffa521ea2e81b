"""The connection of a client to its server: options, address, and advice where it fails."""

import json
import os
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit
from urllib.request import proxy_bypass

import grpc

_OPTIONS: list[tuple[str, Any]] = [
    ("grpc.max_receive_message_length", -1),
    ("grpc.service_config", json.dumps({"loadBalancingConfig": [{"round_robin": {}}]})),
    ("grpc.keepalive_time_ms", 30_000),  # a connection whose other end is gone is noticed
    ("grpc.max_reconnect_backoff_ms", 5_000),
]
_SCHEMES = ("dns", "ipv4", "ipv6", "unix", "unix-abstract", "vsock", "xds")  # of addresses; any other word is a host
_PROXIES = ("grpc_proxy", "https_proxy", "http_proxy")  # variables that gRPC heeds, the first of them that is set


def open_channel(endpoint: str, credentials: grpc.ChannelCredentials | None) -> grpc.Channel:
    """Returns a channel, which connects on the first call."""
    if credentials:
        return grpc.secure_channel(endpoint, credentials, options=_OPTIONS)
    return grpc.insecure_channel(endpoint, options=_OPTIONS)


@dataclass(frozen=True)
class Address:
    """The address of a server, taken apart.

    Attributes:
        scheme: How it is resolved: "dns", "ipv4", "unix" and so on.
        hosts: Host -> port, None where it has none; empty where the scheme knows no hosts.
    """

    scheme: str
    hosts: dict[str, int | None]

    @classmethod
    def read(cls, endpoint: str) -> "Address":
        """Takes an address apart, "host:port" or any that gRPC resolves."""
        scheme, colon, rest = endpoint.partition(":")
        if not colon or scheme not in _SCHEMES:
            scheme, rest = "dns", endpoint
        if scheme not in ("dns", "ipv4", "ipv6"):
            return cls(scheme, {})
        if rest.startswith("//"):  # and the authority that resolves it
            rest = rest[2:].partition("/")[2]
        return cls(scheme, dict(map(_split, rest.split(","))))

    @property
    def is_local(self) -> bool:
        """Whether it stays on this machine."""
        return self.scheme.startswith("unix") or (bool(self.hosts) and all(map(_is_loopback, self.hosts)))


def advise(endpoint: str) -> str:
    """Returns what else may be wrong where a server cannot be reached, "" where nothing is known."""
    address = Address.read(endpoint)
    advice = [f"{host} has no port, expected host:port" for host, port in address.hosts.items() if port is None]
    proxy = next((name for name in _PROXIES if os.environ.get(name)), None)
    if proxy and not all(map(proxy_bypass, address.hosts)):
        advice.append(f"the environment's {proxy} is in use, set no_proxy for a server to be reached without it")
    return "".join(f"; {sentence}" for sentence in advice)


def _split(address: str) -> tuple[str, int | None]:
    try:
        parts = urlsplit(f"//{address}")
        return (address, None) if parts.path else (parts.hostname or address, parts.port)
    except ValueError:  # the port is no number
        return address, None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:  # a name
        return False
