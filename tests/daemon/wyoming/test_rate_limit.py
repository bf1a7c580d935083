"""Who may connect, and how much one address may ask for."""

import asyncio
import contextlib
import ipaddress

import pytest
from wyoming.client import AsyncTcpClient
from wyoming.event import Event
from wyoming.info import Describe
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart

from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import PRIVATE_NETWORKS, Config, Wyoming
from qwentts_daemon.errors import Code, SpeechError
from qwentts_daemon.network import interface_addresses
from qwentts_daemon.wyoming.rate_limit import BURST_S, BYTES_PER_S, EVENTS_PER_S, REMEMBERED, ClientLimiter, is_allowed
from qwentts_daemon.wyoming.server import Service, WarningLimiter, WyomingConnection
from tests.support.harness import daemon, hear, started

HOME = "192.168.1.7"
OWN = next((ip for ip in interface_addresses() if "." in ip and not ipaddress.ip_address(ip).is_loopback), None)


@pytest.mark.parametrize(
    ("address", "allowed"),
    [
        ("127.0.0.1", True), ("::1", True), ("10.1.2.3", True), ("172.31.0.1", True), ("192.168.1.7", True),
        ("169.254.3.4", True), ("100.100.1.1", True), ("fe80::1%eth0", True), ("fd12::1", True),
        ("::ffff:192.168.1.7", True), ("::ffff:8.8.8.8", False), ("8.8.8.8", False), ("172.32.0.1", False),
        ("192.169.0.1", False), ("100.128.0.1", False), ("2001:4860::1", False), ("64:ff9b::c0a8:101", False),
    ],
)  # fmt: skip
def test_private_addresses_are_allowed_in_any_notation(address, allowed):
    assert is_allowed(address, PRIVATE_NETWORKS) is allowed


class Clock:
    now_s = 0.0

    def __call__(self):
        return self.now_s


def rules(**keys):
    clock = Clock()
    return ClientLimiter(LiveConfig(lambda: Config(wyoming=Wyoming(**keys))), clock), clock


def code(call, *arguments):
    try:
        call(*arguments)
    except SpeechError as error:
        return error.code
    return None


def test_connections_per_address_are_limited_and_released():
    addresses, _ = rules(max_connections_per_address=2)
    addresses.acquire(HOME)
    addresses.acquire(f"::ffff:{HOME}")
    assert code(addresses.acquire, HOME) == Code.TOO_MANY_CONNECTIONS
    assert code(addresses.acquire, "192.168.1.8") is None
    addresses.release(HOME)
    assert code(addresses.acquire, HOME) is None


def test_requests_per_minute_are_limited():
    addresses, clock = rules(max_requests_per_minute=60)
    for _ in range(60):
        addresses.count_request(HOME)
    assert code(addresses.count_request, HOME) == Code.TOO_MANY_REQUESTS
    clock.now_s += 1
    assert code(addresses.count_request, HOME) is None
    assert code(addresses.count_request, HOME) == Code.TOO_MANY_REQUESTS
    clock.now_s += 3600
    for _ in range(60):
        addresses.count_request(HOME)
    assert code(addresses.count_request, HOME) == Code.TOO_MANY_REQUESTS


def test_home_assistant_polls_stay_within_limits():
    addresses, clock = rules(max_requests_per_minute=4)
    for _ in range(2880):
        addresses.acquire(HOME)
        addresses.count_request(HOME)
        addresses.release(HOME)
        clock.now_s += 30


def test_ipv6_addresses_of_one_prefix_share_limits():
    addresses, _ = rules(max_connections_per_address=2)
    addresses.acquire("fd00::1")
    addresses.acquire("fd00::2")
    assert code(addresses.acquire, "fd00::3") == Code.TOO_MANY_CONNECTIONS
    assert code(addresses.acquire, "fd00:0:0:1::1") is None


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "::ffff:127.0.0.1", None])
def test_loopback_is_unlimited(address):
    addresses, _ = rules(max_connections_per_address=1, max_requests_per_minute=1)
    for _ in range(10):
        addresses.acquire(address)
        addresses.count_request(address)


def test_client_table_is_bounded_and_keeps_connected_clients():
    addresses, _ = rules(max_connections_per_address=1)
    addresses.acquire(HOME)
    for number in range(3 * REMEMBERED):
        addresses.acquire(guest := str(ipaddress.ip_address("10.0.0.0") + number))
        addresses.release(guest)
    assert len(addresses._clients) == REMEMBERED
    assert code(addresses.acquire, HOME) == Code.TOO_MANY_CONNECTIONS


@contextlib.asynccontextmanager
async def calling(process, host):
    client = AsyncTcpClient(host, int(process.wait_for(r"listening on tcp://.*:(\d+)")[1]))
    await client.connect()
    try:
        yield client
    finally:
        await client.disconnect()


async def test_disallowed_address_gets_error_and_log_names_key():
    with started("wyoming.allow_networks=[10.0.0.0/8]", fake="ToneBackend") as process:
        for _ in range(3):
            async with calling(process, "127.0.0.1") as client:
                assert (await hear(client, "never")).code == "address-not-allowed"
        line = "WARNING .* refused: 127.0.0.1 is not in wyoming.allow_networks"
        process.wait_for(line)
        process.wait_for("DEBUG .* refused: ", 2)
        assert len([each for each in process.lines if " refused: " in each and "WARNING" in each]) == 1
        assert process.stop() == 0


@pytest.mark.skipif(OWN is None, reason="this machine has the loopback interface only")
async def test_limits_apply_to_non_loopback_addresses():
    limits = ("wyoming.max_connections_per_address=1", "wyoming.max_requests_per_minute=5")
    settings = (f"wyoming.allow_networks=[{OWN}/32]", "wyoming.zeroconf=false", *limits)
    with daemon(*settings, uri=f"tcp://{OWN}:0", fake="ToneBackend") as process:
        async with calling(process, OWN) as client:
            await client.write_event(Synthesize("I am here.").event())
            assert (await hear(client, "audio-stop")).seconds
            async with calling(process, OWN) as other:
                assert (await hear(other, "never")).code == "too-many-connections"
            for _ in range(4):
                await client.write_event(Describe().event())
            assert (await hear(client, "never")).code == "too-many-requests"


def test_every_event_and_byte_is_counted_per_address():
    addresses, clock = rules()
    assert sum(addresses.count_event(HOME, 100) for _ in range(int(EVENTS_PER_S * BURST_S))) == 0
    assert addresses.count_event(HOME, 100) == pytest.approx(1 / EVENTS_PER_S)
    assert addresses.count_event("192.168.1.8", int(BYTES_PER_S * (BURST_S + 3))) == pytest.approx(3)
    clock.now_s += 4
    assert addresses.count_event("192.168.1.8", 100) == 0
    assert addresses.count_event("127.0.0.1", int(BYTES_PER_S * 100)) == 0


class Writer:
    """A stream writer that reports the address of its client."""

    def get_extra_info(self, name):
        return (HOME, 50_000)


async def test_server_counts_events_of_every_type_before_their_body():
    counted = []

    class Limiter:
        def count_event(self, address, size):
            counted.append((address, size))
            return 0.0

    reader = asyncio.StreamReader()
    lines = [b'{"type": "ping"}\n', b'{"type": "zzz", "data_length": 5, "payload_length": 7}\n']
    reader.feed_data(lines[0] + lines[1] + b"?" * 12)
    reader.feed_eof()
    connection = WyomingConnection(Service(None, None, None, Limiter()), reader, Writer(), False, WarningLimiter())
    assert await connection._receive() == Event("ping")
    assert await connection._receive() == Event("zzz")
    assert await connection._receive() is None
    assert counted == [(HOME, len(lines[0])), (HOME, len(lines[1]) + 12)]


def test_warnings_of_one_kind_are_limited(caplog):
    warnings = WarningLimiter()
    with caplog.at_level("DEBUG"):
        for kind in ("invalid-request", "invalid-request", "text-too-long"):
            warnings.warn(kind, "%s refused", HOME)
    assert [record.levelname for record in caplog.records] == ["WARNING", "DEBUG", "WARNING"]


@pytest.mark.skipif(OWN is None, reason="this machine has only loopback addresses")
async def test_streams_of_one_address_yield_to_another_address():
    settings = (
        "wyoming.uri=tcp://0.0.0.0:0",
        "wyoming.allow_networks=[0.0.0.0/0]",
        "engine.fallback=false",
        "text.stall=300",
        "queue.max_wait=60",
    )
    with daemon(*settings, fake="ToneBackend") as process:
        port = int(process.wait_for(r"listening on tcp://0\.0\.0\.0:(\d+)")[1])
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(AsyncTcpClient(OWN, port)) for _ in range(4)]
            for client in clients:  # as many as the engine takes
                await client.write_event(SynthesizeStart().event())
                await client.write_event(SynthesizeChunk("One is here. Two").event())
                assert (await hear(client, "audio-chunk")).types == ["audio-start", "audio-chunk"]
            other = await stack.enter_async_context(AsyncTcpClient("127.0.0.1", port))
            await other.write_event(Synthesize("Hello there.").event())
            await other.write_event(Describe().event())
            assert (await hear(other, "info")).types == ["info"]
            await clients[0].write_event(SynthesizeChunk(" is here. Three").event())
            assert (await hear(other, "audio-stop")).types == ["audio-start", "audio-chunk", "audio-stop"]
            more = await hear(clients[0], "audio-chunk")
            assert more.types == ["audio-chunk"], process.lines
