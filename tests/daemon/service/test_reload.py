"""Reload on SIGHUP: live keys change, other keys are logged, and an invalid file changes nothing."""

import os
import pty
import signal
import subprocess
import sys

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from wyoming.info import Describe
from wyoming.tts import Synthesize, SynthesizeVoice

from qwentts_daemon.config.live import LIVE, compare
from qwentts_daemon.config.schema import Audio, Config, Engine, Log, Queue, Text, Voices, Wyoming
from tests.support.fakes import RATE, tone
from tests.support.harness import PATIENCE_S, ROOT, Systemd, connected, daemon, hear, speak, voice_names


class File:
    """A configuration file and the daemon that reads it."""

    def __init__(self, path, text):
        self.path = path
        self.path.write_text(text)

    def change(self, process, text, line="configuration reloaded"):
        """Replace the content, let a running daemon reload it, and return the log line about it."""
        before = len([each for each in process.lines if line in each])
        self.path.write_text(text)
        process.process.send_signal(signal.SIGHUP)
        return process.wait_for(f"{line}.*", before + 1)[0]


@pytest.fixture
def file(tmp_path):
    return File(tmp_path / "config.yaml", "audio: {lead_silence: 1}\n")


async def test_reload_applies_voices_text_and_audio(file):
    with daemon(fake="ToneBackend", QWENTTS_CONFIG=str(file.path)) as process:
        assert (await speak(process, "a")).seconds > 1
        line = file.change(
            process,
            "voices: {default: vivian, aliases: {kitchen: ryan+whisper}, styles: {whisper: Whisper.}}\n"
            "text: {max_length: 10, replacements: [{regex: a, replace: b}]}\n",
        )
        names = "voices.default, voices.styles, voices.aliases, audio.lead_silence, text.max_length, text.replacements"
        assert line == f"configuration reloaded: {names}"
        assert (await voice_names(process))[0] == "vivian"
        assert {"kitchen", "ryan+whisper"} <= set(await voice_names(process))
        assert (await speak(process, "a", SynthesizeVoice("kitchen"))).pcm == tone("b")
        assert (await speak(process, "Too long for this.")).code == "text-too-long"


async def test_reload_applies_connection_limits(file):
    with daemon(fake="ToneBackend", QWENTTS_CONFIG=str(file.path)) as process:
        async with connected(process) as client:
            await client.write_event(Describe().event())
            await hear(client, "info")
            file.change(process, "wyoming: {max_connections: 1}\n")
            assert (await speak(process, "a")).code == "too-many-connections"
            file.change(process, "wyoming: {idle_timeout: 0.1}\n")
            await client.write_event(Describe().event())
            assert (await hear(client, "never")).code == "idle-timeout"


def test_reload_raises_descriptor_limit_for_more_connections(file):
    few = ["sh", "-c", 'ulimit -S -n 400; exec "$@"', "sh"]
    with daemon(fake="ToneBackend", through=few, QWENTTS_CONFIG=str(file.path)) as process:
        file.change(process, "wyoming: {max_connections: 500}\n")
        allowed, _ = psutil.Process(process.process.pid).rlimit(psutil.RLIMIT_NOFILE)
        assert allowed > 500


async def test_reload_does_not_change_running_reply(file):
    with daemon(fake="Gated", QWENTTS_CONFIG=str(file.path), TEST_GATE=str(file.path.with_name("gate"))) as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("aa").event())
            before = await hear(client, "audio-chunk")
            file.change(process, "text: {replacements: [{regex: a, replace: b}]}\naudio: {tail_silence: 9}\n")
            file.path.with_name("gate").touch()
            after = await hear(client, "audio-stop")
            assert before.pcm + after.pcm == bytes(2 * RATE) + tone("a") * 2
        assert (await speak(process, "aa")).pcm == tone("b") * 2 + bytes(9 * 2 * RATE)


async def test_reload_logs_keys_that_need_a_restart_and_keeps_their_values(file):
    with daemon(fake="ToneBackend", QWENTTS_CONFIG=str(file.path)) as process:
        file.change(process, "engine: {max_jobs: 9, seed: 1}\nwyoming: {name: tea}\naudio: {trim_silence: true}\n")
        line = process.wait_for("restart the daemon to apply .*")[0]
        assert line == "restart the daemon to apply wyoming.name, engine.max_jobs, engine.seed, audio.trim_silence"
        async with connected(process) as client:
            await client.write_event(Describe().event())
            assert (await hear(client, "info")).events[-1].data["tts"][0]["name"] == "qwen-tts"
        assert (await speak(process, "a")).pcm == tone("a")  # while lead_silence, left out, is gone


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("audio: {lead_silence: 2", "invalid YAML"),
        ("audio: {lead_silence: loud}", "audio.lead_silence: "),
        ("audio: {lead_silence: 2}\nvoices: {default: unknown}", "voices.default: no voice 'unknown'"),
        (None, "No such file"),
    ],
)
async def test_reload_keeps_old_values_when_file_is_invalid(file, text, reason):
    with daemon(fake="ToneBackend", QWENTTS_CONFIG=str(file.path)) as process:
        before = await speak(process, "a")
        if text is None:
            file.path.unlink()
        else:
            file.path.write_text(text)
        process.process.send_signal(signal.SIGHUP)
        assert reason in process.wait_for("ERROR .*configuration not reloaded, the previous one stays in force: .*")[0]
        assert (await speak(process, "a")).pcm == before.pcm
        file.change(process, "audio: {lead_silence: 0}")
        assert (await speak(process, "a")).pcm == tone("a")


async def test_reload_keeps_old_values_when_default_file_is_gone(tmp_path):
    path = tmp_path / "qwentts" / "config.yaml"
    path.parent.mkdir()
    path.write_text("audio: {lead_silence: 1}")
    with daemon(fake="ToneBackend", XDG_CONFIG_HOME=str(tmp_path)) as process:
        path.unlink()
        process.process.send_signal(signal.SIGHUP)
        process.wait_for(
            r"ERROR .*configuration not reloaded, the previous one stays in force: .*config\.yaml: No such file"
        )
        assert (await speak(process, "a")).seconds > 1


async def test_reload_applies_log_level_to_daemon_and_workers(file):
    with daemon("engine.fallback=false", fake="Endless", debug=False, QWENTTS_CONFIG=str(file.path)) as process:
        for count, text in enumerate(("log: {level: DEBUG}", "log: {level: INFO}", "log: {level: DEBUG}")):
            file.change(process, text)
            async with connected(process) as client:
                await client.write_event(Synthesize("On and on.").event())
                await hear(client, "audio-chunk")
            process.wait_for("cancelled: job", count + 1)
        process.wait_for("DEBUG .*job 3 cancelled")
        process.wait_for("DEBUG .*connected", 4)
        assert not [line for line in process.lines if "job 2 cancelled" in line]


def test_reload_notifies_systemd(file, tmp_path):
    systemd = Systemd(str(tmp_path / "notify"))
    with systemd.socket, daemon(fake="ToneBackend", QWENTTS_CONFIG=str(file.path), **systemd.environment) as process:
        systemd.until("READY=1")
        for text in ("audio: {lead_silence: 2}", "a broken file"):
            file.path.write_text(text)
            process.process.send_signal(signal.SIGHUP)
            assert systemd.until("RELOADING=1")[-1].splitlines()[1].removeprefix("MONOTONIC_USEC=").isdecimal()
            systemd.until("READY=1")


def test_daemon_exits_when_its_terminal_is_closed():
    terminal, inside = pty.openpty()
    command = ["setsid", "--ctty", sys.executable, "-m", "qwentts_daemon"]
    words = ["--config", "/dev/null", "--backend", "espeak", "--uri", "tcp://127.0.0.1:0"]
    with subprocess.Popen([*command, *words], cwd=ROOT, stdin=inside, stdout=inside, stderr=inside) as process:
        try:
            os.close(inside)
            seen = b""
            while b"qwentts-espeak is ready" not in seen:
                seen += os.read(terminal, 4096)
            os.close(terminal)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


# --- what can change ------------------------------------------------------------------------------------------


def test_live_keys_exist_in_the_schema():
    for section, keys in LIVE.items():
        assert keys <= type(getattr(Config(), section)).model_fields.keys()


CONFIGS = st.builds(
    Config,
    wyoming=st.builds(Wyoming, name=st.sampled_from(["a", "b"]), max_connections=st.integers(1, 3)),
    engine=st.builds(Engine, max_jobs=st.integers(1, 3), job_timeout=st.integers(1, 3)),
    voices=st.builds(Voices, dir=st.sampled_from(["a", "b"]), default=st.sampled_from(["a", "b"])),
    audio=st.builds(Audio, trim_silence=st.booleans(), lead_silence=st.floats(0, 3)),
    text=st.builds(Text, max_length=st.integers(1, 3)),
    queue=st.builds(Queue, max_size=st.integers(1, 3)),
    log=st.builds(Log, format=st.sampled_from(["plain", "json"]), level=st.sampled_from(["DEBUG", "INFO"])),
)


@given(CONFIGS, CONFIGS)
def test_compare_takes_live_keys_and_lists_those_that_need_a_restart(old, new):
    change = compare(old, new)
    for section in Config.model_fields:
        for key in type(getattr(old, section)).model_fields:
            before, wanted, now = (getattr(getattr(each, section), key) for each in (old, new, change.config))
            name, live = f"{section}.{key}", key in LIVE.get(section, ())
            assert now == (wanted if live else before)
            assert (name in change.taken) == (live and before != wanted)
            assert (name in change.needs_restart) == (not live and before != wanted)
