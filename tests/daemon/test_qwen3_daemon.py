"""The natural voice over Wyoming: a real daemon, a real worker, tiny checkpoints on the CPU."""

import asyncio
import os
import shutil
import subprocess
import sys
import wave

import pytest
from wyoming.tts import Synthesize, SynthesizeVoice

from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.schema import Config
from qwentts_daemon.errors import SpeechError
from qwentts_daemon.synthesis.reply import Synthesizer
from tests.engine.support.qwen3 import Reference, put_voice, same, write_wave
from tests.engine.support.tiny_models import tiny_directory
from tests.support.harness import PATIENCE_S, ROOT, connected, daemon, hear, speak, started, stream, voice_names

TEXT = "Hello there, the lights are on. The door is open!"
RATE, ESPEAK_RATE = 24_000, 22_050
WORKER = "qwentts-qwen3"


def settings(voices, kind="custom_voice", *more, model=None):
    """The daemon's settings for a tiny checkpoint whose speech is short and always the same.

    Without silence in its pauses, which a busy machine makes at any place.
    """
    return (
        "engine.backend=qwen3", f"engine.model={model or tiny_directory(kind)}", "engine.devices=cpu",
        "engine.dtype=float32", "engine.seed=7", "sampling.max_new_tokens=14", "audio.stall_silence_max=0",
        f"voices.dir={voices}", *more,
    )  # fmt: skip


def natural(voices, kind="custom_voice", *more, **options):
    """A daemon whose model is loaded."""
    return daemon(*settings(voices, kind, *more), ready=WORKER, **options)


def run(*arguments, **environment):
    return subprocess.run(
        [sys.executable, "-m", "qwentts_daemon", *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, env={**os.environ, **environment},
    )  # fmt: skip


class Listening:
    """A pool that only notes which text a reply hands to its engine."""

    def job(self, request, text, priority, again):
        self.text = text
        raise SpeechError("synthesis-failed", "only listening")


async def handed_over(text):
    """Return the text that a reply passes to the engine."""
    pool = Listening()
    reply = Synthesizer(pool, LiveConfig(Config)).reply(None, "test")
    await reply.feed(text)
    reply.end_text()
    with pytest.raises(SpeechError, match="only listening"):
        await anext(reply.pcm())
    return pool.text


async def until_voices(process, *names):
    for _ in range(100):
        if await voice_names(process) == list(names):
            return
        await asyncio.sleep(0.1)
    raise AssertionError(f"{await voice_names(process)}, not {names}:\n" + "\n".join(process.lines))


@pytest.fixture(scope="module")
def preset(tmp_path_factory):
    with natural(tmp_path_factory.mktemp("voices"), "custom_voice", "engine.fallback=false") as process:
        yield process


# --- audio ---------------------------------------------------------------------------------------------------------


async def test_client_receives_exactly_the_audio_of_the_engine(preset):
    expected = Reference().preset(await handed_over(TEXT))
    heard = await speak(preset, TEXT)
    assert (heard.types, heard.rate) == (["audio-start", "audio-chunk", "audio-stop"], RATE)
    assert same(heard.pcm, expected)
    pieces = ("Hel", "lo there, the li", "ghts are on", ". The door", " is open!")
    assert same((await stream(preset, *pieces)).pcm, expected)
    assert same((await stream(preset, *TEXT, compat=True)).pcm, expected)


async def test_request_selects_voice_and_language(preset):
    expected = Reference().preset(await handed_over(TEXT), "sohee", "korean")
    async with connected(preset) as client:
        event = Synthesize(TEXT, SynthesizeVoice("sohee")).event()
        event.data["voice"]["language"] = "ko-KR"
        await client.write_event(event)
        assert same((await hear(client, "audio-stop")).pcm, expected)


async def test_concurrent_clients_receive_same_audio_as_one(preset):
    alone = (await speak(preset, TEXT)).pcm
    together = await asyncio.gather(*(speak(preset, TEXT) for _ in range(5)), *(stream(preset, TEXT) for _ in range(3)))
    assert all(same(heard.pcm, alone) for heard in together)


async def test_style_instruction_reaches_the_model(tmp_path):
    with natural(tmp_path, "custom_voice", "voices.styles={whisper: Whisper.}") as process:
        heard = await speak(process, TEXT, SynthesizeVoice("ryan", speaker="whisper"))
    assert same(heard.pcm, Reference().preset(await handed_over(TEXT), instruct="Whisper."))


async def test_disconnect_cancels_only_the_job_of_that_client(tmp_path):
    with natural(tmp_path, "custom_voice", "sampling.max_new_tokens=4000", "engine.max_jobs=1") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize(TEXT * 20).event())
            await hear(client, "audio-chunk")
        process.wait_for(r"engine\.worker\.process: job 1 cancelled")
        async with connected(process) as client:
            await client.write_event(Synthesize(TEXT).event())
            assert (await hear(client, "audio-chunk")).rate == RATE


# --- loading -------------------------------------------------------------------------------------------------------


async def test_fallback_speaks_for_listed_voices_while_model_loads(tmp_path):
    with started(
        *settings(tmp_path), fake="tests.support.fakes_qwen3:SlowQwen3", TEST_GATE=str(tmp_path / "gate")
    ) as process:
        process.wait_for("qwentts-espeak is ready")
        assert "ryan" in await voice_names(process)
        assert (await speak(process, TEXT, SynthesizeVoice("ryan"))).rate == ESPEAK_RATE
        (tmp_path / "gate").touch()
        described = r".* on CPU, float32, plain kernels, \d jobs of 4096 positions .328 s of speech., after "
        process.wait_for(rf"{WORKER} is ready: {described}")
        assert (await speak(process, TEXT, SynthesizeVoice("ryan"))).rate == RATE


async def test_request_waits_for_model_without_fallback(tmp_path):
    gate = tmp_path / "gate"
    more = settings(tmp_path, "custom_voice", "engine.fallback=false")
    with started(*more, fake="tests.support.fakes_qwen3:SlowQwen3", TEST_GATE=str(gate)) as process:
        async with connected(process) as client:
            await client.write_event(Synthesize(TEXT).event())
            assert "ryan" in await voice_names(process)
            gate.touch()
            assert (await hear(client, "audio-stop")).rate == RATE


async def test_fallback_speaks_and_log_explains_unloadable_checkpoint(tmp_path):
    broken = shutil.copytree(tiny_directory("custom_voice"), tmp_path / "broken")
    (broken / "vocab.json").unlink()
    with daemon(*settings(tmp_path, model=broken), ready="qwentts-espeak") as process:
        process.wait_for(
            r"cannot be loaded: .*/broken: lacks vocab.json; it is not a complete Qwen3-TTS 12 Hz checkpoint$"
        )
        assert (await speak(process, TEXT)).rate == ESPEAK_RATE


async def test_fallback_speaks_without_network_and_reason_is_logged_once(tmp_path):
    hub = "http://127.0.0.1:9"
    more = settings(
        tmp_path, "custom_voice", f"engine.cache_dir={tmp_path}", model="Qwen/Qwen3-TTS-12Hz-0.6B-CustomVoice"
    )
    with daemon(*more, ready="qwentts-espeak", HF_ENDPOINT=hub) as process:
        process.wait_for("cannot be loaded: .* the hub cannot be reached .*; it is tried again until it can")
        assert len(await voice_names(process)) == 9
        assert (await speak(process, TEXT)).rate == ESPEAK_RATE
        process.wait_for("DEBUG .* cannot be loaded")
        assert len([line for line in process.lines if "ERROR" in line]) == 1


def test_daemon_without_any_voice_exits_with_reason(tmp_path):
    with started(*settings(tmp_path, "custom_voice", "engine.fallback=false", model=tmp_path)) as process:
        assert process.wait() == os.EX_UNAVAILABLE
    assert "no voice can be loaded: " in process.lines[-2]
    assert "it is not a complete Qwen3-TTS 12 Hz checkpoint" in process.lines[-2]


# --- errors during a reply -----------------------------------------------------------------------------------------


async def test_out_of_memory_fails_one_reply_and_keeps_worker(tmp_path):
    with daemon(
        *settings(tmp_path, "custom_voice", "engine.fallback=false"), fake="tests.support.fakes_qwen3:ShortOfMemory"
    ) as process:
        pid = process.workers()[0].pid
        heard = await speak(process, TEXT)
        assert (heard.types[-1], heard.code) == ("error", "synthesis-failed")
        assert "GPU ran out of memory" in heard.events[-1].data["text"]
        assert (await speak(process, TEXT)).types[-1] == "audio-stop"
        assert process.workers()[0].pid == pid


# --- voices of the folder ------------------------------------------------------------------------------------------


async def test_new_voices_in_folder_speak_without_restart(tmp_path):
    first = put_voice(tmp_path, "anna", 1, "the door is open", kind="clone")
    with natural(tmp_path, "base") as process:
        heard = await speak(process, TEXT)
        expected = Reference("base").cloned(await handed_over(TEXT), first / "reference.wav", "the door is open")
        assert same(heard.pcm, expected)
        second = put_voice(tmp_path, "bert", 2, kind="clone", language="de-DE")
        (put_voice(tmp_path, "broken", kind="clone") / "reference.wav").write_bytes(b"no sound")
        await until_voices(process, "anna", "bert")
        heard = await speak(process, TEXT, SynthesizeVoice("bert"))
        expected = Reference("base").cloned(await handed_over(TEXT), second / "reference.wav", None)
        assert same(heard.pcm, expected)
        assert len([line for line in process.lines if "the voice broken is skipped" in line]) == 1


async def test_clone_command_creates_voice_from_recording(tmp_path):
    recording = write_wave(tmp_path / "me.wav", 2.0, seed=4)
    folder = tmp_path / "voices"
    with daemon(*settings(folder, "base"), ready="qwentts-espeak") as process:
        process.wait_for("cannot be loaded: .*cloned voices only.* make one: qwentts-daemon clone NAME --audio FILE")
        assert "espeak-en-us" in await voice_names(process)
        assert (await speak(process, "Hallo.", SynthesizeVoice("espeak-de"))).rate == ESPEAK_RATE
        words = ["--transcript", "the door is open", "--language", "de-DE", "--set", f"voices.dir={folder}"]
        made = await asyncio.to_thread(run, "clone", "me", "--audio", recording, *words, "--uri", process.uri)
        assert made.returncode == 0, made.stderr
        assert "2.0 s is short: 3 to 30 s work best" in made.stderr
        assert f"the voice me is in {folder}/me" in made.stdout
        assert "wrote 1.0 s of speech by me" in made.stdout
        with wave.open(str(folder / "me" / "sample.wav")) as sample:
            assert sample.getframerate() == RATE
        heard = await speak(process, TEXT, SynthesizeVoice("me"))
    reference = Reference("base").cloned(await handed_over(TEXT), recording, "the door is open")
    assert same(heard.pcm, reference)


def test_clone_rejects_unusable_input_and_prints_try_command(tmp_path):
    folder, nobody = ["--set", f"voices.dir={tmp_path}/voices"], ["--uri", "tcp://127.0.0.1:9"]
    recording = write_wave(tmp_path / "me.wav", 4.0)
    short = write_wave(tmp_path / "short.wav", 0.3)
    (tmp_path / "text.mp3").write_text("no sound")
    for name, audio, status, message in (
        ("me", tmp_path / "none.wav", os.EX_DATAERR, "No such file"),
        ("me", tmp_path / "text.mp3", os.EX_DATAERR, "not an audio file this engine can read"),
        ("me", short, os.EX_DATAERR, "0.3 s is too short"),
        ("m e", recording, os.EX_USAGE, "a voice's name must not contain a blank"),
    ):
        finished = run("clone", name, "--audio", audio, *folder, *nobody)
        assert (finished.returncode, "Traceback" in finished.stderr) == (status, False), finished.stderr
        assert message in finished.stderr
    finished = run("clone", "me", "--audio", recording, *folder, *nobody)
    assert finished.returncode == 0, finished.stderr
    assert "no daemon answers" in finished.stdout
    assert "qwentts-daemon say --voice me" in finished.stdout
    finished = run("clone", "me", "--audio", recording, *folder, *nobody)
    assert finished.returncode == os.EX_CANTCREAT
    assert "already exists; use another name, or --replace" in finished.stderr
    assert run("clone", "me", "--audio", recording, "--replace", *folder, *nobody).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes files for others")
def test_clone_as_root_gives_files_to_owner_of_folder(tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    os.chown(state, 12345, 12346)
    folder, nobody = ["--set", f"voices.dir={state}/voices"], ["--uri", "tcp://127.0.0.1:9"]
    assert run("clone", "me", "--audio", write_wave(tmp_path / "me.wav", 4.0), *folder, *nobody).returncode == 0
    made = {str(path.relative_to(state)): path.stat() for path in state.rglob("*")}
    assert made.keys() == {"voices", "voices/me", "voices/me/voice.yaml", "voices/me/reference.wav"}
    assert {(status.st_uid, status.st_gid) for status in made.values()} == {(12345, 12346)}


def test_download_prints_path_or_reason(tmp_path):
    found = run("download", tiny_directory())
    assert found.returncode == 0, found.stderr
    assert f"GB in {tiny_directory()}" in found.stdout
    cache = ["--set", f"engine.cache_dir={tmp_path}"]
    for name, environment, message in (
        ("someone/model", {"HF_HUB_OFFLINE": "1"}, "the hub cannot be reached or offline mode is on"),
        ("someone/model", {"HF_ENDPOINT": "http://127.0.0.1:9"}, "the hub cannot be reached or offline mode is on"),
        ("./nowhere", {}, "not an existing directory"),
    ):
        finished = run("download", name, *cache, **environment)
        assert finished.returncode == os.EX_UNAVAILABLE, finished.stderr
        assert message in finished.stderr
        assert "Traceback" not in finished.stderr
    assert run("download", "model").returncode == os.EX_CONFIG


def test_demo_script_speaks_with_model(tmp_path):
    program = tmp_path / "qwentts-daemon"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m qwentts_daemon "$@" \n')
    program.chmod(0o755)
    words = (program, tmp_path / "demo.wav", "Hello.", tiny_directory("custom_voice"))
    finished = subprocess.run(
        ["sh", ".ci/demo.sh", *map(str, words)],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "QWENTTS_SAMPLING_MAX_NEW_TOKENS": "14"},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert "first audio" in finished.stdout
    with wave.open(str(tmp_path / "demo.wav")) as made:
        assert made.getframerate() == RATE


def test_demo_script_fails_when_daemon_cannot_start(tmp_path):
    program = tmp_path / "qwentts-daemon"
    program.write_text("#!/bin/sh\necho no start here >&2\nexit 69\n")
    program.chmod(0o755)
    words = (program, tmp_path / "demo.wav", "Hello.")
    finished = subprocess.run(["sh", ".ci/demo.sh", *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    assert (finished.returncode, finished.stderr) == (os.EX_UNAVAILABLE, "no start here\n")


async def test_missing_default_voice_becomes_default_when_it_appears(tmp_path):
    folder = tmp_path / "voices"
    words = settings(folder, "base", "voices.default=bert", "voices.aliases={boss: bert}")
    with daemon(*words, ready="qwentts-espeak") as process:
        process.wait_for(r"voices\.default: no voice 'bert'.*; it may still come")
        process.wait_for(r"voices\.aliases\.boss: no voice 'bert'.*; it may still come")
        put_voice(folder, "anna", seed=3, kind="clone")
        process.wait_for("qwentts-qwen3 is ready")
        assert await voice_names(process) == ["anna"]
        put_voice(folder, "bert", seed=4, kind="clone")
        process.wait_for("2 voices now")
        while await voice_names(process) != ["bert", "anna", "boss"]:
            pass  # the daemon receives them shortly after the log line
        assert (await speak(process, TEXT)).rate == RATE


async def test_default_voice_missing_in_model_is_ignored(tmp_path):
    folder = tmp_path / "voices"
    with daemon(*settings(folder, "base", "voices.default=espeak-de"), ready="qwentts-espeak") as process:
        assert (await speak(process, "Guten Abend.")).rate == ESPEAK_RATE
        put_voice(folder, "anna", seed=3, kind="clone")
        process.wait_for("qwentts-qwen3 is ready")
        assert (await speak(process, TEXT)).rate == RATE
        process.wait_for(r"voices\.default: no voice 'espeak-de'.*; it may still come")
        assert await voice_names(process) == ["anna"]
