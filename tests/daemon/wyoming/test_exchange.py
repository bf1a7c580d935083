"""The order of Wyoming events, fuzzed without sockets: any client, any reply, any moment."""

import re

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from wyoming.event import Event

from qwentts_daemon.audio.pcm import Pcm
from qwentts_daemon.errors import Code, SpeechError
from qwentts_daemon.voices.request import SynthesisRequest
from qwentts_daemon.wyoming.exchange import (
    CountRequest,
    EndText,
    FeedText,
    Interrupt,
    SelectProgram,
    Send,
    SendInfo,
    SpeechExchange,
    StartReply,
)

CHUNK = Pcm(24_000, bytes(480))
LETTERS = {"audio-start": "a", "audio-chunk": "c", "audio-stop": "z", "synthesize-stopped": "s", "error": "!"}
BAD_DATA = [{}, {"text": 1}, {"text": "x", "text_format": "ssml"}, {"text": "x", "voice": "ryan"},
            {"text": "x", "voice": {"name": 3}}, {"text": "x", "voice": {"name": "unknown"}}]  # fmt: skip
REQUESTS = ["synthesize", "synthesize-start", "synthesize-chunk", "synthesize-stop"]
OTHERS = ["describe", "ping", "select-program", "audio-chunk", "synthesize-stopped", ""]


def resolve(name, language, speaker):
    if name == "unknown":
        raise SpeechError(Code.VOICE_NOT_FOUND, "no such voice")
    return SynthesisRequest(name or "ryan", language, speaker)


def types(events):
    return [event.type for event in events]


class Exchange(RuleBasedStateMachine):
    """A driver that obeys, and a record of what it sent."""

    def __init__(self):
        super().__init__()
        self.exchange = SpeechExchange(resolve)
        self.sent = ""
        self.replies = []  # whether each was streamed
        self.running = False  # the last one
        self.text_ended = True
        self.closed = self.failed = False
        self.race = None

    def send(self, events):
        self.sent += "".join(LETTERS[event.type] for event in events)

    def receive(self, event, race=None):
        was_open = self.exchange.stream_open
        try:
            for command in self.exchange.receive(event):
                self.execute(command, event, race)
        except SpeechError as error:
            self.send(self.exchange.fail(error))
            self.closed = self.failed = True
        if event.type == "synthesize" and was_open:
            assert self.exchange.stream_open, "its text is repeated inside a stream"

    def execute(self, command, event, race):
        assert not self.closed
        match command:
            case Interrupt():
                self.interrupt(race)
            case StartReply():
                assert not self.running
                self.replies.append(event.type == "synthesize-start")
                self.running, self.text_ended = True, False
            case FeedText(text):
                assert isinstance(text, str)
                assert not self.text_ended
            case EndText():
                assert not self.text_ended
                self.text_ended = True
            case Send(event):
                assert event.type == "pong"
            case _:
                assert isinstance(command, CountRequest | SendInfo | SelectProgram)

    def interrupt(self, race):
        """Cancel the reply, which may send a last chunk, or come to its own end, before the cancellation."""
        assert self.running
        if race == "chunk":
            self.send(self.exchange.audio(CHUNK))
        if race == "end":
            self.send(self.exchange.end_reply())
        self.send(self.exchange.end_reply())
        self.running = False

    @rule(kind=st.sampled_from(REQUESTS[:2]), race=st.sampled_from([None, "chunk", "end"]))
    def a_client_asks(self, kind, race):
        self.receive(Event(kind, {"text": "Hello."}), race)

    @precondition(lambda self: self.exchange.stream_open)
    @rule(kind=st.sampled_from(REQUESTS[2:]))
    def a_client_streams(self, kind):
        self.receive(Event(kind, {"text": "Hello."}))

    @rule(kind=st.sampled_from(OTHERS))
    def a_client_sends_something_else(self, kind):
        self.receive(Event(kind, {}))

    @rule(kind=st.sampled_from(REQUESTS + OTHERS), data=st.sampled_from(BAD_DATA))
    def a_client_breaks_a_rule(self, kind, data):
        self.receive(Event(kind, data))

    @precondition(lambda self: self.running)
    @rule()
    def audio_comes(self):
        self.send(self.exchange.audio(CHUNK))

    @precondition(lambda self: self.running)
    @rule()
    def the_reply_ends(self):
        self.send(self.exchange.end_reply())
        self.running = self.closed and self.running

    @precondition(lambda self: not self.closed)
    @rule(half_close=st.booleans())
    def the_client_leaves(self, half_close):
        for command in self.exchange.receive_eof(half_close):
            assert command == Interrupt()
            assert self.exchange.end_reply() == [], "the client has disconnected"
        self.closed = not half_close

    @precondition(lambda self: self.running and not self.failed)
    @rule()
    def the_reply_fails(self):
        self.send(self.exchange.fail(SpeechError(Code.SYNTHESIS_FAILED, "no")))
        self.closed = self.failed = True

    @invariant()
    def the_order_is_kept(self):
        ended, last = (self.replies[:-1], self.replies[-1:]) if self.running else (self.replies, [])
        grammar = "".join("(ac+z)?" + ("s" if streamed else "") for streamed in ended) + "(ac+)?" * len(last)
        assert re.fullmatch(grammar + ("!" if self.failed else ""), self.sent), (grammar, self.sent)

    @invariant()
    def the_state_is_the_drivers(self):
        assert self.exchange.replying == (self.running and not self.closed)
        open_stream = bool(self.replies) and self.replies[-1] and not self.text_ended and not self.closed
        assert self.exchange.stream_open == open_stream


TestExchange = Exchange.TestCase
TestExchange.settings = settings(max_examples=300, stateful_step_count=30, deadline=None)


def test_exchange_runs_a_whole_text():
    exchange = SpeechExchange(resolve)
    event = Event("synthesize", {"text": "Hello.", "voice": {"name": "anna", "language": "de", "speaker": "soft"}})
    request = SynthesisRequest("anna", "de", "soft")
    assert list(exchange.receive(event)) == [CountRequest(), StartReply(request), FeedText("Hello."), EndText()]
    assert types(exchange.audio(CHUNK)) == ["audio-start", "audio-chunk"]
    assert types(exchange.audio(CHUNK)) == ["audio-chunk"]
    assert types(exchange.end_reply()) == ["audio-stop"]
    assert exchange.end_reply() == []


def test_exchange_streams_a_text_whose_audio_begins_before_its_end():
    exchange = SpeechExchange(resolve)
    assert list(exchange.receive(Event("synthesize-start", {})))[1:] == [StartReply(SynthesisRequest("ryan"))]
    assert list(exchange.receive(Event("synthesize-chunk", {"text": "One "}))) == [FeedText("One ")]
    assert types(exchange.audio(CHUNK)) == ["audio-start", "audio-chunk"]
    assert list(exchange.receive(Event("synthesize", {"text": "One two."}))) == []
    assert list(exchange.receive(Event("synthesize-stop", {}))) == [EndText()]
    assert types(exchange.end_reply()) == ["audio-stop", "synthesize-stopped"]


def test_exchange_does_not_interrupt_for_a_request_that_it_rejects():
    exchange = SpeechExchange(resolve)
    assert len(list(exchange.receive(Event("synthesize", {"text": "Hello."})))) == 4
    exchange.audio(CHUNK)
    commands = exchange.receive(Event("synthesize", {"text": "x", "voice": {"name": "unknown"}}))
    assert next(commands) == CountRequest()
    with pytest.raises(SpeechError) as raised:
        next(commands)
    assert types(exchange.fail(raised.value)) == ["error"]
    assert exchange.end_reply() == exchange.audio(CHUNK) == []
