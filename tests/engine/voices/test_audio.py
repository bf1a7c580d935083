"""Every way to hand over a recording, its bounds, and PCM out."""

import base64
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from engine.voices.audio import AudioError, AudioLimits, Samples, float_to_pcm16, load_audio, read_audio, resample


def tone(seconds: float, rate: int, hertz: float = 440.0) -> Samples:
    return (0.5 * np.sin(2 * np.pi * hertz * np.arange(int(seconds * rate)) / rate)).astype(np.float32)


def file_bytes(samples: Samples, rate: int, kind: str = "WAV") -> bytes:
    buffer = io.BytesIO()
    soundfile.write(buffer, samples, rate, format=kind)
    return buffer.getvalue()


WAV = file_bytes(tone(0.5, 24000), 24000)


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            targets = {"/moved": "/a.wav", "/file": "file:///etc/passwd", "/ftp": "ftp://127.0.0.1/a", "/loop": "/loop"}
            if target := targets.get(self.path):
                self.send_response(302)
                self.send_header("Location", target)
                self.end_headers()
                return
            self.send_response(200 if self.path in ("/a.wav", "/slow") else 404)
            self.end_headers()
            for at in range(0, len(WAV), 4000):
                self.wfile.write(WAV[at : at + 4000])
                time.sleep(0.1 if self.path == "/slow" else 0)

        def log_message(self, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Answer) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()


def test_load_audio_reads_path_array_and_base64_alike(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(WAV)
    encoded = base64.b64encode(WAV).decode()
    samples, rate = soundfile.read(path, dtype="float32")
    wrapped = "\n".join(encoded[at : at + 76] for at in range(0, len(encoded), 76))
    urlsafe = base64.urlsafe_b64encode(WAV).decode().rstrip("=")
    sources = [path, str(path), (samples, rate), encoded, wrapped, urlsafe, f"data:audio/wav;base64,{encoded}"]
    for source in sources:
        made = load_audio(source)
        assert made.dtype == np.float32
        np.testing.assert_array_equal(made, samples)


@pytest.mark.parametrize("kind", ["WAV", "FLAC", "OGG", "MP3"])
def test_load_audio_averages_and_resamples_stereo(tmp_path: Path, kind: str) -> None:
    left = tone(0.5, 44100)
    path = tmp_path / f"voice.{kind.lower()}"
    path.write_bytes(file_bytes(np.stack([left, 0 * left], axis=1), 44100, kind))
    made = load_audio(path)
    assert made.ndim == 1
    assert abs(len(made) - 12000) < 700  # compressed formats pad
    middle = made[3000:9000]
    assert abs(float(np.sqrt(np.mean(middle**2))) - 0.25 / np.sqrt(2)) < 0.01


@pytest.mark.parametrize(
    "samples",
    [
        np.array([16384, -32768, 0], np.int16),
        np.array([2**30, -(2**31), 0], np.int32),
        np.array([0.5, -1.0, 0.0], np.float64),
        np.array([[0.25, 0.75], [-1.0, -1.0], [0.5, -0.5]], np.float16),
    ],
)
def test_load_audio_converts_array_types(samples: np.ndarray) -> None:  # type: ignore[type-arg]
    np.testing.assert_array_equal(load_audio((samples, 24000)), [0.5, -1.0, 0.0])


def test_load_audio_accepts_channels_first() -> None:
    left, right = tone(0.1, 24000), tone(0.1, 24000, 300.0)
    np.testing.assert_allclose(load_audio((np.stack([left, right]), 24000)), (left + right) / 2, atol=1e-7)


@pytest.mark.parametrize("rate", [8000, 16000, 22050, 44100, 48000, 96000])
def test_resample_keeps_tone_and_length(rate: int) -> None:
    made = resample(tone(1.0, rate), rate)
    assert (len(made), made.dtype) == (24000 + (rate in (22050, 44100)), np.float32)
    np.testing.assert_allclose(made[2000:22000], tone(1.0, 24000)[2000:22000], atol=2e-3)


@given(st.integers(1, 3000), st.sampled_from([8000, 11025, 16000, 44100, 48000]))
def test_resample_rounds_length_up(count: int, rate: int) -> None:
    exact = -(-count * 24000 // rate)
    assert len(resample(np.zeros(count, np.float32), rate)) - exact in (0, 1)


def test_load_audio_reads_urls_only_when_allowed(server: str) -> None:
    with pytest.raises(AudioError, match="allow_url=True"):
        load_audio(f"{server}/a.wav")
    assert len(load_audio(f"{server}/a.wav", allow_url=True)) == 12000


def test_load_audio_follows_redirects(server: str) -> None:
    assert len(load_audio(f"{server}/moved", allow_url=True)) == 12000


@pytest.mark.parametrize(
    ("path", "limits", "message"),
    [
        ("/none.wav", AudioLimits(), "404"),
        ("/a.wav", AudioLimits(max_bytes=1000), "larger than the limit of 1000 bytes"),
        ("/slow", AudioLimits(timeout_s=0.3), "longer than 0.3 s"),
        ("/file", AudioLimits(), "cannot read.*protocol"),
        ("/ftp", AudioLimits(), "cannot read.*protocol"),
        ("/loop", AudioLimits(), "cannot read.*redirect"),
    ],
)
def test_load_audio_reports_http_failures(server: str, path: str, limits: AudioLimits, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(server + path, allow_url=True, limits=limits)


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a.wav", "http://[", "http://"])
def test_load_audio_reports_unreachable_and_invalid_urls(url: str) -> None:
    with pytest.raises(AudioError, match="cannot read http://"):
        load_audio(url, allow_url=True)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("no/such/file.wav", "cannot read no/such/file.wav: No such file"),
        ("ftp://host/a.wav", "cannot read"),
        ("/tmp", "is not a file"),
        ("a\0b", "not a usable path"),
        ("x.y" * 3000, "cannot read"),
        ("data:audio/wav,abc", "must look like data:audio/wav;base64"),
        ("data:audio/wav;base64,@@@@", "not valid base64"),
        ("A" * 301, "not (valid base64|an audio file)"),
        ("A" * 400, "not an audio file this engine can read"),
        ((np.zeros(0, np.float32), 24000), "empty"),
        ((np.zeros((2, 2, 2), np.float32), 24000), "wrong shape"),
        ((np.zeros(5, np.uint8), 24000), "uint8 are not supported"),
        ((np.array(["a"]), 24000), "must be numbers"),
        ((np.full(5, np.nan), 24000), "not numbers"),
        ((np.full(5, 20000.0), 24000), "between -1 and 1"),
        ((np.zeros((50, 9)), 24000), "9 channels"),
        ((np.zeros(5), 0), "sample rate must be"),
        ((np.zeros(5), 24000.5), "sample rate must be"),
        ((np.zeros(24000 * 121), 24000), "longer than 120 s"),
    ],
)
def test_load_audio_rejects_invalid_sources(source: object, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        load_audio(source)  # type: ignore[arg-type]


def test_read_audio_limits_size_and_duration(tmp_path: Path) -> None:
    path = tmp_path / "voice.wav"
    path.write_bytes(WAV)
    for source in (path, base64.b64encode(WAV).decode()):
        with pytest.raises(AudioError, match="limit"):
            read_audio(source, limits=AudioLimits(max_bytes=1000))
        with pytest.raises(AudioError, match=r"longer than 0\.25 s"):
            read_audio(source, limits=AudioLimits(max_duration_s=0.25))
    assert read_audio(path, limits=AudioLimits(max_bytes=len(WAV), max_duration_s=0.5))[1] == 24000


def test_float_to_pcm16_clips_and_rounds() -> None:
    pcm = float_to_pcm16(np.array([0.0, 1.0, -1.0, 2.0, -9.0, np.nan, np.inf, 0.5, 1e-5], np.float32))
    assert np.frombuffer(pcm, "<i2").tolist() == [0, 32767, -32767, 32767, -32767, 0, 32767, 16384, 0]
    assert float_to_pcm16(np.zeros(0, np.float32)) == b""


def test_audio_modules_do_not_import_torch() -> None:
    code = (
        "import sys, engine.voices.audio, engine.voices.recording_check\n"
        "sys.exit(any(m in sys.modules for m in ('torch', 'soxr')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
