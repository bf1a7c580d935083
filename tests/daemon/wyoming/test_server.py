"""What a Wyoming client sees; each trap that Home Assistant sets is a test here."""

import asyncio
import contextlib
import json
import socket

import pytest
from wyoming.audio import AudioStop
from wyoming.event import Event
from wyoming.info import Describe, Info, SelectProgram
from wyoming.ping import Ping
from wyoming.tts import Synthesize, SynthesizeChunk, SynthesizeStart, SynthesizeStop, SynthesizeVoice

from tests.support.fakes import RATE, tone
from tests.support.harness import connected, daemon, hear, speak, stream

ONE_SHOT = ["audio-start", "audio-chunk", "audio-stop"]
STREAMED = [*ONE_SHOT, "synthesize-stopped"]


def tones(text):
    """What the tone backend makes of a text."""
    return b"".join(map(tone, text))


@pytest.fixture(scope="module")
def tone_daemon():
    with daemon(fake="ToneBackend") as process:
        yield process


async def test_synthesize_sends_start_chunks_stop(tone_daemon):
    heard = await speak(tone_daemon, "Hello there.")
    assert heard.types == ONE_SHOT
    assert heard.rate == RATE
    assert heard.pcm == tones("Hello there.")


async def test_several_sentences_are_one_reply(tone_daemon):
    heard = await speak(tone_daemon, "One is here. Two is here. Three is here.")
    assert heard.types == ONE_SHOT
    assert heard.pcm == tones("One is here. Two is here. Three is here.")


@pytest.mark.parametrize("compat", [False, True], ids=["without synthesize", "with the compat synthesize"])
async def test_streamed_text_is_spoken_once(tone_daemon, compat):
    heard = await stream(tone_daemon, "Hel", "", "lo the", "re. How a", "re you?", compat=compat)
    assert heard.types == STREAMED
    assert heard.pcm == tones("Hello there. How are you?")


async def test_audio_starts_before_streamed_text_ends(tone_daemon):
    async with connected(tone_daemon) as client:
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("The first sentence. And").event())
        heard = await hear(client, "audio-chunk")
        assert heard.types == ["audio-start", "audio-chunk"]
        await client.write_event(SynthesizeChunk(" a second.").event())
        await client.write_event(SynthesizeStop().event())
        rest = await hear(client, "synthesize-stopped")
    assert heard.pcm + rest.pcm == tones("The first sentence. And a second.")


@pytest.mark.parametrize("text", ["", "   ", "**", "🎉", "```\ncode\n```", "https://example.org/x"])
async def test_text_without_speech_is_answered_with_100_ms_of_silence(tone_daemon, text):
    for heard, types in ((await speak(tone_daemon, text), ONE_SHOT), (await stream(tone_daemon, text), STREAMED)):
        assert heard.types == types
        assert heard.seconds == pytest.approx(0.1)
        assert not any(heard.pcm)


async def test_stream_without_text_is_answered_with_silence(tone_daemon):
    heard = await stream(tone_daemon)
    assert heard.types == STREAMED
    assert heard.seconds == pytest.approx(0.1)


async def test_connection_serves_several_replies_and_both_flows(tone_daemon):
    async with connected(tone_daemon) as client:
        for text in ("First one.", "Second one."):
            await client.write_event(Synthesize(text).event())
            assert (await hear(client, "audio-stop")).pcm == tones(text)
        await client.write_event(SynthesizeStart().event())
        await client.write_event(SynthesizeChunk("Third one.").event())
        await client.write_event(SynthesizeStop().event())
        assert (await hear(client, "synthesize-stopped")).pcm == tones("Third one.")


# --- describe, ping and the rest -----------------------------------------------------------------------------------


async def describe(client):
    await client.write_event(Describe().event())
    return Info.from_event((await hear(client, "info")).events[-1])


async def test_describe_lists_one_program_with_voices(tone_daemon):
    async with connected(tone_daemon) as client:
        info = await describe(client)
    (program,) = info.tts
    assert program.name == "qwen-tts"
    assert program.installed
    assert program.supports_synthesize_streaming
    assert [voice.name for voice in program.voices] == ["ryan", "vivian"]
    assert all(voice.installed and voice.languages for voice in program.voices)
    assert [speaker.name for speaker in program.voices[1].speakers] == ["soft"]


async def test_describe_and_ping_are_answered_during_reply():
    with daemon(fake="Endless") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            await client.write_event(Ping("still there?").event())
            heard = await hear(client, "pong")
            assert heard.events[-1].data["text"] == "still there?"
            assert (await describe(client)).tts


async def test_select_program_rejects_other_programs(tone_daemon):
    async with connected(tone_daemon) as client:
        await client.write_event(SelectProgram("qwen-tts").event())
        await client.write_event(Synthesize("Yes.").event())
        assert (await hear(client, "audio-stop")).types == ONE_SHOT
        await client.write_event(SelectProgram("piper").event())
        assert (await hear(client, "never")).code == "invalid-request"


async def test_unknown_events_are_ignored(tone_daemon):
    async with connected(tone_daemon) as client:
        await client.write_event(Event("transcribe", {"language": "en"}, b"payload"))
        await client.write_event(AudioStop().event())
        await client.write_event(Synthesize("Still here.").event())
        assert (await hear(client, "audio-stop")).pcm == tones("Still here.")


async def test_body_of_unknown_event_is_not_parsed(tone_daemon):
    reader, writer = await asyncio.open_connection("127.0.0.1", tone_daemon.port)
    writer.write(b'{"type": "transcript", "data_length": 1000000, "payload_length": 9}\n' + b"[" * 1_000_009)
    writer.write(b'{"type": "ping"}\n')
    assert json.loads(await reader.readline())["type"] == "pong"
    writer.close()


@pytest.mark.parametrize("voice", [{"language": ""}, {"name": "", "language": "", "speaker": ""}])
async def test_empty_voice_or_language_means_default(tone_daemon, voice):
    async with connected(tone_daemon) as client:
        await client.write_event(Event("synthesize", {"text": "Hi.", "voice": voice}))
        assert (await hear(client, "audio-stop")).seconds


async def test_language_with_voice_name_is_used(tone_daemon):
    async with connected(tone_daemon) as client:
        await client.write_event(Event("synthesize", {"text": "Hallo.", "voice": {"name": "ryan", "language": "fr"}}))
        heard = await hear(client, "never")
    assert heard.code == "language-not-supported"


# --- refusals ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "code"),
    [
        (Synthesize("Hi.", SynthesizeVoice("nobody")).event(), "voice-not-found"),
        (Synthesize("Hi.", SynthesizeVoice("vivian", speaker="loud")).event(), "voice-not-found"),
        (Synthesize("Hi.", SynthesizeVoice(language="fr")).event(), "language-not-supported"),
        (Synthesize("<speak/>", text_format="ssml").event(), "text-format-not-supported"),
        (Synthesize("Hi." * 100_000).event(), "text-too-long"),
        (Event("synthesize", {"text": "Hi.", "context": [[]] * 100_000}), "text-too-long"),
        (Synthesize("Please [refuse] this.").event(), "synthesis-failed"),
        (Event("synthesize", {}), "invalid-request"),
        (Event("synthesize", {"text": 5}), "invalid-request"),
        (Event("synthesize", {"text": "Hi.", "voice": "ryan"}), "invalid-request"),
        (Event("synthesize", {"text": "Hi.", "voice": {"name": 1}}), "invalid-request"),
        (Event("synthesize", {"text": "Hi.", "voice": {"name": "@" * 100_000}}), "invalid-request"),
        (Event("synthesize", {"text": "Hi.", "voice": {"language": "_" * 100_000}}), "invalid-request"),
        (Event("synthesize-start", {"voice": {"speaker": "a" * 201}}), "invalid-request"),
        (Event("synthesize-start", {"context": "a" * 70_000}), "invalid-request"),
        (Event("select-program", {"name": "a" * 201}), "invalid-request"),
        (Event("ping", {"text": "a" * 70_000}), "invalid-request"),
        (SynthesizeChunk("Hi.").event(), "invalid-request"),
        (SynthesizeStop().event(), "invalid-request"),
    ],
)
async def test_rejected_request_gets_error_code_and_end_of_reply(tone_daemon, event, code):
    async with connected(tone_daemon) as client:
        await client.write_event(event)
        heard = await hear(client, "never")
    assert heard.types == ["error"]
    assert heard.code == code
    assert heard.events[0].data["text"]


@pytest.mark.parametrize("pieces", [1, 400], ids=["whole", "streamed"])
async def test_text_beyond_limit_is_spoken_to_the_last_sentence_that_fits(tone_daemon, pieces):
    sentences = ["A little more of it."] * 400  # 8,000 characters, of which text.max_length admits 5,000
    if pieces == 1:
        heard = await speak(tone_daemon, " ".join(sentences))
    else:
        heard = await stream(tone_daemon, *(f"{sentence} " for sentence in sentences))
        assert heard.types[-1] == "synthesize-stopped"
    assert heard.code is None
    assert heard.pcm == tones(" ".join(sentences[:250]))
    assert len([line for line in tone_daemon.lines if "only the first 5000 characters are spoken" in line]) >= 1


async def test_dropped_characters_do_not_count_for_the_limit(tone_daemon):
    image = f"![](data:image/png;base64,{'A' * 6000})"
    assert (await speak(tone_daemon, f"{image} The cat is out.")).pcm == tones("The cat is out.")


@pytest.mark.parametrize(
    "data",
    [
        b"{" + b" " * (1 << 20) + b"}\n",
        b"[" * 20_000 + b"\n",
        b'{"type": "\xff\xfe"}\n',
        b'{"type": "synthesize", "payload_length": 1000000000000}\n' + bytes(1 << 20),
        b"\n",
        b'{"type": "synthesize", "data_length": 3}\nabc',
    ],
    ids=["1 MB header", "deep JSON", "bad UTF-8", "1 TB payload", "blank line", "bad data"],
)
async def test_invalid_event_ends_connection_with_error(tone_daemon, data):
    reader, writer = await asyncio.open_connection("127.0.0.1", tone_daemon.port)
    writer.write(data)
    header = json.loads(await reader.readline())
    assert header["type"] == "error"
    assert json.loads(await reader.readexactly(header["data_length"]))["code"] == "invalid-request"
    assert await reader.read() == b""
    writer.close()


@pytest.mark.parametrize("limit", [1, 64], ids=["refused", "served"])
async def test_clients_that_disconnect_before_the_error_do_not_affect_others(limit):
    with daemon(f"wyoming.max_connections={limit}", fake="ToneBackend") as process:
        async with connected(process) as other:
            await describe(other)
            for data in (b"\n", b'{"type": "synthesize-stop"}\n', b""):
                for _ in range(200):
                    with socket.create_connection(("127.0.0.1", process.port)) as client:
                        client.sendall(data)
                await other.write_event(Synthesize("Still here.").event())
                assert (await hear(other, "audio-stop")).pcm == tones("Still here."), data


async def test_null_data_means_empty_data(tone_daemon):
    reader, writer = await asyncio.open_connection("127.0.0.1", tone_daemon.port)
    writer.write(b'{"type": "ping", "data": null}\n')
    assert json.loads(await reader.readline())["type"] == "pong"
    writer.close()


async def test_invalid_input_flood_uses_no_memory(tone_daemon):
    await speak(tone_daemon, "Warm up.")
    before = tone_daemon.rss()
    reader, writer = await asyncio.open_connection("127.0.0.1", tone_daemon.port)
    try:
        for _ in range(200):
            writer.write(bytes(1 << 20))
            await writer.drain()
    except ConnectionError:
        pass  # cut off, as it should be
    writer.close()
    assert tone_daemon.rss() - before < 20 << 20
    assert (await speak(tone_daemon, "Still here.")).types == ONE_SHOT
    del reader


async def test_connections_beyond_limit_are_rejected():
    with daemon("wyoming.max_connections=2", fake="ToneBackend") as process:
        async with connected(process) as first, connected(process) as second:
            await describe(first)
            await describe(second)
            async with connected(process) as third:
                assert (await hear(third, "never")).code == "too-many-connections"
        process.wait_for("disconnected", 2)
        assert (await speak(process, "Free again.")).types == ONE_SHOT


async def test_idle_client_is_disconnected_even_during_text():
    with daemon("wyoming.idle_timeout=0.3", fake="ToneBackend") as process:
        async with connected(process) as silent, connected(process) as halfway:
            await halfway.write_event(SynthesizeStart().event())
            assert (await hear(silent, "never")).code == "idle-timeout"
            assert (await hear(halfway, "never")).code == "idle-timeout"


async def test_idle_timeout_does_not_cut_long_reply():
    with daemon("wyoming.idle_timeout=0.2", "engine.job_timeout=0.8", fake="Mute") as process:
        heard = await speak(process, "Nothing is ever made of this.")
    assert heard.code == "deadline-exceeded"


async def test_slow_reader_is_disconnected_and_its_job_paused():
    with daemon("wyoming.write_timeout=1", fake="Endless") as process:
        before = process.rss()
        reader, writer = await asyncio.open_connection("127.0.0.1", process.port, limit=1024)
        writer.write(b'{"type": "synthesize", "data": {"text": "On and on."}}\n')
        await asyncio.to_thread(process.wait_for, "nothing read for 1 s")
        await asyncio.to_thread(process.wait_for, "cancelled: job 1")
        assert process.rss() - before < 20 << 20
        writer.close()
        del reader


# --- ends and beginnings -------------------------------------------------------------------------------------------


async def test_disconnect_cancels_job():
    with daemon(fake="Endless") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
        process.wait_for(r"engine\.worker\.process: job 1 cancelled")


async def test_new_request_interrupts_running_reply():
    with daemon(fake="Endless") as process:
        async with connected(process) as client:
            await client.write_event(Synthesize("On and on.").event())
            await hear(client, "audio-chunk")
            await client.write_event(SynthesizeStart().event())
            assert (await hear(client, "audio-stop")).types in (["audio-stop"], ["audio-chunk", "audio-stop"])
            process.wait_for(r"engine\.worker\.process: job 1 cancelled")
            await client.write_event(SynthesizeChunk("Something else.").event())
            await client.write_event(SynthesizeStop().event())
            assert (await hear(client, "audio-chunk")).types == ["audio-start", "audio-chunk"]
            await client.write_event(Synthesize("And something else.").event())
            heard = await hear(client, "audio-start")
            assert heard.types[-3:] == ["audio-stop", "synthesize-stopped", "audio-start"]


async def test_stalled_text_is_filled_with_silence_up_to_limit():
    with daemon("audio.stall_silence=0.1", "audio.stall_silence_max=0.3", fake="ToneBackend") as process:
        async with connected(process) as client:
            await client.write_event(SynthesizeStart().event())
            await client.write_event(SynthesizeChunk("Hm. So").event())
            spoken = tones("Hm.")
            pcm = b""
            while len(pcm) < len(spoken) + int(0.3 * RATE) * 2:
                pcm += (await hear(client, "audio-chunk")).pcm
            assert pcm == spoken + bytes(int(0.3 * RATE) * 2)
            await client.write_event(SynthesizeChunk(" there.").event())
            await client.write_event(SynthesizeStop().event())
            assert (await hear(client, "synthesize-stopped")).pcm == tones(" So there.")


async def test_stalled_streams_release_engine_slots():
    with daemon("engine.fallback=false", "text.stall=0.2", "queue.max_wait=20", fake="ToneBackend") as process:
        async with contextlib.AsyncExitStack() as stack:
            clients = [await stack.enter_async_context(connected(process)) for _ in range(4)]
            for client in clients:
                await client.write_event(SynthesizeStart().event())
                await client.write_event(SynthesizeChunk("Hm. So").event())
                await hear(client, "audio-chunk")
            assert (await speak(process, "Hello there.")).pcm == tones("Hello there.")
            await clients[0].write_event(SynthesizeChunk(" it goes on.").event())
            await clients[0].write_event(SynthesizeStop().event())
            rest = await hear(clients[0], "synthesize-stopped")
            assert rest.types[-2:] == ["audio-stop", "synthesize-stopped"]
            assert tones("So it goes on.") in rest.pcm


async def test_lead_and_tail_silence_are_added():
    with daemon("audio.lead_silence=0.25", "audio.tail_silence=0.5", fake="ToneBackend") as process:
        heard = await speak(process, "Hi.")
    assert heard.pcm == bytes(RATE // 4 * 2) + tones("Hi.") + bytes(RATE // 2 * 2)


async def test_queue_is_bounded_in_length_and_time():
    with daemon("engine.fallback=false", "queue.max_size=1", "queue.max_wait=2", fake="Endless") as process:
        async with connected(process) as a, connected(process) as b, connected(process) as c, connected(process) as d:
            for client in (a, b, c, d):  # as many as the engine takes
                await client.write_event(Synthesize("On and on.").event())
                await hear(client, "audio-chunk")
            async with connected(process) as waiting, connected(process) as refused:
                await waiting.write_event(Synthesize("Me too.").event())
                await describe(waiting)  # so that the server has read it before the next
                await refused.write_event(Synthesize("And me.").event())
                assert (await hear(refused, "never")).code == "queue-full"
                assert (await describe(a)).tts
                assert (await hear(waiting, "never")).code == "queue-timeout"


async def test_concurrent_clients_get_same_audio_as_one():
    text = "The first sentence is here. The second one follows it. And the third one ends the text."
    with daemon() as process:
        alone = (await speak(process, text)).pcm
        before = process.rss()
        together = await asyncio.gather(
            *(speak(process, text) for _ in range(16)), *(stream(process, text) for _ in range(16))
        )
        assert [heard.pcm == alone for heard in together] == [True] * 32
        assert process.rss() - before < 20 << 20
