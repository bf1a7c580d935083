"""Announcements at an address: a real server, real listeners, and the sink that fills its store."""

import asyncio
import contextlib
import io
import re
import stat
import struct
import time
import wave

import aiohttp
import pytest

from qwentts_daemon.audio.pcm import Pcm
from qwentts_daemon.audio.wav import HEADER_BYTES, UNKNOWN, header
from qwentts_daemon.config.loader import load
from qwentts_daemon.config.paths import cache_dir
from qwentts_daemon.config.schema import Http
from qwentts_daemon.config.target_schema import UrlTarget
from qwentts_daemon.errors import SinkError, StartError
from qwentts_daemon.http.server import MAX_CONNECTIONS, base_url, serving
from qwentts_daemon.sinks import Services, make_sink
from tests.support.sinks import RATE, Facts, Tap, cut, file_size_limit, pcm, tone


class House:
    """A server, a client, and targets of type url."""

    def __init__(self, store, client):
        self.store, self.client = store, client
        self.ready = False

    def sink(self, timeout=5.0):
        return make_sink("media", UrlTarget(type="url", timeout=timeout), Services(http=self.store))

    async def get(self, url, method="GET", **headers):
        async with self.client.request(method, url, headers=headers) as response:
            return response, await response.read()


@contextlib.asynccontextmanager
async def house(tmp_path, **settings):
    http = Http(host="127.0.0.1", port=0, **settings)
    async with serving(http, tmp_path / "cache", lambda: made.ready) as store, aiohttp.ClientSession() as client:
        made = House(store, client)
        yield made


class Playing:
    """An announcement that the test makes piece by piece."""

    def __init__(self, house, **options):
        self.tap, self.reported, self.facts = Tap(), asyncio.Event(), Facts()
        self.task = asyncio.create_task(house.sink(**options).play("a1", self.tap.pcm(), self._report))

    def _report(self, facts):
        self.facts(facts)
        self.reported.set()

    async def url(self):
        await self.reported.wait()
        return self.facts["url"]


def complete(house, speech=b""):
    """A recording that is complete, without a sink."""
    recording = house.store.begin()
    recording.append(Pcm(RATE, speech or tone(1_000)))
    recording.complete()
    return recording


def sizes(data):
    return struct.unpack_from("<I", data, 4)[0], struct.unpack_from("<I", data, 40)[0]


async def test_recording_is_streamed_to_every_client_while_it_grows(tmp_path):
    pieces = cut(tone(6_000), 2_000)
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(pieces[0])
        url = await playing.url()
        async with home.client.get(url) as early:
            assert (early.status, early.content_type) == (200, "audio/wav")
            assert "Content-Length" not in early.headers
            assert await early.content.readexactly(HEADER_BYTES) == header(RATE, None)
            assert await early.content.readexactly(len(pieces[0])) == pieces[0]
            playing.tap.pour(pieces[1])
            assert await early.content.readexactly(len(pieces[1])) == pieces[1]
            async with home.client.get(url) as late:
                got = await late.content.readexactly(HEADER_BYTES + 2 * len(pieces[0]))
                assert got == header(RATE, None) + pieces[0] + pieces[1]
                playing.tap.pour(pieces[2])
                playing.tap.end()
                assert await early.read() == await late.read() == pieces[2]
        await playing.task
        _, data = await home.get(url)
    assert data == header(RATE, 12_000) + b"".join(pieces)
    with wave.open(io.BytesIO(data)) as wav:
        assert wav.getparams()[:4] == (1, 2, RATE, 6_000)


async def test_url_sink_reports_url_before_audio_and_early_client_waits(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        async with home.client.get(await playing.url()) as response:
            playing.tap.pour(tone(100))
            playing.tap.end()
            assert (await response.read())[HEADER_BYTES:] == tone(100)
        await playing.task


async def test_url_of_empty_speech_returns_404(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        async with home.client.get(await playing.url()) as response:
            playing.tap.end()
            await playing.task
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert (await home.get(playing.facts["url"]))[0].status == 404


def test_wave_module_reads_header_of_unknown_length():
    stream = io.BytesIO(header(22_050, None) + tone(50))
    assert sizes(stream.getvalue()) == (UNKNOWN, UNKNOWN)
    with wave.open(stream) as wav:
        assert wav.getframerate() == 22_050
        assert wav.readframes(1_000) == tone(50)


async def test_urls_are_random_and_unknown_paths_return_404(tmp_path):
    async with house(tmp_path) as home:
        urls = {home.store.begin().url for _ in range(20)}
        assert len(urls) == 20
        assert all(re.fullmatch(r"http://127\.0\.0\.1:\d+/audio/[A-Za-z0-9_-]{22}\.wav", url) for url in urls)
        base = min(urls).rpartition("/")[0]
        for path in (f"{base}/x.wav", f"{base}/", f"{base}/../cache/x.wav", f"{base}/%2e%2e%2fcache.wav", base):
            response, _ = await home.get(path)
            assert response.status == 404


@pytest.mark.parametrize(
    ("asked", "status", "part"),
    [
        ("bytes=0-", 206, slice(0, None)),
        ("bytes=0-99", 206, slice(0, 100)),
        ("bytes=100-199", 206, slice(100, 200)),
        ("bytes=2000-99999999999", 206, slice(2000, None)),
        ("bytes=-10", 206, slice(-10, None)),
        ("bytes=-999999", 206, slice(0, None)),
        ("bytes=5-4", 200, slice(None)),
        ("bytes=0-1,4-5", 200, slice(None)),
        ("bytes=x-y", 200, slice(None)),
        ("bytes=-", 200, slice(None)),
        ("lines=1-2", 200, slice(None)),
        ("bytes=999999-", 416, None),
    ],
)
async def test_range_request_on_complete_recording(tmp_path, asked, status, part):
    whole = header(RATE, 2_000) + tone(1_000)
    async with house(tmp_path) as home:
        response, data = await home.get(complete(home).url, Range=asked)
    assert response.status == status
    if part is None:
        assert response.headers["Content-Range"] == f"bytes */{len(whole)}"
        return
    assert data == whole[part]
    assert int(response.headers["Content-Length"]) == len(data)
    assert response.headers["Accept-Ranges"] == "bytes"
    if status == 206:
        sent = range(len(whole))[part]
        assert response.headers["Content-Range"] == f"bytes {sent[0]}-{sent[-1]}/{len(whole)}"


async def test_if_range_with_other_etag_returns_whole_recording(tmp_path):
    async with house(tmp_path) as home:
        url = complete(home).url
        etag = (await home.get(url))[0].headers["ETag"]
        kept, _ = await home.get(url, **{"Range": "bytes=0-9", "If-Range": etag})
        other, _ = await home.get(url, **{"Range": "bytes=0-9", "If-Range": '"other"'})
    assert (kept.status, other.status) == (206, 200)


async def test_range_request_on_growing_recording_returns_all_of_it(tmp_path):
    async with house(tmp_path) as home:
        recording = home.store.begin()
        recording.append(Pcm(RATE, tone(100)))
        async with home.client.get(recording.url, headers={"Range": "bytes=10-"}) as response:
            assert (response.status, response.headers["Accept-Ranges"]) == (200, "none")
            recording.complete()
            assert len(await response.read()) == HEADER_BYTES + 200


async def test_head_returns_known_length_and_does_not_count_as_fetch(tmp_path):
    async with house(tmp_path) as home:
        recording = home.store.begin()
        recording.append(Pcm(RATE, tone(10)))
        growing, _ = await home.get(recording.url, "HEAD")
        recording.complete()
        done, data = await home.get(recording.url, "HEAD", Range="bytes=0-3")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(recording.first_fetched(), 0)
    assert (growing.status, growing.content_type, growing.content_length) == (200, "audio/wav", None)
    assert (done.status, done.content_length, data) == (200, HEADER_BYTES + 20, b"")


async def test_http_1_0_response_ends_with_the_connection(tmp_path):
    async with house(tmp_path) as home:
        recording = home.store.begin()
        recording.append(Pcm(RATE, tone(100)))
        port = int(recording.url.split(":")[2].split("/")[0])
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET /audio/{recording.identity}.wav HTTP/1.0\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        assert await reader.readexactly(HEADER_BYTES + 200) == header(RATE, None) + tone(100)
        recording.complete()
        assert await reader.read() == b""
        writer.close()


async def test_cancel_breaks_off_downloads_and_removes_url(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(tone(100))
        url = await playing.url()
        async with home.client.get(url) as response:
            await response.content.readexactly(HEADER_BYTES + 200)
            playing.task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await playing.task
            with pytest.raises(aiohttp.ClientError):
                await response.read()
        assert (await home.get(url))[0].status == 404
        assert (home.store.used_bytes, home.store.listeners) == (0, 0)


async def test_cancel_during_playback_removes_url(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(tone(10 * RATE))
        playing.tap.end()
        url = await playing.url()
        assert len((await home.get(url))[1]) == HEADER_BYTES + 20 * RATE
        playing.task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await playing.task
        assert (await home.get(url))[0].status == 404


async def test_failed_speech_breaks_off_the_download(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(tone(100))
        async with home.client.get(await playing.url()) as response:
            await response.content.readexactly(HEADER_BYTES + 200)
            playing.tap.end(RuntimeError("no more"))
            with pytest.raises(RuntimeError, match="no more"):
                await playing.task
            with pytest.raises(aiohttp.ClientError):
                await response.read()


async def test_url_sink_fails_when_url_is_not_fetched_and_keeps_url(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home, timeout=0.1)
        playing.tap.pour(tone(100))
        playing.tap.end()
        with pytest.raises(SinkError, match=r"no player has fetched http://.*\.wav within 0\.1 s of the last word"):
            await playing.task
        assert (await home.get(playing.facts["url"]))[0].status == 200


async def test_url_sink_waits_for_the_duration_of_the_audio(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(tone(RATE // 4))
        playing.tap.end()
        began_s = time.monotonic()
        await home.get(await playing.url())
        await playing.task
        assert time.monotonic() - began_s >= 0.25


async def test_server_shutdown_breaks_off_downloads(tmp_path):
    async with aiohttp.ClientSession() as client:
        async with house(tmp_path) as home:
            recording = home.store.begin()
            recording.append(Pcm(RATE, tone(100)))
            response = await client.get(recording.url)
            await response.content.readexactly(HEADER_BYTES + 200)
        with pytest.raises(aiohttp.ClientError):
            await response.read()


async def test_client_disconnect_does_not_affect_other_clients(tmp_path):
    async with house(tmp_path) as home:
        playing = Playing(home)
        playing.tap.pour(tone(100))
        url = await playing.url()
        async with home.client.get(url) as stays:
            leaves = await home.client.get(url)
            await leaves.content.readexactly(HEADER_BYTES)
            leaves.close()
            playing.tap.pour(tone(100))
            playing.tap.end()
            assert await stays.read() == header(RATE, None) + tone(100) * 2
        await playing.task
        assert home.store.listeners == 0


async def test_server_rejects_more_than_max_listeners(tmp_path):
    async with house(tmp_path, max_listeners=1) as home:
        recording = home.store.begin()
        recording.append(Pcm(RATE, tone(10)))
        async with home.client.get(recording.url) as first:
            await first.content.readexactly(HEADER_BYTES)
            refused, _ = await home.get(recording.url)
            assert (refused.status, refused.headers["Retry-After"]) == (503, "5")
            recording.complete()
            await first.read()
        assert (await home.get(recording.url))[0].status == 200


async def test_idle_connections_are_limited(tmp_path):
    async with house(tmp_path) as home, contextlib.AsyncExitStack() as stack:
        port = int(home.store.begin().url.split(":")[2].split("/")[0])
        for _ in range(MAX_CONNECTIONS):
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            stack.callback(writer.close)
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        stack.callback(writer.close)
        assert await reader.read() == b""


async def test_recording_beyond_cache_size_fails_and_frees_its_space(tmp_path):
    async with house(tmp_path, cache_megabytes=1) as home:
        with pytest.raises(
            SinkError, match=r"the space for announcements is used up \(1000000 bytes\); see http\.cache"
        ):
            await home.sink().play("a1", pcm(*[bytes(300_000)] * 5), Facts())
        assert home.store.used_bytes == 0


async def test_full_disk_error_names_cache_dir(tmp_path):
    async with house(tmp_path) as home:
        with file_size_limit(1_000), pytest.raises(SinkError, match=r"cache: File too large \(http\.cache_dir\)"):
            await home.sink().play("a1", pcm(tone(400), tone(400)), Facts())
        assert home.store.used_bytes == 0


async def test_cache_directory_is_private_and_stays_empty(tmp_path):
    async with house(tmp_path) as home:
        complete(home)
        assert stat.S_IMODE((tmp_path / "cache").stat().st_mode) == 0o700
        assert list((tmp_path / "cache").iterdir()) == []


async def test_health_and_readiness_routes(tmp_path):
    async with house(tmp_path) as home:
        base = home.store.begin().url.partition("/audio/")[0]
        assert (await home.get(f"{base}/healthz"))[1] == b"ok\n"
        loading, _ = await home.get(f"{base}/readyz")
        home.ready = True
        ready, _ = await home.get(f"{base}/readyz")
    assert (loading.status, ready.status) == (503, 200)


@pytest.mark.parametrize(
    ("http", "url"),
    [
        (Http(host="127.0.0.1"), "http://127.0.0.1:10280"),
        (Http(host="192.168.1.5"), "http://192.168.1.5:10280"),
        (Http(host="::1"), "http://[::1]:10280"),
        (Http(public_url="https://speech.example.org/tts"), "https://speech.example.org/tts"),
    ],
)
def test_base_url_uses_host_or_public_url(http, url):
    assert base_url(http, 10_280) == url


def test_base_url_replaces_wildcard_host_with_reachable_address():
    assert "0.0.0.0" not in base_url(Http(), 10_280)


async def test_server_start_error_names_setting(tmp_path):
    async with house(tmp_path) as home:
        port = int(home.store.begin().url.split(":")[2].split("/")[0])
        with pytest.raises(StartError, match=r"in use already; choose another port \(http\.port\)"):
            async with serving(Http(host="127.0.0.1", port=port), tmp_path / "cache", bool):
                pass
    with pytest.raises(StartError, match=r"\(http\.host\)"):
        async with serving(Http(host="no.such.host.invalid", port=0), tmp_path / "cache", bool):
            pass
    (tmp_path / "file").touch()
    with pytest.raises(StartError, match=r"file/cache: Not a directory \(http\.cache_dir\)"):
        async with serving(Http(host="127.0.0.1", port=0), tmp_path / "file" / "cache", bool):
            pass


def test_cache_dir_prefers_setting_then_systemd_then_xdg():
    config, own = load(None, {}), load(None, {}, ["http.cache_dir=/var/tmp/q"])
    assert str(cache_dir(own, {"CACHE_DIRECTORY": "/var/cache/qwentts"})) == "/var/tmp/q"
    assert str(cache_dir(config, {"CACHE_DIRECTORY": "/var/cache/qwentts:/x"})) == "/var/cache/qwentts/audio"
    assert str(cache_dir(config, {"XDG_CACHE_HOME": "/c"})) == "/c/qwentts/audio"
    assert str(cache_dir(config, {})).endswith("/.cache/qwentts/audio")
