"""The natural voice through the door that the worker uses, on tiny checkpoints."""

import dataclasses
import importlib.util
import logging
import shutil
import types

import pytest
import torch

from engine.checkpoint.load import read_config
from engine.checkpoint.memory_footprint import NumberBytes, footprint
from engine.checkpoint.memory_plan import needed
from engine.installation import install_command
from engine.ipc.messages import Done, Failed, Memory, Started, Synthesize, Voices
from engine.voices.listing import NARRATOR
from engine.worker.backends import BackendError, JobError
from engine.worker.backends import qwen3 as module
from engine.worker.backends.qwen3 import Qwen3Backend
from engine.worker.backends.qwen3_loading import choose_device, choose_dtype
from tests.engine.support.qwen3 import TEXT, Reference, drain, pcm_of, put_voice, same, settings, spoken
from tests.engine.support.tiny_models import tiny_directory


def loaded(folder, kind="custom_voice", **changed):
    backend = Qwen3Backend(settings(folder, kind, **changed))
    backend.load()
    return backend


@pytest.fixture
def preset(tmp_path):
    return loaded(tmp_path)


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(module, "LOOK_INTERVAL_S", 0.0)


def step(backend):
    """The events of one step."""
    events = []
    backend.step(events.append)
    return events


# --- what is spoken ------------------------------------------------------------------------------------------------


def test_preset_voice_has_exactly_the_audio_of_the_engine(preset):
    reference = Reference()
    assert same(spoken(preset), reference.preset(TEXT))
    assert same(spoken(preset, voice="eric", language="zh-CN"), reference.preset(TEXT, "eric", "chinese"))
    whispered = spoken(preset, style="whisper", instruct="Whisper.")
    assert same(whispered, reference.preset(TEXT, instruct="Whisper."))
    assert whispered != reference.preset(TEXT)


def test_qwen3_job_sends_started_chunks_and_done(preset):
    preset.add(Synthesize(1, "ryan", TEXT))
    events = drain(preset)
    assert isinstance(events[0], Started)
    assert events[0].rate == 24_000
    assert isinstance(events[-1], Done)
    assert events[-1].samples == len(pcm_of(events)) // 2 == 13 * 1920
    assert events[-1].cut == "max_new_tokens"
    assert events[-1].busy_s > 0


def test_appended_text_has_same_audio_as_whole_text(preset):
    whole = spoken(preset)
    preset.add(Synthesize(2, "ryan", "", ended=False))
    events = []
    for piece in ("hel", "lo wor", "ld, the", " door is", " open"):
        drain(preset, events)
        preset.append(2, piece)
    preset.end(2)
    assert same(pcm_of(drain(preset, events), 2), whole)


def test_concurrent_jobs_have_same_audio_as_single_ones(preset):
    alone = {voice: spoken(preset, voice=voice) for voice in ("ryan", "vivian", "sohee")}
    for job, voice in enumerate(alone):
        preset.add(Synthesize(job, voice, TEXT))
    events = drain(preset)
    for job, pcm in enumerate(alone.values()):
        assert same(pcm_of(events, job), pcm)


def test_paused_job_produces_nothing_and_cancelled_job_ends(preset):
    whole = spoken(preset)
    for job in (1, 2):
        preset.add(Synthesize(job, "ryan", TEXT))
    preset.hold(1, True)
    preset.cancel(2)
    preset.cancel(99)
    assert drain(preset) == []
    preset.append(2, "more")
    preset.end(2)
    preset.hold(2, False)
    preset.hold(1, False)
    assert same(pcm_of(drain(preset)), whole)


def test_idle_backend_reports_gpu_memory_but_not_on_cpu(preset, monkeypatch):
    assert step(preset) == []
    preset._opened = dataclasses.replace(preset._opened, on_gpu=True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (3_000, 12_000))
    assert step(preset) == []  # too soon
    monkeypatch.setattr(module, "MEMORY_INTERVAL_S", 0.0)
    preset._next_memory_s = 0.0
    assert step(preset) == [Memory(9_000)]
    preset.add(Synthesize(1, "ryan", TEXT))
    assert Memory(9_000) not in step(preset)


def test_empty_text_ends_without_audio(preset):
    preset.add(Synthesize(1, "ryan", ""))
    (done,) = drain(preset)
    assert (done.samples, done.cut) == (0, None)


def test_replies_differ_without_a_seed(tmp_path):
    backend = loaded(tmp_path, sampling={"max_new_tokens": 14})
    assert spoken(backend) != spoken(backend)


@pytest.mark.parametrize(
    ("request_", "code"),
    [
        (Synthesize(1, "rian", "Hi."), "voice-not-found"),
        (Synthesize(1, "ryan", "Hi.", language="nl"), "language-not-supported"),
        (Synthesize(1, "ryan", "Hi.", style="loud"), "voice-not-found"),
    ],
)
def test_add_rejects_unknown_voice_style_and_language(preset, request_, code):
    with pytest.raises(JobError) as refused:
        preset.add(request_)
    assert refused.value.code == code
    assert drain(preset) == []


# --- voices of the folder ------------------------------------------------------------------------------------------


def test_cloned_voice_speaks_with_and_without_transcript(tmp_path):
    words = put_voice(tmp_path, "anna", 1, "the door is open", kind="clone", language="de-DE")
    vector = put_voice(tmp_path, "bert", 2, kind="clone")
    backend, reference = loaded(tmp_path, "base"), Reference("base")
    assert [voice.id for voice in backend.voices()] == ["anna", "bert"]
    recording = words / "reference.wav"
    assert same(spoken(backend, voice="anna"), reference.cloned(TEXT, recording, "the door is open"))
    german = reference.cloned(TEXT, recording, "the door is open", "german")
    assert same(spoken(backend, voice="anna", language="de-DE"), german)
    assert same(spoken(backend, voice="bert"), reference.cloned(TEXT, vector / "reference.wav", None))


def test_designed_voice_speaks_with_description_and_style(tmp_path):
    put_voice(tmp_path, "ghost", kind="design", instruct="A ghost.", styles={"sad": "Very sad."})
    backend, reference = loaded(tmp_path, "voice_design"), Reference("voice_design")
    assert same(spoken(backend, voice="ghost"), reference.designed(TEXT, "A ghost."))
    assert same(spoken(backend, voice="ghost", style="sad"), reference.designed(TEXT, "A ghost. Very sad."))
    whispering = reference.designed(TEXT, "A ghost. Whisper.")
    assert same(spoken(backend, voice="ghost", style="x", instruct="Whisper."), whispering)


def test_voice_design_without_voices_offers_a_narrator(tmp_path):
    backend = loaded(tmp_path, "voice_design")
    assert same(spoken(backend, voice="narrator"), Reference("voice_design").designed(TEXT, NARRATOR.instruct))


def test_load_of_base_without_voices_fails_temporarily_with_remedy(tmp_path, caplog):
    put_voice(tmp_path, "broken", kind="clone")
    with pytest.raises(BackendError, match="make one: qwentts-daemon clone NAME --audio FILE") as refused:
        loaded(tmp_path, "base")
    assert not refused.value.permanent
    assert "(broken: " in str(refused.value)
    assert caplog.messages == []  # the daemon logs it, once


def test_load_of_base_with_unusable_recording_waits_for_a_new_one(tmp_path, at_once):
    (put_voice(tmp_path, "anna", kind="clone") / "reference.wav").write_bytes(b"no sound")
    backend = loaded(tmp_path, "base")
    assert backend.voices() == ()
    put_voice(tmp_path, "anna", 1, kind="clone")
    events = [event for _ in range(2) for event in step(backend)]
    assert [voice.id for event in events for voice in event.voices] == ["anna"]
    assert spoken(backend, voice="anna")


def test_voice_prompt_is_cached_until_its_recording_changes(tmp_path, monkeypatch):
    heard = []
    real = torch.nn.Module.__call__

    def counting(self, *arguments, **options):
        heard.append(type(self).__name__)
        return real(self, *arguments, **options)

    directory = put_voice(tmp_path, "anna", 1, "the door", kind="clone")
    first = spoken(loaded(tmp_path, "base"), voice="anna")
    (kept,) = directory.glob(".prompt-*.npz")
    monkeypatch.setattr(torch.nn.Module, "__call__", counting)
    assert same(spoken(loaded(tmp_path, "base"), voice="anna"), first)
    assert "SpeakerEncoder" not in heard
    put_voice(tmp_path, "anna", 3, "the door", kind="clone")
    assert spoken(loaded(tmp_path, "base"), voice="anna") != first
    assert "SpeakerEncoder" in heard
    assert kept not in directory.glob(".prompt-*.npz")
    next(directory.glob(".prompt-*.npz")).write_bytes(b"damaged")
    loaded(tmp_path, "base")


def test_backend_follows_added_changed_and_removed_voices(tmp_path, at_once):
    put_voice(tmp_path, "anna", 1, kind="clone")
    backend = loaded(tmp_path, "base")
    anna = spoken(backend, voice="anna")
    put_voice(tmp_path, "bert", 2, kind="clone")
    events = []
    backend.step(events.append)
    assert events == []  # it may still be being copied
    backend.step(events.append)
    assert [event for event in events if isinstance(event, Voices)] == [Voices(backend.voices())]
    bert = spoken(backend, voice="bert")
    assert bert != anna
    shutil.rmtree(tmp_path / "anna")
    put_voice(tmp_path, "bert", 1, kind="clone")
    for _ in range(2):
        backend.step(events.append)
    assert [voice.id for voice in events[-1].voices] == ["bert"]
    assert same(spoken(backend, voice="bert"), anna)
    with pytest.raises(JobError):
        spoken(backend, voice="anna")


def test_broken_voice_is_logged_once(tmp_path, at_once, caplog):
    put_voice(tmp_path, "anna", 1, kind="clone")
    backend = loaded(tmp_path, "base")
    (put_voice(tmp_path, "broken", kind="clone") / "reference.wav").write_bytes(b"no sound")
    for _ in range(4):
        backend.step([].append)
    (tmp_path / "anna" / "transcript.txt").write_text("hello")  # the folder is read again
    for _ in range(4):
        backend.step([].append)
    lines = [record for record in caplog.records if "broken" in record.getMessage()]
    assert [record.levelno for record in lines] == [logging.WARNING]
    assert "the voice broken is skipped: " in lines[0].getMessage()
    assert [voice.id for voice in backend.voices()] == ["anna"]


# --- errors --------------------------------------------------------------------------------------------------------


@pytest.fixture
def copy(tmp_path):
    return shutil.copytree(tiny_directory("custom_voice"), tmp_path / "checkpoint")


def refused(folder, name, **changed):
    with pytest.raises(BackendError) as error:
        loaded(folder, name=str(name), **changed)
    return str(error.value), error.value.permanent


def test_load_rejects_incomplete_or_foreign_checkpoint_permanently(tmp_path, copy):
    (copy / "vocab.json").rename(copy / "away")
    assert refused(tmp_path, copy) == (
        f"{copy}: lacks vocab.json; it is not a complete Qwen3-TTS 12 Hz checkpoint",
        True,
    )
    (copy / "away").rename(copy / "vocab.json")
    weights = (copy / "model.safetensors").read_bytes()
    (copy / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    assert "is truncated or corrupt" in refused(tmp_path, copy)[0]
    config = (copy / "config.json").read_text()
    (copy / "config.json").write_text(config.replace("custom_voice", "singing"))
    reason, permanent = refused(tmp_path, copy)
    assert "singing" in reason
    assert "base, custom_voice, voice_design" in reason
    assert permanent
    assert refused(tmp_path, tmp_path / "nowhere")[1]


def test_load_without_network_fails_temporarily(tmp_path):
    reason, permanent = refused(tmp_path, "someone/model", offline=True, cache_dir=str(tmp_path))
    assert "the hub cannot be reached or offline mode is on" in reason
    assert not permanent


def test_load_without_packages_fails_with_remedy(tmp_path, monkeypatch):
    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in ("torch", "soxr") else real(name))
    reason, permanent = refused(tmp_path, tiny_directory("custom_voice"))
    assert reason == f"not installed: torch, soxr; {install_command('engine')}"
    assert permanent


def test_load_rejects_invalid_sampling_permanently(tmp_path):
    reason, permanent = refused(tmp_path, tiny_directory("custom_voice"), sampling={"top_p": 2.0})
    assert "sampling: top_p must be between" in reason
    assert permanent


def test_load_out_of_memory_fails_temporarily(tmp_path, monkeypatch):
    def full(*arguments):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("engine.worker.backends.qwen3_loading.load_checkpoint", full)
    reason, permanent = refused(tmp_path, tiny_directory("custom_voice"))
    assert "not enough GPU memory" in reason
    assert "engine.max_jobs" in reason
    assert not permanent


def test_load_checks_gpu_memory_before_loading(tmp_path, monkeypatch):
    monkeypatch.setattr("engine.worker.backends.qwen3_loading.free_bytes", lambda device: 300 << 20)
    monkeypatch.setattr("engine.worker.backends.qwen3_loading.load_checkpoint", None)
    reason, permanent = refused(tmp_path, tiny_directory("custom_voice"))
    assert "GB of GPU memory are missing for engine.max_jobs 3; close other programs" in reason
    assert not permanent


def test_slots_are_as_long_as_free_memory_allows(tmp_path, monkeypatch):
    sizes = footprint(read_config(tiny_directory("custom_voice")), NumberBytes(4, 4))
    free = iter([1 << 40, needed(sizes, 3, 1536)])  # before loading, and after
    monkeypatch.setattr("engine.worker.backends.qwen3_loading.free_bytes", lambda device: next(free))
    backend = loaded(tmp_path)
    assert "3 jobs of 1536 positions (123 s of speech)" in backend.description


def test_load_fails_temporarily_when_gpu_fills_meanwhile(tmp_path, monkeypatch):
    free = iter([1 << 40, 0])
    monkeypatch.setattr("engine.worker.backends.qwen3_loading.free_bytes", lambda device: next(free))
    reason, permanent = refused(tmp_path, tiny_directory("custom_voice"))
    assert "no GPU memory is left for engine.max_jobs 3" in reason
    assert not permanent


@pytest.fixture
def machine(monkeypatch):
    """Make torch and the driver look like those of another machine."""

    def pretend(build, gpus, driver, capability=(8, 6)):
        monkeypatch.setattr(torch.version, "cuda", build)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr("engine.worker.backends.qwen3_loading.has_gpu", lambda: driver)

    return pretend


def test_choose_device_prefers_gpu_and_warns_of_cpu(machine, caplog):
    machine("12.8", 2, True)
    assert (choose_device("auto"), choose_device("cuda:1"), choose_device("cpu")) == ("cuda:0", "cuda:1", "cpu")
    assert caplog.messages == []
    machine(None, 0, False)
    assert choose_device("auto") == "cpu"
    assert "runs on the CPU" in caplog.text


@pytest.mark.parametrize(
    ("build", "wanted", "permanent"), [("12.8", "auto", False), ("12.8", "cuda:1", False), (None, "cuda", True)]
)
def test_choose_device_fails_temporarily_while_gpu_is_missing(machine, build, wanted, permanent):
    machine(build, 0, True)
    with pytest.raises(BackendError) as missing:
        choose_device(wanted)
    assert missing.value.permanent == permanent


def test_choose_dtype_follows_compute_capability(machine):
    machine("12.8", 1, True, (8, 6))
    assert choose_dtype("auto", "cuda:0") is torch.bfloat16
    machine("12.8", 1, True, (7, 5))
    assert choose_dtype("auto", "cuda:0") is torch.float32
    assert choose_dtype("auto", "cpu") is torch.float32
    assert choose_dtype("float16", "cuda:0") is torch.float16


def failing(backend, error):
    """Let the next step of the model raise; return a function that repairs it."""
    runner = backend._opened.engine._runner
    real = runner.advance

    def advance(*arguments):
        raise error

    runner.advance = advance
    return lambda: setattr(runner, "advance", real)


def test_out_of_memory_fails_only_the_jobs_of_that_step(preset):
    whole = spoken(preset)
    for job in (1, 2, 3):
        preset.add(Synthesize(job, "ryan", TEXT))
    preset.step([].append)
    preset.hold(3, True)
    mend = failing(preset, torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate"))
    events = drain(preset)
    assert [(event.job, event.code) for event in events] == [(1, "synthesis-failed"), (2, "synthesis-failed")]
    assert all(isinstance(event, Failed) and "GPU ran out of memory" in event.reason for event in events)
    mend()
    assert same(spoken(preset, job=4), whole)
    preset.hold(3, False)
    assert isinstance(drain(preset)[-1], Done)


def test_out_of_memory_while_priming_voice_fails_only_its_job(tmp_path, monkeypatch):
    put_voice(tmp_path, "anna", 1, "the door", kind="clone")
    backend = loaded(tmp_path, "base")

    def full(codes):
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as short:
        short.setattr(backend._opened.clones._primed, "_prime", full)
        with pytest.raises(JobError, match="GPU ran out of memory"):
            backend.add(Synthesize(1, "anna", TEXT))
    assert spoken(backend, voice="anna")


def test_other_device_error_propagates_from_step(preset):
    preset.add(Synthesize(1, "ryan", TEXT))
    preset.step([].append)
    failing(preset, RuntimeError("CUDA error: an illegal memory access was encountered"))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        drain(preset)


def test_warm_up_does_not_change_later_jobs(tmp_path):
    backend = loaded(tmp_path)
    whole = spoken(backend)
    backend._opened = types.SimpleNamespace(
        **{
            name: getattr(backend._opened, name) for name in ("loaded", "engine", "clones", "sampling", "out_of_memory")
        },
        on_gpu=True,
    )
    backend._warm_up()
    assert backend._opened.engine.jobs == ()
    assert same(spoken(backend), whole)
