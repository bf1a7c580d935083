"""Reading of reference recordings, within bounds, as float32 mono at 24 kHz; and conversion to PCM."""

from __future__ import annotations

import base64
import binascii
import io
import math
import re
import ssl
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from ..model.config import SAMPLE_RATE

RATE = SAMPLE_RATE

Samples: TypeAlias = npt.NDArray[np.float32]
AudioSource: TypeAlias = str | Path | tuple[npt.NDArray[Any], int]

_MAX_CHANNELS = 8
_MAX_REDIRECTS = 10
_RATES = range(1_000, 384_001)
_BASE64 = re.compile(r"[A-Za-z0-9+/_\-\s]+={0,2}\s*")
_LONGEST_NAME = 256  # a longer string of base64 characters is taken for base64; a file's name would have a dot


class AudioError(ValueError):
    """A recording cannot be used; the message is meant for the person who provided it."""


@dataclass(frozen=True, slots=True)
class AudioLimits:
    """Bounds on untrusted recordings."""

    max_bytes: int = 64 * 1024 * 1024
    max_duration_s: float = 120.0
    timeout_s: float = 20.0


def load_audio(source: AudioSource, *, allow_url: bool = False, limits: AudioLimits | None = None) -> Samples:
    """Read a path, (samples, rate), base64 (a data URI or a long string) or, only if allowed, an http(s) URL.

    Return float32 [samples] at 24 kHz, channels averaged. Raises AudioError.
    """
    limits = limits or AudioLimits()
    samples, rate = read_audio(source, allow_url=allow_url, limits=limits)
    return resample(to_mono(samples), rate)


def read_audio(
    source: AudioSource, *, allow_url: bool = False, limits: AudioLimits | None = None
) -> tuple[Samples, int]:
    """Return float32 [samples] or [samples, channels] and the recording's own rate in Hz. Raises AudioError."""
    limits = limits or AudioLimits()
    if isinstance(source, tuple):
        return _from_array(*source, limits)
    if isinstance(source, Path):
        return _from_path(source, limits)
    if source.startswith(("http://", "https://")):
        if not allow_url:
            raise AudioError("audio from a URL is not allowed here: pass allow_url=True, or download it first")
        return _decode(_fetch(source, limits), limits)
    encoded = _base64_part(source)
    if encoded is not None:
        return _decode(_from_base64(encoded, limits), limits)
    return _from_path(Path(source), limits)


def to_mono(samples: Samples) -> Samples:
    """Average channels: [samples] or [samples, channels] → [samples]."""
    return samples if samples.ndim == 1 else samples.mean(axis=1, dtype=np.float32)


def resample(samples: Samples, rate: int, wanted: int = RATE) -> Samples:
    """Resample mono samples, equal to librosa's default (soxr HQ) in every sample.

    The length follows librosa's float expression too: one second at 44.1 kHz becomes 24001 samples, the last one 0.
    """
    if rate == wanted:
        return samples
    import soxr

    length = math.ceil(len(samples) * (wanted / rate))
    made = soxr.resample(samples, rate, wanted, quality="HQ")[:length]
    return np.pad(made, (0, length - len(made))).astype(np.float32, copy=False)


def write_wave(path: Path, samples: Samples, rate: int) -> None:
    """Write float32 [samples] or [samples, channels] as a WAV file of floats. Raises OSError."""
    import soundfile

    with path.open("wb") as file:
        soundfile.write(file, samples, rate, format="WAV", subtype="FLOAT")


def float_to_pcm16(samples: npt.NDArray[np.floating[Any]]) -> bytes:
    """Convert samples in −1…1 to little-endian signed 16-bit, clipped and rounded; NaN becomes 0."""
    bounded = np.nan_to_num(np.clip(samples, -1.0, 1.0), nan=0.0)
    return bytes(np.rint(bounded * 32767.0).astype("<i2").tobytes())


def _from_array(samples: npt.NDArray[Any], rate: int, limits: AudioLimits) -> tuple[Samples, int]:
    """Scale integers by their type's range; the channel axis may be first or last."""
    array = np.asarray(samples)
    if array.dtype.kind == "u":
        raise AudioError(f"samples of type {array.dtype} are not supported: use float32 or int16")
    if array.dtype.kind == "i":
        array = array / float(-np.iinfo(array.dtype).min)
    if array.dtype.kind != "f":
        raise AudioError(f"samples must be numbers, not {array.dtype}")
    if array.ndim == 2 and array.shape[0] < array.shape[1]:
        array = array.T  # [channels, samples] → [samples, channels]
    return _checked(array.astype(np.float32), rate, limits)


def _from_path(path: Path, limits: AudioLimits) -> tuple[Samples, int]:
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise AudioError(f"{path} is not a file")
        if size > limits.max_bytes:
            raise AudioError(f"{path} has {size} bytes, the limit is {limits.max_bytes}")
        return _decode(path.read_bytes(), limits)
    except OSError as error:
        raise AudioError(f"cannot read {path}: {error.strerror or error}") from error
    except ValueError as error:
        if isinstance(error, AudioError):
            raise
        raise AudioError(f"not a usable path: {error}") from error  # an embedded null character


def _base64_part(source: str) -> str | None:
    """Return the encoded part of a data URI or of a long bare string; None for anything else."""
    if source.startswith("data:"):
        head, comma, encoded = source.partition(",")
        if not comma or not head.endswith(";base64"):
            raise AudioError("a data URI must look like data:audio/wav;base64,…")
        return encoded
    return source if len(source) > _LONGEST_NAME and _BASE64.fullmatch(source) else None


def _from_base64(encoded: str, limits: AudioLimits) -> bytes:
    if len(encoded) * 3 // 4 > limits.max_bytes + 2:
        raise AudioError(f"the base64 audio is larger than the limit of {limits.max_bytes} bytes")
    plain = "".join(encoded.split()).replace("-", "+").replace("_", "/").rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except binascii.Error as error:
        raise AudioError(f"the audio is not valid base64: {error}") from error


def _fetch(url: str, limits: AudioLimits) -> bytes:
    """Download a recording. httpx follows redirects to http and https only. Raises AudioError."""
    import httpx

    deadline_s, data = time.monotonic() + limits.timeout_s, bytearray()

    def check_deadline(_request: httpx.Request | None = None) -> None:
        if time.monotonic() > deadline_s:
            raise AudioError(f"{url} took longer than {limits.timeout_s:g} s")

    try:
        with (
            httpx.Client(
                verify=ssl.create_default_context(),  # the system's certificates, a home's own CA among them
                headers={"Accept-Encoding": "identity"},  # the size limit is on what is sent
                timeout=limits.timeout_s,
                follow_redirects=True,
                max_redirects=_MAX_REDIRECTS,
                event_hooks={"request": [check_deadline]},  # called for each redirect too
            ) as client,
            client.stream("GET", url) as response,
        ):
            if not response.is_success:
                raise AudioError(f"cannot read {url}: HTTP status {response.status_code} {response.reason_phrase}")
            for part in response.iter_raw():
                data += part
                if len(data) > limits.max_bytes:
                    raise AudioError(f"{url} is larger than the limit of {limits.max_bytes} bytes")
                check_deadline()
    except AudioError:
        raise
    except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError, ImportError) as error:
        # OSError: certificates that cannot be read; ValueError: an unknown proxy; ImportError: SOCKS without socksio
        raise AudioError(f"cannot read {url}: {error}") from error
    return bytes(data)


def _decode(data: bytes, limits: AudioLimits) -> tuple[Samples, int]:
    """Decode a file's bytes, at most as many samples as the limit allows. Raises AudioError."""
    import soundfile

    try:
        with soundfile.SoundFile(io.BytesIO(data)) as file:
            rate = int(file.samplerate)
            _check_format(rate, file.channels, file.frames, limits)
            samples = file.read(int(limits.max_duration_s * rate) + 1, dtype="float32")
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", error)  # the whole message names an object in memory
        raise AudioError(f"not an audio file this engine can read (WAV, FLAC, OGG, MP3): {reason}") from error
    return _checked(samples, rate, limits)


def _check_format(rate: int, channels: int, length: int, limits: AudioLimits) -> None:
    if isinstance(rate, bool) or not isinstance(rate, (int, np.integer)) or rate not in _RATES:
        raise AudioError(f"the sample rate must be a whole number from 1000 to 384000 Hz, not {rate!r}")
    if channels > _MAX_CHANNELS:
        raise AudioError(f"the recording has {channels} channels, at most {_MAX_CHANNELS} are read")
    if length > limits.max_duration_s * rate:
        raise AudioError(f"the recording is longer than {limits.max_duration_s:g} s")


def _checked(samples: Samples, rate: int, limits: AudioLimits) -> tuple[Samples, int]:
    if samples.ndim not in (1, 2) or samples.size == 0:
        raise AudioError(f"the recording is empty or has a wrong shape {samples.shape}")
    _check_format(rate, samples.shape[1] if samples.ndim == 2 else 1, len(samples), limits)
    if not np.isfinite(samples).all():
        raise AudioError("the recording contains samples that are not numbers")
    if np.abs(samples).max() > 4:
        raise AudioError("the samples must be between -1 and 1: divide them by their full scale")
    return samples, int(rate)
