"""Advertising: real addresses only, one stable name, gone after the stop."""

import asyncio
import uuid

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zeroconf import IPVersion, Zeroconf

from qwentts_daemon.network import addresses_to_advertise, interface_addresses
from qwentts_daemon.wyoming.zeroconf import SERVICE_TYPE, advertised
from tests.support.harness import PATIENCE_S

NAME = f"qwen-tts-test-{uuid.uuid4()}"
INTERFACES = ["127.0.0.1", "172.17.0.1", "192.168.1.5", "169.254.3.3", "::1", "fe80::1", "fd00::5"]


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("0.0.0.0", ["192.168.1.5", "172.17.0.1"]),
        ("::", ["192.168.1.5", "172.17.0.1", "fd00::5"]),
        ("192.168.1.5", ["192.168.1.5"]),
        ("127.0.0.1", []),
        ("::1", []),
        ("localhost", []),
    ],
)
def test_advertised_addresses_start_with_default_route(host, expected):
    assert addresses_to_advertise(host, INTERFACES, "192.168.1.5") == expected


@given(st.lists(st.ip_addresses().map(str), max_size=6))
def test_unreachable_addresses_are_not_advertised(interfaces):
    for host in ("0.0.0.0", "::"):
        for address in addresses_to_advertise(host, interfaces, None):
            assert address not in ("0.0.0.0", "::")
            assert not address.startswith(("127.", "169.254.", "fe80:"))


def find(name, within_s):
    with_everything = Zeroconf(ip_version=IPVersion.V4Only)
    try:
        return with_everything.get_service_info(SERVICE_TYPE, f"{name}.{SERVICE_TYPE}", timeout=within_s * 1000)
    finally:
        with_everything.close()


async def test_service_is_found_only_while_running(free_address):
    async with advertised(NAME, free_address, 10299):
        found = await asyncio.to_thread(find, NAME, PATIENCE_S)
        assert found is not None
        assert found.port == 10299
        assert found.parsed_addresses() == [free_address]
    assert await asyncio.to_thread(find, NAME, 1) is None


@pytest.fixture
def free_address():
    addresses = addresses_to_advertise("0.0.0.0", interface_addresses(), None)
    if not addresses:
        pytest.skip("this machine has no network to advertise on")
    return addresses[0]


async def test_loopback_is_not_advertised():
    async with advertised(NAME, "127.0.0.1", 10299):
        assert await asyncio.to_thread(find, NAME, 1) is None


async def test_address_changes_are_followed(free_address, monkeypatch):
    interfaces = []
    monkeypatch.setattr("qwentts_daemon.network.interface_addresses", lambda: list(interfaces))
    monkeypatch.setattr("qwentts_daemon.wyoming.zeroconf.LOOK_INTERVAL_S", 0.05)
    async with advertised(NAME, "0.0.0.0", 10299):
        assert await asyncio.to_thread(find, NAME, 1) is None
        for addresses in ({free_address}, {free_address, "192.0.2.77"}, set()):
            interfaces[:] = addresses
            async with asyncio.timeout(PATIENCE_S):
                while await asyncio.to_thread(found_addresses, NAME) != addresses:
                    pass


def found_addresses(name):
    found = find(name, 1)
    return set(found.parsed_addresses()) if found else set()


async def test_error_is_logged_once_and_retried(free_address, monkeypatch, caplog):
    tries, tried_thrice = [], asyncio.Event()

    def broken(**options):
        tries.append(options)
        if len(tries) == 3:
            tried_thrice.set()
        raise OSError("no multicast here")

    monkeypatch.setattr("qwentts_daemon.wyoming.zeroconf.AsyncZeroconf", broken)
    monkeypatch.setattr("qwentts_daemon.wyoming.zeroconf.LOOK_INTERVAL_S", 0)
    async with asyncio.timeout(PATIENCE_S), advertised(NAME, free_address, 10299):
        await tried_thrice.wait()
    assert [record.getMessage() for record in caplog.records] == ["not advertised: no multicast here"]
