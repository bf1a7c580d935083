"""Executes messages on the command topics at once, or rejects them with a reason; keeps nothing."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from ..announcements.announcer import Announcer
from ..announcements.playback import EventType
from ..announcements.queue import Announcement, Coalesced, RepeatedId, ReplyTo, Urgency
from ..config.schema import Announce
from ..errors import Code, SpeechError
from ..suggestions import did_you_mean
from ..voices.catalog import VoiceCatalog
from .connection import Incoming
from .entities import EntityPublisher
from .hermes import SAY, Hermes
from .messages import ButtonPress, Command, CommandError, Say, SettingChange, Stop, Topics, parse
from .preferences import PreferenceStore, changed, request_for
from .publisher import Message, Publisher

REMEMBERED_MESSAGES = 256
OVERFLOW_INTERVAL_S = 1.0
MAX_TOPIC_LENGTH = 200
"""Longest response topic: brokers disconnect clients that publish to a topic with too many levels."""

log = logging.getLogger(__name__)


class EventPublisher:
    """Publishes the events of announcements, also to the response topic of their sender."""

    def __init__(self, topics: Topics, publisher: Publisher, hermes: Hermes) -> None:
        self._topics = topics
        self._publisher = publisher
        self.hermes = hermes

    def tell(self, announcement: Announcement, event: EventType, facts: Mapping[str, object]) -> None:
        """Publish an event of an announcement."""
        if event in ("finished", "cancelled", "failed"):
            said = f"{len(announcement.text)} characters for {', '.join(announcement.targets)}"
            log.info("announcement %s %s: %s", announcement.id, event, said)
            self.hermes.over(announcement.id)
        self._send({"event_type": event, "id": announcement.id, **facts}, announcement.reply_to)

    def refuse(self, name: str | None, code: str, reason: str, reply_to: ReplyTo | None) -> None:
        """Report a message that was rejected."""
        named = {} if name is None else {"id": name}
        self._send({"event_type": "failed", **named, "code": code, "error": reason}, reply_to)

    def _send(self, event: Mapping[str, object], reply_to: ReplyTo | None) -> None:
        payload = json.dumps(event, ensure_ascii=False).encode()
        self._publisher.tell(Message(self._topics.event, payload))
        if reply_to:
            self._publisher.tell(Message(reply_to.topic, payload, correlation=reply_to.correlation))


class RejectionSummary:
    """Rejections without an id because the queue is full: nothing distinguishes them, so they are counted."""

    def __init__(self, events: EventPublisher) -> None:
        self._events = events
        self._untold = 0
        self._pause: asyncio.TimerHandle | None = None

    def add(self, reason: str) -> None:
        """Publish the first at once, then at most one event a second for all others."""
        self._untold += 1
        if self._pause is None:
            self._tell(reason)

    def _tell(self, reason: str) -> None:
        self._pause = None
        if not self._untold:
            return
        log.warning("%d announcements are refused: %s", self._untold, reason)
        self._events.refuse(None, Code.QUEUE_FULL, f"{reason}; {self._untold} refused", None)
        self._untold = 0
        self._pause = asyncio.get_running_loop().call_later(OVERFLOW_INTERVAL_S, self._tell, reason)


@dataclass(frozen=True, slots=True)
class DaemonControls:
    """What other parts of the daemon can do on command; None where they cannot."""

    reload: Callable[[], None] | None = None
    unload: Callable[[], None] | None = None

    @property
    def buttons(self) -> tuple[str, ...]:
        """Return the buttons of the device in Home Assistant."""
        own = (name for name in ("reload", "unload") if getattr(self, name))
        return ("stop", "clear", *own)


class CommandHandler:
    """Handles every incoming message; never raises."""

    def __init__(
        self,
        announcer: Announcer,
        events: EventPublisher,
        entities: EntityPublisher,
        preferences: PreferenceStore,
        catalog: Callable[[], VoiceCatalog],
        config: Announce,
        controls: DaemonControls,
    ) -> None:
        self._announcer = announcer
        self._events = events
        self._entities = entities
        self._preferences = preferences
        self._catalog = catalog
        self._config = config
        self._controls = controls
        self._overflow = RejectionSummary(events)
        self._received: deque[tuple[int, int]] = deque(maxlen=REMEMBERED_MESSAGES)

    def take(self, incoming: Incoming) -> None:
        """Execute it, or report to its sender why not."""
        if incoming.topic == self._entities.birth_topic:
            if not incoming.retained:
                self._entities.on_birth(incoming.payload)
            return
        if self._is_to_ignore(incoming):
            return
        if incoming.topic.startswith("hermes/"):
            self._hear_rhasspy(incoming)
            return
        reply_to = self._reply_to(incoming)
        name: str | None = None
        try:
            command = parse(self._entities.topics, incoming.topic, incoming.payload)
            name = command.id if isinstance(command, Say) else None
            self._obey(command, incoming, reply_to)
        except CommandError as error:
            self._events.refuse(error.id or name, Code.INVALID_REQUEST, str(error), reply_to)
        except SpeechError as error:
            if error.code == Code.QUEUE_FULL and not (name or reply_to):
                self._overflow.add(str(error))
                return
            self._events.refuse(name, error.code, str(error), reply_to)
        except Exception:
            log.exception("%s: internal error", incoming.topic)
            self._events.refuse(name, Code.INTERNAL_ERROR, "internal error; see the log of the daemon", reply_to)

    def _hear_rhasspy(self, incoming: Incoming) -> None:
        hermes = self._events.hermes
        if incoming.topic != SAY:
            hermes.played(incoming.payload)
        elif asked := hermes.asked(incoming.payload):
            say, session = asked
            say = say.model_copy(update={"id": secrets.token_hex(6)})
            hermes.begin(say.id or "", session)
            try:
                self._announcer.require_place(None)
                self._say(say, incoming, None)
            except (CommandError, SpeechError) as error:
                log.warning("%s: %s", SAY, error)
                hermes.over(say.id or "")

    def _is_to_ignore(self, incoming: Incoming) -> bool:
        """Return whether to ignore a message: a retained one would run at each start, a repeated one already has."""
        if incoming.retained:
            log.info("%s: ignored: a retained message is not a command", incoming.topic)
            return True
        mark = (incoming.number, hash((incoming.topic, incoming.payload)))
        if incoming.repeated and mark in self._received:
            log.info("%s: the broker repeats message %d, ignored", incoming.topic, incoming.number)
            return True
        self._received.append(mark)
        return False

    def _reply_to(self, incoming: Incoming) -> ReplyTo | None:
        """Return where to answer, or None: a reply must not press another device's buttons with our rights."""
        topic = incoming.response_topic
        if not topic or len(topic) > MAX_TOPIC_LENGTH or not topic.isprintable() or set(topic) & set("+#"):
            return None
        if topic.startswith(("$", *self._entities.reserved_prefixes)):
            return None
        return ReplyTo(topic, incoming.correlation)

    def _obey(self, command: Command, incoming: Incoming, reply_to: ReplyTo | None) -> None:
        match command:
            case Say():
                try:
                    self._announcer.require_place(command.id)
                    self._say(command, incoming, reply_to)
                except RepeatedId as repeated:
                    log.info("announcement %s was taken before, ignored", repeated)
            case Stop(id=name, targets=targets):
                self._announcer.stop(name, None if targets is None else self._known(targets))
            case ButtonPress("clear"):
                self._announcer.clear()
            case ButtonPress(button):
                self._press(button)
            case SettingChange(setting, value):
                self._preferences.set(changed(self._preferences.current, setting, value, self._catalog()))

    def _say(self, say: Say, incoming: Incoming, reply_to: ReplyTo | None) -> None:
        now_s = time.monotonic()
        preferences = self._preferences.current
        patience_s = [say.expires_s or self._config.expires, *([incoming.expires_s] if incoming.expires_s else [])]
        announcement = Announcement(
            id=say.id or secrets.token_hex(6),
            text=say.text,
            request=request_for(say, preferences, self._catalog()),
            targets=self._targets(say),
            urgency=Urgency[say.priority.upper()],
            volume=(preferences.volume if say.volume is None else say.volume) / 100,
            chime=self._config.chime if say.chime is None else say.chime,
            arrived_s=now_s,
            expires_at_s=now_s + min(patience_s),
            reply_to=reply_to,
        )
        try:
            self._announcer.say(announcement)
        except Coalesced as same:
            self._events.tell(announcement, "cancelled", {"reason": "coalesced", "into": same.into})

    def _targets(self, say: Say) -> tuple[str, ...]:
        if say.targets is not None:
            return self._known(say.targets)
        targets = self._config.default_targets or self._announcer.targets
        if not targets:
            raise CommandError("no target is configured (announce.targets)", say.id)
        return targets

    def _known(self, names: list[str]) -> tuple[str, ...]:
        for name in names:
            if name not in self._announcer.targets:
                hint = did_you_mean(name, self._announcer.targets) or "; define targets in announce.targets"
                raise CommandError(f"no target {name!r:.80}{hint}")
        return tuple(dict.fromkeys(names))

    def _press(self, button: str) -> None:
        act = getattr(self._controls, button) if button in self._controls.buttons else None
        if act is None:
            raise CommandError(f"there is no {button!r:.40} here")
        log.info("%s is asked for by MQTT", button)
        act()
