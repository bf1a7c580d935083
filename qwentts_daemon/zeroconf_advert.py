"""Tells the local network where this server is, so that Home Assistant finds it by itself.

The wyoming package's own registration advertises the bind address, also 0.0.0.0, which Home Assistant drops.
"""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import socket
from collections.abc import AsyncIterator, Iterable, Sequence

import ifaddr
from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

SERVICE_TYPE = "_wyoming._tcp.local."

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def advertised(name: str, host: str, port: int) -> AsyncIterator[None]:
    """Advertise while the context is open. No network for it is no reason not to serve: a warning only."""
    addresses = addresses_to_advertise(host, interface_addresses(), _default_route_address())
    if not addresses:
        log.info("not advertised: %s is reached from this machine only", host)
        yield
        return
    async with contextlib.AsyncExitStack() as stack:
        try:
            await _register(stack, name, addresses, port)
            log.info("advertised as %s.%s at %s", name, SERVICE_TYPE, ", ".join(addresses))
        except (OSError, ZeroconfError) as error:
            log.warning("not advertised: %s", error or type(error).__name__)
        yield


def addresses_to_advertise(host: str, interfaces: Iterable[str], first: str | None) -> list[str]:
    """Real addresses for a bind address, the one of the default route first; none for loopback."""
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


async def _register(stack: contextlib.AsyncExitStack, name: str, addresses: Sequence[str], port: int) -> None:
    versions = IPVersion.All if any(":" in address for address in addresses) else IPVersion.V4Only
    zeroconf = AsyncZeroconf(ip_version=versions)
    stack.push_async_callback(zeroconf.async_close)
    info = AsyncServiceInfo(
        SERVICE_TYPE,
        f"{name}.{SERVICE_TYPE}",
        parsed_addresses=list(addresses),
        port=port,
        server=f"{socket.gethostname().split('.')[0]}.local.",
    )
    await (await zeroconf.async_register_service(info, allow_name_change=True))
    stack.push_async_callback(zeroconf.async_unregister_all_services)


def interface_addresses() -> list[str]:
    """Every address of every interface of this machine."""
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
