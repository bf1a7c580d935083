"""Tells the local network where this server is, so that Home Assistant finds it by itself.

The wyoming package's own registration advertises the bind address, also 0.0.0.0, which Home Assistant drops.
"""

from __future__ import annotations

import contextlib
import logging
import socket
from collections.abc import AsyncIterator, Sequence

from zeroconf import Error as ZeroconfError
from zeroconf import IPVersion
from zeroconf.asyncio import AsyncServiceInfo, AsyncZeroconf

from .addresses import reachable_addresses

SERVICE_TYPE = "_wyoming._tcp.local."

log = logging.getLogger(__name__)


@contextlib.asynccontextmanager
async def advertised(name: str, host: str, port: int) -> AsyncIterator[None]:
    """Advertise while the context is open. No network for it is no reason not to serve: a warning only."""
    addresses = reachable_addresses(host)
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
