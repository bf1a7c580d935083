"""Advertises this server in the local network, so that Home Assistant discovers it.

The wyoming package's own registration advertises the bind address, also 0.0.0.0, which Home Assistant drops.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from ..network import reachable_addresses

SERVICE_TYPE = "_wyoming._tcp.local."
LOOK_INTERVAL_S = 30.0

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def advertised(name: str, host: str, port: int) -> AsyncIterator[None]:
    """Advertise while the context is open. A failure is only logged, since the server works without."""
    following = asyncio.create_task(_follow(name, host, port), name="advert")
    try:
        yield
    finally:
        following.cancel()
        await asyncio.wait([following])


async def _follow(name: str, host: str, port: int) -> None:
    """Advertise, again after each change of this machine's addresses: a network may be up late, or change."""
    fault = None
    while True:
        addresses = reachable_addresses(host)
        if not addresses:
            log.info("not advertised: others cannot reach %s", host)
        try:
            async with _registered(name, addresses, port):
                await _changed(host, addresses)
        except (OSError, ZeroconfError) as error:
            if fault != (fault := str(error) or type(error).__name__):
                log.warning("not advertised: %s", fault)
            await asyncio.sleep(LOOK_INTERVAL_S)


async def _changed(host: str, addresses: Sequence[str]) -> None:
    """Return when this machine has other addresses; polled, since no event reports it."""
    while True:
        await asyncio.sleep(LOOK_INTERVAL_S)
        if reachable_addresses(host) != addresses:
            return


@contextlib.asynccontextmanager
async def _registered(name: str, addresses: Sequence[str], port: int) -> AsyncIterator[None]:
    """Register the name at these addresses; do nothing if the list is empty."""
    if not addresses:
        yield
        return
    versions = IPVersion.All if any(":" in address for address in addresses) else IPVersion.V4Only
    async with contextlib.AsyncExitStack() as stack:
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
        log.info("advertised as %s.%s at %s", name, SERVICE_TYPE, ", ".join(addresses))
        yield
