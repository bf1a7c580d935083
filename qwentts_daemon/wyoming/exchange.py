"""The order of events of a Wyoming text-to-speech connection, without any I/O.

`SpeechExchange` is a Sans-I/O state machine (https://sans-io.readthedocs.io): its driver passes in the events of the
client and the audio of the reply, and carries out the commands, and sends the events, that come back. Two facts make
up its state: whether a stream's text is still arriving, and how far the output of the reply is.

| output  | meaning                          | audio                        | end_reply           | a new reply     |
|---------|----------------------------------|------------------------------|---------------------|-----------------|
| IDLE    | no reply                         | -                            | nothing             | StartReply      |
| PENDING | a reply without any audio yet    | audio-start, chunk → PLAYING | stopped* → IDLE     | Interrupt first |
| PLAYING | audio-start has been sent        | audio-chunk                  | audio-stop,         | Interrupt first |
|         |                                  |                              | stopped* → IDLE     |                 |
| CLOSED  | failed, or the client has left   | nothing                      | nothing             | nothing         |

*stopped: `synthesize-stopped`, for a streamed reply only.

    synthesize        StartReply, FeedText, EndText     ignored while a stream is open: it repeats the text for servers
                                                        that do not support streams
    synthesize-start  StartReply                        opens a stream, in the place of an open one
    synthesize-chunk  FeedText                          an error without an open stream
    synthesize-stop   EndText                           closes the stream; an error without an open one

A reply may end before its text does, if the engine cuts it; the rest of its stream is then read without effect. Home
Assistant depends on this order: exactly one audio-start, audio-chunks and one audio-stop, then synthesize-stopped if
the reply was streamed. A failure is an `error` event without audio-stop, then the end of the connection.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from wyoming.audio import AudioChunk, AudioStart, AudioStop
from wyoming.error import Error
from wyoming.event import Event
from wyoming.ping import Pong
from wyoming.tts import SynthesizeStopped

from ..audio.pcm import Pcm
from ..errors import Code, SpeechError
from ..voices.request import SynthesisRequest

SAMPLE_BYTES = 2
NAME_CHARS = 200
"""The greatest length of a name, language, speaker or other short text from a client."""
EVENT_DATA_BYTES = 64 * 1024
"""The greatest length of the data of an event, besides its text."""
CHARACTER_BYTES = 12
"""The greatest length of a character in JSON: an escaped surrogate pair."""
TEXT_EVENTS = frozenset({"synthesize", "synthesize-chunk"})
EVENTS = TEXT_EVENTS | {"describe", "ping", "select-program", "synthesize-start", "synthesize-stop"}
"""The event types that `SpeechExchange.receive` handles; it ignores all others."""

Resolve = Callable[[str | None, str | None, str | None], SynthesisRequest]
"""Turns voice name, language and speaker into a request. Raises SpeechError."""


# --- commands -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class CountRequest:
    """Count a request against the client's rate limit."""


@dataclass(frozen=True, slots=True)
class SendInfo:
    """Answer `describe`."""


@dataclass(frozen=True, slots=True)
class Send:
    """Send an event."""

    event: Event


@dataclass(frozen=True, slots=True)
class SelectProgram:
    """Check the name of the program that the client wants."""

    name: str | None


@dataclass(frozen=True, slots=True)
class Interrupt:
    """Cancel the running reply, then send what `end_reply` returns."""


@dataclass(frozen=True, slots=True)
class StartReply:
    """Begin a reply; its text follows."""

    request: SynthesisRequest


@dataclass(frozen=True, slots=True)
class FeedText:
    """Append text to the last reply."""

    text: str


@dataclass(frozen=True, slots=True)
class EndText:
    """The text of the last reply is complete."""


Action = CountRequest | SendInfo | Send | SelectProgram | Interrupt | StartReply | FeedText | EndText


class Output(Enum):
    """How far the output of the last reply is."""

    IDLE = auto()
    PENDING = auto()
    PLAYING = auto()
    CLOSED = auto()


# --- the state machine ----------------------------------------------------------------------------------------


class SpeechExchange:
    """One connection: parsed events in, commands and events out."""

    def __init__(self, resolve: Resolve) -> None:
        self._resolve = resolve
        self._output = Output.IDLE
        self._streamed = False  # the last reply
        self._stream_open = False

    @property
    def stream_open(self) -> bool:
        """Whether the text of a streamed reply is still arriving."""
        return self._stream_open

    @property
    def replying(self) -> bool:
        """Whether a reply runs."""
        return self._output in (Output.PENDING, Output.PLAYING)

    def receive(self, event: Event) -> Iterator[Action]:
        """Yield what to do for an event of the client. Carry out each command before taking the next.

        Raises SpeechError for an event that breaks the rules: pass it to `fail` and close the connection.
        """
        if self._output is Output.CLOSED:
            return
        match event.type:
            case "describe":
                yield CountRequest()
                yield SendInfo()
            case "ping":
                yield Send(Pong(_optional_text(event.data, "text")).event())
            case "select-program":
                yield SelectProgram(_short_text(event.data, "name"))
            case "synthesize" if not self._stream_open:
                yield from self._start_reply(event, streamed=False)
                yield FeedText(_text(event))
                yield EndText()
            case "synthesize-start":
                yield from self._start_reply(event, streamed=True)
            case "synthesize-chunk":
                self._require_stream(event)
                yield FeedText(_text(event))
            case "synthesize-stop":
                self._require_stream(event)
                self._stream_open = False
                yield EndText()

    def receive_eof(self, half_close: bool) -> Iterator[Action]:
        """Yield what to do when the client will send no more; with `half_close` it still reads."""
        if half_close or self._output is Output.CLOSED:
            return
        interrupt = self.replying
        self._close()
        if interrupt:
            yield Interrupt()

    def audio(self, pcm: Pcm) -> list[Event]:
        """Return the events that send a chunk of the running reply."""
        if self._output is Output.CLOSED:
            return []
        assert self.replying, "audio without a reply"
        chunk = AudioChunk(pcm.rate, SAMPLE_BYTES, 1, pcm.samples).event()
        if self._output is Output.PLAYING:
            return [chunk]
        self._output = Output.PLAYING
        return [AudioStart(pcm.rate, SAMPLE_BYTES, 1).event(), chunk]

    def end_reply(self) -> list[Event]:
        """Return the events that end the running reply, which is complete or was interrupted."""
        if not self.replying:
            return []
        events = [AudioStop().event()] if self._output is Output.PLAYING else []
        if self._streamed:
            events.append(SynthesizeStopped().event())
        self._output = Output.IDLE
        return events

    def fail(self, error: SpeechError) -> list[Event]:
        """Return the last event of the connection."""
        self._close()
        return [Error(str(error), error.code).event()]

    def _close(self) -> None:
        self._output, self._stream_open = Output.CLOSED, False

    def _start_reply(self, event: Event, streamed: bool) -> Iterator[Action]:
        """Check a request before it interrupts the running reply."""
        yield CountRequest()
        text_format = _short_text(event.data, "text_format")
        if text_format not in (None, "text"):
            raise SpeechError(Code.TEXT_FORMAT_NOT_SUPPORTED, f"text_format {text_format!r:.40} is not supported")
        voice = event.data.get("voice") or {}
        if not isinstance(voice, dict):
            raise SpeechError(Code.INVALID_REQUEST, "voice must be an object")
        name, language, speaker = (_short_text(voice, key) or None for key in ("name", "language", "speaker"))
        request = self._resolve(name, language, speaker)
        self._stream_open = False
        if self.replying:
            yield Interrupt()
        self._output, self._streamed, self._stream_open = Output.PENDING, streamed, streamed
        yield StartReply(request)

    def _require_stream(self, event: Event) -> None:
        if not self._stream_open:
            raise SpeechError(Code.INVALID_REQUEST, f"{event.type} without synthesize-start")


def _text(event: Event) -> str:
    text = event.data.get("text")
    if not isinstance(text, str):
        raise SpeechError(Code.INVALID_REQUEST, f"{event.type} needs a text")
    return text


def _optional_text(data: dict[str, object], key: str) -> str | None:
    value = data.get(key)
    if value is not None and not isinstance(value, str):
        raise SpeechError(Code.INVALID_REQUEST, f"{key} must be a text")
    return value


def _short_text(data: dict[str, object], key: str) -> str | None:
    """Return a text that other code may search, compare and log. Raises SpeechError if it is too long."""
    value = _optional_text(data, key)
    if value and len(value) > NAME_CHARS:
        raise SpeechError(Code.INVALID_REQUEST, f"{key} is longer than {NAME_CHARS} characters")
    return value
