"""The chime before an announcement: two soft built-in tones, or the user's WAV file."""

from __future__ import annotations

import array
import cmath
import itertools
import math
import operator
import wave
from collections.abc import Iterator
from pathlib import Path

from ..errors import ConfigError

TONES_HZ = (659.26, 523.25)  # E5 and C5, a falling third
PARTIALS = (
    (1.0, 1.0),
    (2.0, 0.25),
    (3.01, 0.08),
)  # ratio to the pitch and share; the third a little off, like a bell's
TONE_EVERY_S = 0.28
DECAY_S = 0.25
ATTACK_S = 0.012
RELEASE_S = 0.2
DURATION_S = 1.1
PEAK = 10_000  # of 32,767: about as loud as speech
LONGEST_S = 10.0
RATES = (24_000, 22_050)  # of the natural and of the built-in voice: made before the first announcement
ADVICE = "make one with: ffmpeg -i FILE -ac 1 -ar 24000 -c:a pcm_s16le chime.wav"


class Chime:
    """The samples of one chime at the rate of the speech."""

    def __init__(self, path: Path | None = None) -> None:
        """Use the built-in chime, or the user's WAV file. Raises ConfigError if that cannot be used."""
        self._recorded = _read(path) if path else None
        self._by_rate = {rate: self._made(rate) for rate in RATES}

    def at(self, rate: int) -> bytes:
        """Return mono signed 16-bit little-endian samples."""
        if rate not in self._by_rate:
            self._by_rate[rate] = self._made(rate)
        return self._by_rate[rate]

    def _made(self, rate: int) -> bytes:
        if self._recorded is None:
            return two_tones(rate)
        recorded_rate, samples = self._recorded
        if recorded_rate == rate:
            return samples
        from .resampler import resampled  # loads numpy, which a daemon without such a chime never needs

        return resampled(samples, recorded_rate, rate)


def two_tones(rate: int) -> bytes:
    """Return mono 16-bit samples of the built-in chime, which starts and ends in silence."""
    count = round(DURATION_S * rate)
    chime = [0.0] * count
    for number, pitch_hz in enumerate(TONES_HZ):
        begin = round(number * TONE_EVERY_S * rate)
        chime[begin:] = map(operator.add, chime[begin:], _tone(pitch_hz, rate, count - begin))
    release = _rise(round(RELEASE_S * rate))
    chime[-len(release) :] = map(operator.mul, chime[-len(release) :], reversed(release))
    scale = PEAK / max(map(abs, chime))
    return array.array("h", [round(value * scale) for value in chime]).tobytes()


def _tone(pitch_hz: float, rate: int, count: int) -> list[float]:
    partials = [
        [share * value for value in itertools.islice(_ringing(pitch_hz * ratio, DECAY_S / ratio, rate), count)]
        for ratio, share in PARTIALS
    ]
    tone = list(map(math.fsum, zip(*partials, strict=True)))
    attack = _rise(round(ATTACK_S * rate))
    tone[: len(attack)] = map(operator.mul, tone[: len(attack)], attack)
    return tone


def _ringing(pitch_hz: float, decay_s: float, rate: int) -> Iterator[float]:
    """Return a decaying sine: each sample is the previous one times one complex factor."""
    step = cmath.exp(complex(-1 / decay_s, 2 * math.pi * pitch_hz) / rate)
    return (moment.imag for moment in itertools.accumulate(itertools.repeat(step), operator.mul, initial=1 + 0j))


def _rise(count: int) -> list[float]:
    """Return a smooth ramp from 0 to nearly 1."""
    return [(1 - math.cos(math.pi * n / count)) / 2 for n in range(count)]


def _read(path: Path) -> tuple[int, bytes]:
    """Return rate and mono samples of a short 16-bit WAV file."""
    try:
        with wave.open(str(path), "rb") as wav:
            channels, width, rate, frames, *_ = wav.getparams()
            if width != 2 or channels > 8 or not 8_000 <= rate <= 192_000:
                raise ConfigError(f"{path}: a chime has 16 bits, at most 8 channels and 8 to 192 kHz; {ADVICE}")
            if not 0 < frames <= LONGEST_S * rate:
                raise ConfigError(
                    f"{path}: a chime is at most {LONGEST_S:.0f} s long, this one is {frames / rate:.1f} s"
                )
            samples = wav.readframes(frames)
    except (wave.Error, EOFError) as error:
        raise ConfigError(
            f"{path}: no WAV file that can be read ({str(error) or 'it ends early'}); {ADVICE}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from error
    return rate, _mixed(samples, channels)


def _mixed(samples: bytes, channels: int) -> bytes:
    """Mix all channels to mono."""
    if channels == 1:
        return samples
    values = array.array("h", samples)
    parts = [values[n::channels] for n in range(channels)]
    return array.array("h", [sum(moment) // channels for moment in zip(*parts, strict=True)]).tobytes()
