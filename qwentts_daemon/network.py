"""Finds the addresses at which other machines reach this one."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
from collections.abc import Iterable

import ifaddr


def reachable_addresses(host: str) -> list[str]:
    """Return the addresses at which others reach a socket bound to `host`, that of the default route first."""
    return addresses_to_advertise(host, interface_addresses(), _default_route_address())


def addresses_to_advertise(host: str, interfaces: Iterable[str], first: str | None) -> list[str]:
    """Return real addresses for a bind address, that of the default route first; empty for loopback."""
    bound = [ipaddress.ip_address(host)] if _is_address(host) else []
    if bound and not bound[0].is_unspecified:
        return [] if bound[0].is_loopback else [host]
    if host == "localhost":
        return []
    versions = {4} if bound and bound[0].version == 4 else {4, 6}
    candidates = [ipaddress.ip_address(address) for address in interfaces]
    usable = [
        str(address)
        for address in candidates
        if address.version in versions and not (address.is_loopback or address.is_link_local or address.is_unspecified)
    ]
    return sorted(dict.fromkeys(usable), key=lambda address: (address != first, ":" in address))


def interface_addresses() -> list[str]:
    """Return every address of every network interface."""
    addresses = (ip.ip for adapter in ifaddr.get_adapters() for ip in adapter.ips)
    return [address if isinstance(address, str) else address[0] for address in addresses]


def _default_route_address() -> str | None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
        probe.connect(("192.0.2.1", 9))  # a datagram socket sends nothing on connect
        return str(probe.getsockname()[0])
    return None


def _is_address(host: str) -> bool:
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False
