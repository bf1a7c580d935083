"""Rhasspy's Hermes: handles `hermes/tts/say` for our sites and reports the end.

A site is a target of type `hermes`; without one nothing of this is listened to.
"""

from __future__ import annotations

import json
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from ..sinks.hermes_site import PlayAcks, played_topic
from .messages import MAX_PAYLOAD_BYTES, Say, check_text
from .publisher import Message, Publisher

SAY = "hermes/tts/say"
SAY_FINISHED = "hermes/tts/sayFinished"
REMEMBERED = 256
"""Most requests in progress; the answer to an older one is dropped."""

log = logging.getLogger(__name__)


class _Asked(BaseModel):
    """The keys of a request that matter here; others are ignored."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    text: Annotated[str, AfterValidator(check_text)]
    siteId: Annotated[str, Field(max_length=200)] = "default"
    lang: Annotated[str, Field(max_length=120)] | None = None
    id: Annotated[str, Field(max_length=200)] | None = None
    sessionId: Annotated[str, Field(max_length=200)] | None = None


class _Played(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)

    id: str


_Message = TypeVar("_Message", bound=BaseModel)


@dataclass(frozen=True, slots=True)
class Session:
    """The session that receives the answer."""

    id: str | None
    site: str
    session: str | None


class Hermes:
    """The sites that are targets, and their requests in progress."""

    def __init__(self, sites: Mapping[str, str], publisher: Publisher, acks: PlayAcks) -> None:
        """`sites`: the target name of each site."""
        self._sites = dict(sites)
        self._publisher = publisher
        self._sessions: OrderedDict[str, Session] = OrderedDict()
        self._acks = acks

    @property
    def topics(self) -> list[str]:
        """Return the topics to subscribe to."""
        return [SAY, *(played_topic(site) for site in self._sites)] if self._sites else []

    def asked(self, payload: bytes) -> tuple[Say, Session] | None:
        """Return the request of `hermes/tts/say`; None, with a log line, if it is not for one of our sites."""
        asked = _read(_Asked, SAY, payload)
        if asked is None:
            return None
        if asked.siteId not in self._sites:
            log.debug("%s: the site %r is not one of ours", SAY, asked.siteId[:60])
            return None
        say = Say(text=asked.text, language=asked.lang or None, targets=[self._sites[asked.siteId]])
        return say, Session(asked.id, asked.siteId, asked.sessionId)

    def begin(self, announcement: str, session: Session) -> None:
        """Remember to answer the request once this announcement is over."""
        self._sessions[announcement] = session
        if len(self._sessions) > REMEMBERED:
            self._sessions.popitem(last=False)

    def over(self, announcement: str) -> None:
        """Answer the request: it was spoken, or never will be."""
        if session := self._sessions.pop(announcement, None):
            self.answer(session)

    def answer(self, session: Session) -> None:
        """Publish that it is over; dialogues wait for that, also if nothing was played."""
        answer = {"id": session.id, "siteId": session.site, "sessionId": session.session}
        self._publisher.tell(Message(SAY_FINISHED, json.dumps(answer).encode()))

    def played(self, payload: bytes) -> None:
        """Handle `playFinished` of a site; those of other sites are ignored."""
        told = _read(_Played, "playFinished", payload)
        if told:
            self._acks.acknowledge(told.id)


def _read(kind: type[_Message], what: str, payload: bytes) -> _Message | None:
    if len(payload) > MAX_PAYLOAD_BYTES:
        log.warning("%s: the payload has %d bytes; at most %d are read", what, len(payload), MAX_PAYLOAD_BYTES)
        return None
    try:
        return kind.model_validate_json(payload)
    except ValidationError as error:
        problem = error.errors()[0]
        log.warning("%s: %s", what, ": ".join(filter(None, (".".join(map(str, problem["loc"])), problem["msg"]))))
        return None
