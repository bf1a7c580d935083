"""Backends that replace a GPU engine; `tests.support.fakes:Class` names one in an engine's settings."""

from __future__ import annotations

import array
import math
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

from engine.ipc.messages import Chunk, Done, Event, Memory, Started, Synthesize, Voice, Voices
from engine.ipc.settings import Settings
from engine.worker.backends import BackendError, JobError

RATE = 24_000
FRAME_SAMPLES = 960


class ToneBackend:
    """Speaks each character as a tone of its own, one a step and job, so that audio identifies its text."""

    description = "tones"
    capacity = 4
    takes_new_voices = False
    step_limit_s = 0.0
    long_running = False

    def __init__(self, settings: Settings) -> None:
        self._texts: dict[int, str] = {}
        self._ended: set[int] = set()
        self._held: set[int] = set()
        self._made: dict[int, int] = {}

    def voices(self) -> tuple[Voice, ...]:
        return (
            Voice("ryan", "Ryan", ("en-US", "de-DE", "zh-CN"), follows_instruct=True),
            Voice("vivian", "Vivian", ("zh-CN", "en-US"), styles=("soft",)),
        )

    def load(self) -> None:
        pass

    def add(self, request: Synthesize) -> None:
        if "[refuse]" in request.text:
            raise JobError("synthesis-failed", "refused on demand")
        self._texts[request.job], self._made[request.job] = request.text, 0
        if request.ended:
            self._ended.add(request.job)

    def append(self, job: int, text: str) -> None:
        self._texts[job] += text

    def end(self, job: int) -> None:
        self._ended.add(job)

    def cancel(self, job: int) -> None:
        self._texts.pop(job, None)
        self._made.pop(job, None)
        self._ended.discard(job)
        self._held.discard(job)

    def hold(self, job: int, held: bool) -> None:
        (self._held.add if held else self._held.discard)(job)

    def step(self, send: Callable[[Event], None]) -> bool:
        advanced = [self._advance(job, send) for job in list(self._texts) if job not in self._held]
        return any(advanced)

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        piece, self._texts[job] = self._texts[job][:1], self._texts[job][1:]
        if piece:
            self._speak(job, piece, send)
        elif job in self._ended:
            send(Done(job, self._made[job], 0.0))
            self.cancel(job)
        return bool(piece)

    def _speak(self, job: int, piece: str, send: Callable[[Event], None]) -> None:
        if not self._made[job]:
            now_s = time.monotonic()
            send(Started(job, RATE, now_s, now_s))
        self._made[job] += FRAME_SAMPLES
        send(Chunk(job, tone(piece)))


class Hanging(ToneBackend):
    """Hangs in a step, as with a GPU that never answers, at `[hang]`; at `[announced]` it announces the long step."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if "[hang]" in self._texts[job]:
            time.sleep(3600)
        if "[announced]" in self._texts[job]:
            self.long_running = True
            while not Path(os.environ["TEST_GATE"]).exists():
                time.sleep(0.01)
            self.long_running = False
            self._texts[job] = self._texts[job].replace("[announced]", "")
        return super()._advance(job, send)


class Fragile(ToneBackend):
    """Executes words in brackets: `[die]`, `[hang]`, `[eat]` all memory, or be `[slow]`."""

    _pause_s = 0.0

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        for word, act in {"[die]": _die, "[hang]": _hang, "[eat]": _eat, "[slow]": self._slow_down}.items():
            if self._texts[job].startswith(word):
                self._texts[job] = self._texts[job].removeprefix(word)
                act()
        time.sleep(self._pause_s if self._texts[job] else 0)
        return super()._advance(job, send)

    def _slow_down(self) -> None:
        self._pause_s = 4 * FRAME_SAMPLES / RATE

    def cancel(self, job: int) -> None:
        super().cancel(job)
        self._pause_s = 0.0


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    time.sleep(3600)


def _eat() -> None:
    eaten = [bytearray(1 << 20)]
    while True:
        eaten.append(bytearray(1 << 20))


class SlowLoading(ToneBackend):
    """Loads once the file that TEST_GATE names exists."""

    def load(self) -> None:
        while not Path(os.environ["TEST_GATE"]).exists():
            time.sleep(0.01)


class Folder(ToneBackend):
    """Has a voice for each directory of the voices folder, found while it loads."""

    takes_new_voices = True

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        assert settings.model
        self._folder = Path(settings.model.voices_dir)
        self._found: list[str] = []

    def voices(self) -> tuple[Voice, ...]:
        return super().voices() + tuple(Voice(name, name, ("en",)) for name in self._found)

    def load(self) -> None:
        self._found = [entry.name for entry in self._folder.iterdir()]


class OnlyFolder(Folder):
    """Has only the voices of the folder, which it reads before each step."""

    _told: tuple[Voice, ...] = ()

    def voices(self) -> tuple[Voice, ...]:
        return tuple(Voice(entry.name, entry.name, ("en",)) for entry in self._folder.iterdir())

    def add(self, request: Synthesize) -> None:
        if request.voice not in {voice.id for voice in self.voices()}:
            raise JobError("voice-not-found", f"no voice {request.voice}")
        super().add(request)

    def step(self, send: Callable[[Event], None]) -> bool:
        if self._told != self.voices():
            self._told = self.voices()
            send(Voices(self._told))
        return super().step(send)


class Unloadable(ToneBackend):
    """Can never be loaded."""

    def load(self) -> None:
        raise BackendError("no such model", permanent=True)


class Endless(ToneBackend):
    """Speaks a text for ever, as fast as it may."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        self._speak(job, "a", send)
        return True


class Mute(ToneBackend):
    """Takes jobs and makes nothing."""

    def step(self, send: Callable[[Event], None]) -> bool:
        return False


class Suicidal(ToneBackend):
    """Dies by SIGKILL when it meets `[die]`, after one frame."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if "[die]" in self._texts[job] and self._made[job]:
            os.kill(os.getpid(), signal.SIGKILL)
        return super()._advance(job, send)


def tone(character: str) -> bytes:
    """One frame whose pitch is made from the character."""
    pitch_hz = 100 + 7 * (ord(character) % 256)
    return array.array(
        "h", (round(8000 * math.sin(2 * math.pi * pitch_hz * n / RATE)) for n in range(FRAME_SAMPLES))
    ).tobytes()


class Faulty(ToneBackend):
    """Has a fault of its own while it loads."""

    def load(self) -> None:
        raise KeyError("weights")


class EndlessSingle(Endless):
    """Speaks one text for ever and takes no other."""

    capacity = 1


class LoadsOnFirst(ToneBackend):
    """Can be loaded on the first GPU only."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._device = settings.model.device if settings.model else ""

    def load(self) -> None:
        if self._device != "cuda:0":
            raise BackendError("no such device", permanent=True)


class MuteOnDemand(ToneBackend):
    """Makes nothing of a text with `[mute]`, and a second of audio a second of all others."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if "[mute]" in self._texts[job]:
            return False
        time.sleep(0.01)
        return super()._advance(job, send)


class Gated(ToneBackend):
    """Speaks one frame of each text, and the rest once the file that TEST_GATE names exists."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if self._made[job] and not Path(os.environ["TEST_GATE"]).exists():
            time.sleep(0.01)
            return True
        return super()._advance(job, send)


class OnGpu(ToneBackend):
    """Reports the memory of its GPU."""

    def step(self, send: Callable[[Event], None]) -> bool:
        send(Memory(3_200_000_000))
        return super().step(send)


class Unknown:
    """A message of a class that the daemon does not accept."""


class Garbling(ToneBackend):
    """Sends a message of an unknown class for `[garble]`, after one frame."""

    def _advance(self, job: int, send: Callable[[Event], None]) -> bool:
        if "[garble]" in self._texts[job] and self._made[job]:
            send(Unknown())  # type: ignore[arg-type]
        return super()._advance(job, send)
