"""The fallback voice with its real library: its audio is repeatable, and jobs take turns."""

import hashlib
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from engine.ipc.messages import Chunk, Done, Started
from engine.worker.backends.espeak import EspeakBackend
from engine.worker.backends.espeak_library import SynthState
from engine.worker.backends.espeak_text import cut
from tests.engine.support.espeak import LIGHTS, RATE, drain, loudness, pcm_of, python, say, seconds, spoken

# --- the shape of a job ---------------------------------------------------------------------------------------


def test_espeak_job_sends_started_chunks_and_done(backend):
    backend.add(say(LIGHTS))
    events = drain(backend, [])
    started, *chunks, done = events
    assert isinstance(started, Started)
    assert isinstance(done, Done)
    assert (started.job, started.rate) == (1, RATE)
    assert started.made_s > started.received_s
    assert done.samples == len(pcm_of(events)) // 2
    assert done.busy_s > 0
    assert done.cut is None
    assert all(isinstance(chunk, Chunk) and len(chunk.pcm) % 2 == 0 for chunk in chunks)


def test_espeak_audio_has_length_and_loudness_of_speech(backend):
    pcm = spoken(backend, LIGHTS)
    assert 3 < seconds(pcm) < 8
    assert 500 < loudness(pcm) < 10_000


def test_first_chunk_is_smaller_than_later_ones(backend):
    backend.add(say("This is one long clause without a single break that goes on and on for quite a few words"))
    sizes = [seconds(event.pcm) for event in drain(backend, []) if isinstance(event, Chunk)]
    assert sizes[0] < 0.1
    assert all(0.15 < size < 0.5 for size in sizes[1:-1])


def test_sentences_are_separated_by_a_pause_without_trailing_silence(backend):
    one, two = spoken(backend, "Good night."), spoken(backend, "Sleep well.")
    both = spoken(backend, "Good night. Sleep well.")
    assert 0.2 < seconds(both) - seconds(one) - seconds(two) < 0.5
    assert any(both[-2:])


def test_new_job_runs_next_and_jobs_alternate(backend):
    for job in (1, 2):
        backend.add(say("One two three. Four five six. Seven eight nine.", job=job))
    order = []
    backend.step(order.append)
    backend.step(order.append)
    backend.step(order.append)
    backend.add(say("Me first.", job=3))
    drain(backend, order)
    jobs = [event.job for event in order]
    assert [job for job, next_job in pairwise([*jobs, 0]) if job != next_job] == [1, 2, 1, 3, 2, 1, 2]


# --- always the same ------------------------------------------------------------------------------------------

MIXED = [
    ("espeak-en-us", LIGHTS, None),
    ("espeak-es-es", "El perro de San Roque no tiene rabo, porque Ramón se lo ha robado.", None),
    ("espeak-ru", "Свет в гостиной включён, а дверь закрыта.", None),
    ("espeak-en-us", "Psst! The baby is asleep, so be quiet.", "whisper"),
    ("espeak-de", "Rund um den Rasen rennen rote Roboter. Wer räumt auf?", "female"),
    ("espeak-zh-cn", "客厅的灯开着，门锁好了。Good night!", None),
    ("espeak-vi", "Xin chào các bạn, hôm nay trời đẹp.", "deep"),
    ("espeak-pl", "Chrząszcz brzmi w trzcinie w Szczebrzeszynie.", "croak"),
]


def test_concurrent_jobs_have_same_audio_as_single_ones(backend):
    requests = [say(text, voice, job, style=style) for job, (voice, text, style) in enumerate(MIXED * 4)]
    alone = [spoken(backend, text, voice, style=style) for voice, text, style in MIXED]
    for request in requests:
        backend.add(request)
    events = drain(backend, [])
    assert [pcm_of(events, job) for job in range(32)] == alone * 4


def test_audio_is_identical_in_another_process(backend):
    code = (
        "import hashlib, sys; from engine.worker.backends.espeak import EspeakBackend\n"
        "from tests.engine.support import espeak as t\n"
        "backend = EspeakBackend(); backend.load()\n"
        "print(hashlib.sha256(t.spoken(backend, sys.argv[1], 'espeak-es-es', style='whisper')).hexdigest())"
    )
    text = "El perro corre, corre. Y ríe."
    here = hashlib.sha256(spoken(backend, text, "espeak-es-es", style="whisper")).hexdigest()
    assert python(code, text) == here


@pytest.mark.parametrize("voice", ["espeak-uk", "espeak-el", "espeak-en-us", "espeak-ru"])
def test_text_in_other_scripts_does_not_change_the_next_job(backend, voice):
    """Ideographs load another language's voice inside the library, and its speed used to stay."""
    before = spoken(backend, LIGHTS, "espeak-es-es", style="whisper")
    spoken(backend, "Ἀρχή, ц`竷⁋崄, かな, 한국, ไทย and абв.", voice)
    assert spoken(backend, LIGHTS, "espeak-es-es", style="whisper") == before


WHOLES = [
    ("en-us", "When the sun goes down, the lights turn on; however: not always! Really? Yes… Dr. Smith left. Good."),
    ("en-us", 'She said "yes." Then she left, e.g. for approx. five days. No. 7 is U.S. made (or not), J. S. Bach.'),
    ("en-us", "Line one.\n\nLine two.\nLine three"),
    ("de", "Am 3. Mai ist Dr. Müller da, d. h. um 10.30 Uhr. Das Licht ist an; „gut“, sagt er."),
    ("hu", "Ma december 2., szerda van. IV. Béla király, 10 óra. Jó napot!"),
    ("fr", "Bonjour à tous ! Quelle heure est-il ? Il est 3 h 30, Mme. Dupont. L'eau : « chaude »."),
    ("es", "¿Qué hora es? Son las tres, perro. ¡Hola! El Sr. Ruiz, de EE.UU., llega."),
    ("ru", "Свет включён, дверь закрыта. На ул. Ленина, д. 5, всё тихо. И т. д. Пока!"),
    ("hi", "नमस्ते दुनिया। मौसम अच्छा है, है ना? हाँ।"),
    ("ar", "مرحبا بالعالم، الطقس جميل. كيف حالك؟ جيد."),
    ("cmn", "你好世界，今天天气很好。是吗？再见！"),
    ("ja", "きょうは、てんきがいいです。またね。"),
    ("ko", "안녕하세요, 날씨가 좋습니다. 네!"),
]


@pytest.mark.parametrize(("voice", "text"), WHOLES)
def test_audio_of_pieces_equals_audio_of_whole_text(backend, voice, text):
    library = backend._library
    whole, joined = bytearray(), bytearray()
    library.speak(voice, text, SynthState(), whole.extend)
    pieces, rest = cut(text, ended=True)
    assert len(pieces) > 1
    assert rest == ""
    state = SynthState()
    for piece in pieces:
        state = library.speak(voice, piece, state, joined.extend)
    assert joined == whole


def test_installed_espeak_library_is_repeatable(backend):
    assert backend._library.repeatable


# --- text that arrives bit by bit -----------------------------------------------------------------------------


def test_appended_text_has_same_audio_as_whole_text(backend):
    backend.add(say("The lights are on.", ended=False))
    events = drain(backend, [])
    assert pcm_of(events)
    assert not any(isinstance(event, Done) for event in events)
    backend.append(1, " It is warm, and")
    backend.append(1, " the door is locked. Good")
    drain(backend, events)
    backend.append(1, " night!")
    backend.end(1)
    drain(backend, events)
    whole = spoken(backend, "The lights are on. It is warm, and the door is locked. Good night!")
    assert pcm_of(events) == whole
    assert isinstance(events[-1], Done)


def test_audio_is_independent_of_the_timing_of_steps(backend):
    texts = ["One,", " two and", " three. Four.", " Five"]

    def made(stepping):
        backend.add(say("", ended=False))
        events = []
        for text in texts:
            backend.append(1, text)
            if stepping:
                drain(backend, events)
        backend.end(1)
        return pcm_of(drain(backend, events))

    assert made(stepping=True) == made(stepping=False)


def test_unfinished_clause_is_not_spoken_until_end(backend):
    backend.add(say("Turn on", ended=False))
    assert drain(backend, []) == []
    backend.append(1, " the light")
    assert drain(backend, []) == []
    backend.end(1)
    assert pcm_of(drain(backend, [])) == spoken(backend, "Turn on the light")


# --- cancel, hold, and a listener that fails ------------------------------------------------------------------


def test_cancel_stops_job_without_changing_the_next(backend):
    alone = spoken(backend, LIGHTS)
    backend.add(say("One. Two. Three. Four. Five.", job=7))
    backend.add(say(LIGHTS))
    events = []
    backend.step(events.append)
    assert {event.job for event in events} == {7}
    events.clear()
    backend.cancel(7)
    drain(backend, events)
    assert {event.job for event in events} == {1}
    assert pcm_of(events) == alone


def test_commands_for_unknown_job_are_ignored(backend):
    backend.cancel(99)
    backend.hold(99, True)
    backend.append(99, "Hello.")
    backend.end(99)
    assert drain(backend, []) == []


def test_paused_job_produces_nothing_while_others_run(backend):
    backend.add(say(LIGHTS))
    backend.add(say("Two.", job=2))
    backend.hold(1, True)
    events = drain(backend, [])
    assert {event.job for event in events} == {2}
    assert backend.step(events.append) is False
    backend.hold(1, False)
    assert pcm_of(drain(backend, events)) == spoken(backend, LIGHTS)


class ListenerGone(Exception):
    pass


def test_error_in_send_propagates_and_next_job_is_unchanged(backend):
    before = spoken(backend, LIGHTS)
    backend.add(say(LIGHTS))
    chunks = 0

    def send(event):
        nonlocal chunks
        if isinstance(event, Chunk):
            chunks += 1
            if chunks == 3:
                raise ListenerGone

    with pytest.raises(ListenerGone):
        backend.step(send)
    assert chunks == 3
    backend.cancel(1)
    assert spoken(backend, LIGHTS) == before


# --- odd text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", " ", "\n\n", ".", "?!", "...", "\u200b", "\0", "\ud800", '"', "()", "█"])
def test_text_without_speech_ends_without_audio(backend, text):
    backend.add(say(text))
    (done,) = drain(backend, [])
    assert (done.job, done.samples) == (1, 0)


@pytest.mark.parametrize(
    ("odd", "plain"),
    [
        ("Hello\0there", "Hello there"),
        ("Hello \ud800there", "Hello  there"),
        ("\x01+50SHello", " +50SHello"),  # would be a command to eSpeak: change the speed
        ("\x01VdeHello", " VdeHello"),
        ("Ｈｅｌｌｏ　２５", "Hello\u300025"),
        ("𝕳𝖊𝖑𝖑𝖔", "Hello"),
    ],
)
def test_control_characters_and_surrogates_are_removed(backend, odd, plain):
    assert spoken(backend, odd) == spoken(backend, plain)


def test_ssml_and_phoneme_markup_is_spoken_as_text(backend):
    assert spoken(backend, "hi [[h@l'oU]]") != spoken(backend, "hi hello")
    pcm = spoken(backend, 'one <break time="5s"/> two')
    assert bytes(2 * RATE) not in pcm  # no second of silence
    assert spoken(backend, "x &amp; y") != spoken(backend, "x & y")


@pytest.mark.parametrize(
    "text",
    ["and so it goes on " * 280, "a" * 5000, "客厅和厨房的灯都亮着" * 100, "1234567890" * 100, "a, " * 500, "!" * 5000],
)
def test_step_produces_bounded_audio_for_any_text(backend, text):
    backend.add(say(text))
    made, more = [], True
    while more:
        events = []
        more = backend.step(events.append)
        made.append(seconds(pcm_of(events)))
    assert max(made) < 20
    assert isinstance(events[-1], Done)


@settings(max_examples=60, deadline=None)
@given(
    st.text(max_size=60),
    st.sampled_from([voice.id for voice in EspeakBackend().voices()]),
    st.sampled_from([None, "whisper", "female"]),
)
def test_any_text_voice_and_style_end_with_done(backend, text, voice, style):
    backend.add(say(text, voice, style=style))
    events = drain(backend, [])
    assert isinstance(events[-1], Done)
    assert events[-1].samples == len(pcm_of(events)) / 2
    assert [type(event) for event in events].count(Started) == (1 if events[-1].samples else 0)
