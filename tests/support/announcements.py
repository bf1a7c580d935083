"""Announcements in one process: the real speaker before an engine that is a tone, and loudspeakers that obey."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import json
import time
from collections.abc import AsyncIterator
from pathlib import Path

from engine.ipc.messages import Voice
from qwentts_daemon.announcements.announcer import Announcer
from qwentts_daemon.announcements.playback import PlaybackContext, TargetSink
from qwentts_daemon.audio.chime import Chime
from qwentts_daemon.config.live import LiveConfig
from qwentts_daemon.config.mqtt_schema import Mqtt
from qwentts_daemon.config.schema import Announce, Config, Voices
from qwentts_daemon.config.target_schema import WavTarget
from qwentts_daemon.errors import SinkError, SpeechError
from qwentts_daemon.mqtt.commands import CommandHandler, DaemonControls, EventPublisher
from qwentts_daemon.mqtt.connection import Incoming
from qwentts_daemon.mqtt.entities import Device, EntityPublisher, EntitySources
from qwentts_daemon.mqtt.hermes import Hermes
from qwentts_daemon.mqtt.preferences import PreferencesFile, PreferenceStore
from qwentts_daemon.mqtt.publisher import Publisher
from qwentts_daemon.sinks.hermes_site import PlayAcks
from qwentts_daemon.synthesis.reply import Synthesizer
from qwentts_daemon.voices.catalog import VoiceCatalog
from qwentts_daemon.workers.job import Job, Timing
from tests.support.fakes import RATE, tone
from tests.support.harness import PATIENCE_S

VOICES = (
    Voice("ryan", "Ryan", ("en-US", "de-DE", "zh-CN"), follows_instruct=True),
    Voice("vivian", "Vivian", ("zh-CN", "en-US"), styles=("soft",)),
)


class ToneEngine:
    """Replaces the pool of workers: each character is a tone, and all audio is available once it is released."""

    ready, failure, unloaded, gpu_memory_bytes = True, None, False, None

    def __init__(self) -> None:
        self.may_speak = asyncio.Event()
        self.may_speak.set()
        self.requests = []
        self.running = self.most_running = 0
        self._numbers = itertools.count(1)

    @contextlib.asynccontextmanager
    async def job(self, request, text, turn, again) -> AsyncIterator[Job]:
        now_s = time.monotonic()
        job = Job(next(self._numbers), Timing(now_s, now_s), lambda command: None, 10.0)
        self.requests.append((request, turn))
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        speaking = asyncio.create_task(self._speak(job, text))
        try:
            yield job
        finally:
            self.running -= 1
            speaking.cancel()

    async def _speak(self, job, text):
        await self.may_speak.wait()
        if "[refuse]" in text:
            job.fail(SpeechError("synthesis-failed", "refused on demand"))
            return
        job.started(RATE, time.monotonic(), time.monotonic())
        for character in text:
            job.deliver(tone(character))
        job.finish(0.001)


class Loudspeaker:
    """A sink in memory. It takes nothing until `may_play`, and may be broken."""

    def __init__(self, broken=False) -> None:
        self.broken = broken
        self.may_play = asyncio.Event()
        self.may_play.set()
        self.begun = []
        self.played = {}

    async def play(self, announcement, pcm, report) -> None:
        self.begun.append(announcement)
        report({"url": f"http://here/{announcement}.wav"})
        heard = b""
        async for each in pcm:
            heard += each.samples
            await self.may_play.wait()
            if self.broken:
                raise SinkError("no such device")
        self.played[announcement] = heard


def spoken(text):
    """The samples of a text."""
    return b"".join(map(tone, text))


@functools.cache
def chime() -> Chime:
    """Made once, for it takes a while."""
    return Chime()


class House:
    """Everything between a message and the loudspeakers."""

    def __init__(self, tasks, directory: Path, loudspeakers, announce, controls) -> None:
        self.engine = ToneEngine()
        self.loudspeakers = loudspeakers
        self.publisher = Publisher()
        targets = {name: WavTarget(type="wav", directory="/") for name in loudspeakers}
        config = Announce(targets=targets, **announce)
        speaker = Synthesizer(self.engine, LiveConfig(Config))
        catalog = VoiceCatalog(VOICES, Voices())
        sources = EntitySources(lambda: catalog, self.engine, speaker.activity)
        self.preferences = PreferenceStore(PreferencesFile(directory / "preferences.json"))
        self.entities = EntityPublisher(
            Device(Mqtt(), "test", controls.buttons), self.publisher, sources, self.preferences
        )
        events = EventPublisher(self.entities.topics, self.publisher, Hermes({}, self.publisher, PlayAcks()))
        outlets = {name: TargetSink(targets[name], sink) for name, sink in loudspeakers.items()}
        stage = PlaybackContext(speaker, asyncio.Semaphore(config.max_jobs), chime(), events.tell, tasks)
        self.announcer = Announcer(stage, outlets, config)
        self.commands = CommandHandler(
            self.announcer, events, self.entities, self.preferences, lambda: catalog, config, controls
        )
        self.letters = []

    def send(self, topic, payload=b"PRESS", **options) -> None:
        """Deliver a message as the broker does."""
        message = {"retained": False, "repeated": False, "number": 0} | options
        self.commands.take(Incoming(f"qwentts/test/{topic}", payload, **message))

    def say(self, text, name, **wishes) -> None:
        self.send("say/set", json.dumps({"text": text, "id": name, **wishes}).encode())

    def _collect(self):
        self.letters += [message for _, message in self.publisher._messages]
        self.publisher._messages.clear()

    def events(self, name=None):
        """Return the events published so far."""
        self._collect()
        events = [json.loads(each.payload) for each in self.letters if each.topic == "qwentts/test/event"]
        return [event for event in events if name is None or event.get("id") == name]

    def kinds(self, name=None):
        return [event["event_type"] for event in self.events(name)]

    async def when(self, found):
        """The first true result of `found`; the loop turns meanwhile."""
        async with asyncio.timeout(PATIENCE_S):
            while not (result := found()):  # noqa: ASYNC110 - its turns are what is waited for
                await asyncio.sleep(0)
            return result

    async def until(self, name, *kinds):
        """The event of one of these kinds about an announcement."""

        def found():
            return next((event for event in self.events(name) if event["event_type"] in kinds), None)

        return await self.when(found)

    async def over(self, name):
        return await self.until(name, "finished", "cancelled", "failed")


@contextlib.asynccontextmanager
async def house(directory: Path, loudspeakers=None, controls=None, **announce) -> AsyncIterator[House]:
    loudspeakers = {"kitchen": Loudspeaker()} if loudspeakers is None else loudspeakers
    async with asyncio.TaskGroup() as tasks:
        made = House(tasks, directory, loudspeakers, announce, controls or DaemonControls())
        try:
            yield made
        finally:
            made.announcer.stop()
            made.announcer.clear()
            made.announcer.close()
