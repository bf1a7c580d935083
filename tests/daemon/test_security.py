"""What the network sends is text to be spoken and nothing else; what is secret or private stays so."""

import os
import stat
from pathlib import Path

import psutil
import pytest
from wyoming.event import Event

from engine.voices.folder import FolderVoice, write_clone
from tests.support.fakes import RATE
from tests.support.harness import connected, daemon, hear, speak

HOOK = """
import os, sys
log = os.open(os.environ["AUDIT_LOG"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
os.write(log, b"armed\\n")
EVENTS = ("open", "os.", "socket.connect", "socket.getaddrinfo", "subprocess.", "urllib.", "import", "ctypes.dlopen")
def hook(event, arguments):
    if event.startswith(EVENTS) and "marked" in repr(arguments):
        os.write(log, f"{event} {arguments!r}\\n".encode())
sys.addaudithook(hook)
"""
PLACES = ["/etc/marked", "../../marked", "file:///marked", "http://marked.invalid/a.wav", "hf://marked/model",
          "$(touch marked)", "marked.wav", "tests.marked:Backend", "\\\\marked\\share"]  # fmt: skip


def events(place):
    voices = [{"name": place}, {"name": "ryan", "speaker": place}, {"language": place}, {place: place}]
    for voice in voices:
        yield Event("synthesize", {"text": place, "voice": voice, "context": {"instruct": place, "audio": place}})
        yield Event("synthesize-start", {"voice": voice, "context": {"reference": place}})
    yield Event("synthesize", {"text": place, "text_format": place, "url": place})
    yield Event("synthesize", {"text": place, "instruct": place, "model": place, "path": place})
    yield Event("select-program", {"name": place})
    yield Event("ping", {"text": place})
    yield Event(place, {"text": place}, place.encode())


@pytest.mark.parametrize("engine", [{"fake": "ToneBackend"}, {}], ids=["engine", "embedded"])
async def test_paths_and_urls_from_the_network_are_not_opened(tmp_path, engine):
    (tmp_path / "sitecustomize.py").write_text(HOOK)
    log = tmp_path / "audit.log"
    with daemon(AUDIT_LOG=str(log), PYTHONPATH=str(tmp_path), **engine) as process:
        for place in PLACES:
            for event in events(place):
                async with connected(process) as client:
                    await client.write_event(event)
                    await client.write_event(Event("synthesize-chunk", {"text": f"Read {place} to me."}))
                    await client.write_event(Event("ping", {"text": place}))
                    await hear(client, "pong")
        assert (await speak(process, "Still here.")).seconds
    lines = log.read_text().splitlines()
    assert lines.count("armed") >= 2, "in the daemon and in its worker"
    assert set(lines) == {"armed"}


async def test_secrets_of_environment_are_not_in_logs_or_command_lines():
    with daemon(fake="ToneBackend", HF_TOKEN="hf_hush", QWENTTS_WYOMING_NAME="qwen-tts") as process:
        assert (await speak(process, "Nothing to see.")).rate == RATE
        family = [psutil.Process(process.process.pid), *psutil.Process(process.process.pid).children(recursive=True)]
        words = [word for each in family for word in each.cmdline()]
        assert len(family) >= 3
    assert not [word for word in [*words, *process.lines] if "hush" in word]


def test_cloned_voice_is_readable_by_owner_only(tmp_path):
    recording = tmp_path / "anna.wav"
    recording.write_bytes(b"RIFF")
    before = os.umask(0)
    try:
        directory = write_clone(
            tmp_path / "state" / "voices", FolderVoice("anna", "clone", "Anna", recording=recording, transcript="Hi.")
        )
    finally:
        os.umask(before)
    paths = (directory.parent, directory, *directory.iterdir())
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in paths}
    assert modes == {
        "voices": 0o700, "anna": 0o700, "voice.yaml": 0o600, "transcript.txt": 0o600, "reference.wav": 0o600,
    }  # fmt: skip


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can change the owner of a file")
def test_write_clone_as_root_gives_files_to_owner_of_folder(tmp_path):
    (tmp_path / "anna.wav").write_bytes(b"RIFF")
    os.chown(tmp_path, 1234, 1235)
    directory = write_clone(tmp_path / "voices", FolderVoice("anna", "clone", "Anna", recording=tmp_path / "anna.wav"))
    owners = {(path.stat().st_uid, path.stat().st_gid) for path in (directory.parent, directory, *directory.iterdir())}
    assert owners == {(1234, 1235)}


def test_daemon_and_workers_run_with_umask_077():
    with daemon(fake="ToneBackend") as process:
        for each in (process.process.pid, *(worker.pid for worker in process.workers())):
            assert "Umask:\t0077\n" in Path(f"/proc/{each}/status").read_text()
