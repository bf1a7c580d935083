import asyncio
import wave
from array import array
from contextlib import aclosing
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qwentts_daemon.audio.chime import Chime, two_tones
from qwentts_daemon.audio.effects import FULL_SCALE, PAUSE_S, PIECE_SAMPLES, Effects, prepared, scaled
from qwentts_daemon.audio.resampler import Resampler, resampled
from qwentts_daemon.errors import ConfigError
from tests.support.sinks import RATE, Tap, cut, pcm, tone

samples = st.lists(st.integers(-32768, 32767), max_size=60).map(lambda values: array("h", values))
lengths = st.lists(st.integers(1, 5000), min_size=1, max_size=6)
rates = st.sampled_from([22_050, 24_000])
CHIME = Chime()


async def heard(pieces, preparation, rate=RATE):
    """All samples, and the longest piece."""
    got = [piece async for piece in prepared(pcm(*pieces, rate=rate), preparation)]
    assert {piece.rate for piece in got} <= {rate}
    return b"".join(piece.samples for piece in got), max((len(piece.samples) // 2 for piece in got), default=0)


@given(samples, st.integers(0, FULL_SCALE))
def test_volume_scales_and_rounds_samples(values, factor):
    made = array("h", scaled(values.tobytes(), factor / FULL_SCALE))
    assert all(abs(new - old * factor / FULL_SCALE) <= 0.5 for new, old in zip(made, values, strict=True))
    assert all(abs(new) <= abs(old) for new, old in zip(made, values, strict=True))


@given(samples)
def test_volume_one_is_identity_and_zero_is_silence(values):
    assert scaled(values.tobytes(), 1.0) == values.tobytes()
    assert not any(scaled(values.tobytes(), 0.0))


@given(lengths, st.floats(0, 1), st.floats(0, 0.5), st.floats(0, 0.5), st.booleans(), rates)
@settings(max_examples=30, deadline=None)
def test_effects_are_independent_of_chunking(lengths, volume, lead_s, tail_s, rings, rate):
    speech = tone(9000, rate)
    preparation = Effects(volume, CHIME if rings else None, lead_s, tail_s)
    made, longest = asyncio.run(heard(cut(speech, *lengths), preparation, rate))
    lead, tail = bytes(2 * round(rate * lead_s)), bytes(2 * round(rate * tail_s))
    chime = scaled(CHIME.at(rate), volume) + bytes(2 * round(rate * PAUSE_S)) if rings else b""
    assert made == lead + chime + scaled(speech, volume) + tail
    assert longest <= PIECE_SAMPLES


async def test_effects_of_empty_speech_are_empty():
    assert await heard([], Effects(chime=CHIME, lead_s=1, tail_s=1)) == (b"", 0)


async def test_chime_waits_for_first_audio():
    tap = Tap()
    sound = prepared(tap.pcm(), Effects(chime=CHIME))
    first = asyncio.create_task(anext(sound))
    await asyncio.sleep(0)
    assert not first.done()
    tap.pour(tone(100))
    assert (await first).samples == CHIME.at(RATE)[: 2 * PIECE_SAMPLES]
    await sound.aclose()


async def test_closing_effects_closes_source():
    tap = Tap()
    tap.pour(tone(100))
    async with aclosing(prepared(tap.pcm(), Effects())) as sound:
        await anext(sound)
    assert tap.closed.is_set()


@pytest.mark.parametrize("rate", [8_000, 22_050, 24_000, 48_000])
def test_chime_has_soft_edges(rate):
    values = array("h", two_tones(rate))
    assert values[0] == values[-1] == 0
    assert 9_000 < max(map(abs, values)) <= 10_000
    assert max(map(abs, values[: rate // 500])) < 2_000  # 2 ms
    assert max(map(abs, values[-rate // 50 :])) < 100
    steepest = max(abs(after - before) for before, after in pairwise(values))
    assert steepest < 10_000 * 2 * 3.1416 * 1_300 / rate  # no click: a click is steeper than the second partial


def wav(path, values, rate=RATE, channels=1, width=2):
    with wave.open(str(path), "wb") as file:
        file.setparams((channels, width, rate, 0, "NONE", ""))
        file.writeframes(values)
    return path


def test_chime_file_is_played_unchanged(tmp_path):
    own = tone(2400)
    assert Chime(wav(tmp_path / "a.wav", own)).at(RATE) == own


def test_chime_file_is_mixed_down_and_resampled(tmp_path):
    stereo = array("h", [value for left in array("h", tone(4800, 48_000)) for value in (left, 0)])
    chime = Chime(wav(tmp_path / "a.wav", stereo.tobytes(), 48_000, channels=2))
    assert len(chime.at(RATE)) == 4800  # bytes: a tenth of a second
    assert max(array("h", chime.at(RATE))) == pytest.approx(4500, abs=450)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda path: wav(path, bytes(800), width=1), "16 bits.*ffmpeg"),
        (lambda path: wav(path, b""), "0.0 s"),
        (lambda path: wav(path, bytes(22 * RATE)), "at most 10 s long, this one is 11.0 s"),
        (lambda path: path.write_bytes(b"ID3 no wave"), "no WAV file that can be read.*ffmpeg"),
        (lambda path: path.write_bytes(b""), "no WAV file that can be read.*ends early"),
        (lambda path: None, "No such file"),
        (lambda path: path.mkdir(), "Is a directory"),
    ],
)
def test_unusable_chime_file_error_names_file(tmp_path, content, message):
    path = tmp_path / "chime.wav"
    content(path)
    with pytest.raises(ConfigError, match=message) as caught:
        Chime(path)
    assert str(path) in str(caught.value)


@given(lengths, rates)
@settings(max_examples=30, deadline=None)
def test_resampler_is_independent_of_chunking(lengths, rate):
    speech = tone(4_000, rate)
    resampler = Resampler(rate, 48_000)
    made = b"".join(map(resampler.feed, cut(speech, *lengths))) + resampler.end()
    whole = resampled(speech, rate, 48_000)
    assert abs(len(made) // 2 - 4_000 * 48_000 / rate) <= 1
    assert max(abs(one - other) for one, other in zip(array("h", made), array("h", whole), strict=True)) <= 4  # dither


@pytest.mark.parametrize("rate", [22_050, 24_000])
def test_resampled_tone_keeps_its_frequency(rate):
    made, wanted = array("h", resampled(tone(rate, rate), rate, 48_000)), array("h", tone(48_000, 48_000))
    assert max(abs(one - other) for one, other in zip(made[500:-500], wanted[500:-500], strict=True)) < 20
