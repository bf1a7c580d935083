"""Recordings: who may find them, how long, and how much room they take."""

import asyncio
import subprocess
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwentts_daemon.audio.pcm import Pcm
from qwentts_daemon.audio.wav import HEADER_BYTES, header
from qwentts_daemon.http.recordings import MAX_RECORDINGS, RecordingError, RecordingStore, StorageLimits

RATE = 24_000


def store(directory, max_bytes=1_000_000, keep_s=60.0):
    return RecordingStore(StorageLimits(directory, max_bytes, keep_s), lambda identity: f"http://host/{identity}")


def complete(store, size):
    recording = store.begin()
    recording.append(Pcm(RATE, bytes(size)))
    recording.complete()
    return recording


async def test_complete_recording_expires(tmp_path):
    one = store(tmp_path, keep_s=0.05)
    recording = complete(one, 2_000)
    with recording.listening():
        await asyncio.sleep(0.1)  # its time, not a wait for something to happen
        assert one.find(recording.identity) is None
        assert recording.read(0, 10) == header(RATE, 2_000)[:10]
    assert one.used_bytes == 0


async def test_oldest_unread_recording_is_evicted(tmp_path):
    one = store(tmp_path)
    heard, oldest, newer = (complete(one, 240_000) for _ in range(3))
    with heard.listening():
        newest = complete(one, 400_000)
    assert [one.find(each.identity) for each in (heard, oldest, newer, newest)] == [heard, None, newer, newest]
    assert one.used_bytes == 880_000 + 3 * HEADER_BYTES


@pytest.fixture
def small_disk(tmp_path):
    """A file system with room for half a megabyte."""
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", tmp_path], capture_output=True).returncode:
        pytest.skip("only root may mount a file system, and not everywhere")
    yield tmp_path
    subprocess.run(["umount", "--lazy", tmp_path], check=True)


async def test_full_disk_evicts_oldest_recording(small_disk):
    one = store(small_disk)
    oldest, newer, newest = (complete(one, 200_000) for _ in range(3))
    assert [one.find(each.identity) for each in (oldest, newer, newest)] == [None, newer, newest]
    assert newest.read(HEADER_BYTES, 300_000) == bytes(200_000)
    with newer.listening(), newest.listening(), pytest.raises(RecordingError, match="No space left on device"):
        one.begin().append(Pcm(RATE, bytes(200_000)))
    assert one.used_bytes == 2 * (200_000 + HEADER_BYTES) + HEADER_BYTES
    one.close()


async def test_recordings_in_use_are_not_evicted(tmp_path):
    one = store(tmp_path)
    one.begin().append(Pcm(RATE, bytes(500_000)))
    with complete(one, 400_000).listening(), pytest.raises(RecordingError, match=r"used up.*http\.cache_megabytes"):
        one.begin().append(Pcm(RATE, bytes(200_000)))


async def test_recordings_are_limited_in_number(tmp_path):
    one = store(tmp_path)
    first = complete(one, 10)
    for _ in range(MAX_RECORDINGS):
        one.begin()
    assert one.find(first.identity) is None
    with pytest.raises(RecordingError, match="100 announcements are being made or fetched already"):
        one.begin()
    one.close()


async def test_store_error_names_unwritable_directory(tmp_path):
    with pytest.raises(RecordingError, match=r"none: No such file or directory \(http\.cache_dir\)"):
        store(tmp_path / "none").begin()


STEPS = ["begin", "append", "complete", "withdraw", "hear", "leave"]


@given(st.lists(st.tuples(st.sampled_from(STEPS), st.integers(0, 9)), max_size=60))
@settings(max_examples=100, deadline=None)
def test_store_accounting_holds_for_any_history(tmp_path_factory, steps):
    asyncio.run(whatever_happens(store(tmp_path_factory.mktemp("store"), 2_000), steps))


async def whatever_happens(one, steps):
    directory, made, ears = one.space.directory, [], []
    for step, which in steps:
        recording = made[which % len(made)] if made else None
        try:
            if step == "begin":
                made.append(one.begin())
            elif step == "leave" and ears:
                ears.pop(which % len(ears)).__exit__(None, None, None)
            elif recording and one.find(recording.identity):
                do(step, recording, ears)
        except RecordingError:
            assert one.used_bytes > 2_000 - 300
        assert one.used_bytes <= 2_000
        assert open_files(directory) <= len(made)
    for ear in ears:
        ear.__exit__(None, None, None)
    one.close()
    assert (one.used_bytes, open_files(directory)) == (0, 0)


def do(step, recording, ears):
    if step == "hear":
        ears.append(recording.listening())
        ears[-1].__enter__()
    elif step == "withdraw":
        recording.withdraw()
    elif step == "append" and not recording.is_complete:
        recording.append(Pcm(RATE, bytes(300)))
    elif step == "complete" and recording.size and not recording.is_complete:
        recording.complete()


def open_files(directory):
    """How many files of that directory, with or without a name, this process has open."""
    links = []
    for each in Path("/proc/self/fd").iterdir():
        with suppress(FileNotFoundError):  # that of the listing itself
            links.append(each.readlink())
    return sum(link.is_relative_to(directory) for link in links)
