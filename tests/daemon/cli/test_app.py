"""The command line as a person uses it, against a real daemon."""

import asyncio
import json
import os
import subprocess
import sys
import wave

import pytest

import qwentts_daemon
from qwentts_daemon.audio.wav import header as wav_header
from tests.support.harness import PATIENCE_S, ROOT, daemon, speak

COMMAND = [sys.executable, "-m", "qwentts_daemon"]


def run(*arguments, **options):
    return subprocess.run(
        [*COMMAND, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S, **options
    )


@pytest.fixture(scope="module")
def speaking():
    with daemon() as process:
        yield process


async def test_say_writes_wav_and_prints_figures(speaking, tmp_path):
    path = tmp_path / "out.wav"
    finished = run("say", "Good evening.", "--uri", speaking.uri, "--output", str(path))
    assert finished.returncode == 0, finished.stderr
    assert "first audio" in finished.stdout
    assert "real-time factor" in finished.stdout
    heard = await speak(speaking, "Good evening.")
    with wave.open(str(path)) as wav:
        assert (wav.getnchannels(), wav.getsampwidth(), wav.getframerate()) == (1, 2, heard.rate)
        assert wav.readframes(wav.getnframes()) == heard.pcm


async def test_say_streams_standard_input_while_it_arrives(speaking, tmp_path):
    path = tmp_path / "out.wav"
    command = [*COMMAND, "say", "-", "--uri", speaking.uri, "-o", str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as saying:
        saying.stdin.write("Grüße aus der Küche. And".encode()[:5])
        saying.stdin.flush()
        saying.stdin.write("Grüße aus der Küche. And".encode()[5:])
        saying.stdin.close()
        assert saying.wait(20) == 0
    with wave.open(str(path)) as wav:
        assert wav.readframes(wav.getnframes()) == (await speak(speaking, "Grüße aus der Küche. And")).pcm


def test_say_reads_a_file_as_standard_input(speaking, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("From a file.")
    with text.open() as file:
        finished = run("say", "-", "--uri", speaking.uri, "-o", str(tmp_path / "out.wav"), stdin=file)
    assert finished.returncode == 0, finished.stderr


def test_say_with_empty_standard_input_ends(speaking, tmp_path):
    finished = run("say", "-", "--uri", speaking.uri, "-o", str(tmp_path / "out.wav"), stdin=subprocess.DEVNULL)
    assert (finished.returncode, finished.stderr) == (0, "")


async def test_say_writes_a_wav_stream_to_standard_output(speaking):
    command = [*COMMAND, "say", "Good evening.", "--uri", speaking.uri, "-o", "-"]
    finished = await asyncio.to_thread(
        subprocess.run, command, cwd=ROOT, capture_output=True, timeout=PATIENCE_S, check=True
    )
    heard = await speak(speaking, "Good evening.")
    assert finished.stdout == wav_header(heard.rate, None) + heard.pcm
    assert b"real-time factor" in finished.stderr


def test_say_is_quiet_when_the_reader_of_standard_output_leaves(speaking):
    words = " ".join(["Many words for a small reader."] * 100)
    command = [*COMMAND, "say", words, "--uri", speaking.uri, "-o", "-"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as saying:
        assert saying.stdout.read(4) == b"RIFF"
        saying.stdout.close()
        assert (saying.stderr.read(), saying.wait(PATIENCE_S)) == (b"", 1)


def test_say_warns_about_voice_and_style_that_the_daemon_does_not_list(speaking, tmp_path):
    words = ("say", "Hi.", "--uri", speaking.uri, "-o", str(tmp_path / "x.wav"))
    assert "does not list the voice 'rian'" in run(*words, "--voice", "rian").stderr
    assert "does not list the style 'wisper'" in run(*words, "--voice", "Espeak-EN-us", "--speaker", "wisper").stderr
    assert run(*words, "--voice", "Espeak-EN-us", "--speaker", "Whisper").stderr == ""


async def test_say_names_a_server_that_does_not_speak_wyoming(tmp_path):
    async def answer(reader, writer):
        await reader.readline()
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        uri = "tcp://{}:{}".format(*server.sockets[0].getsockname())
        finished = await asyncio.to_thread(run, "say", "Hi.", "--uri", uri, "-o", str(tmp_path / "x.wav"))
    assert finished.returncode == os.EX_UNAVAILABLE
    assert f"no Wyoming server at {uri}" in finished.stderr


def test_voices_prints_json_of_one_language(speaking):
    listed = json.loads(run("voices", "--json", "--language", "es-MX", "--uri", speaking.uri).stdout)
    assert [each["name"] for each in listed] == ["espeak-es-es", "espeak-es-419"]
    assert listed[0]["languages"] == ["es-ES"]
    assert "whisper" in listed[0]["styles"]


def test_voices_lists_names_and_languages(speaking):
    finished = run("voices", "--uri", speaking.uri, env={**os.environ, "COLUMNS": "200"})
    assert finished.returncode == 0
    assert "espeak-en-us" in finished.stdout
    assert "espeak-pt-br" in finished.stdout
    assert "pt-BR" in finished.stdout


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["say", "Hi.", "--uri", "tcp://127.0.0.1:9", "-o", "x.wav"], os.EX_UNAVAILABLE, "no daemon answers at"),
        (["voices", "--uri", "unix:///nowhere/socket"], os.EX_UNAVAILABLE, "no daemon answers at"),
        (["say", "Hi."], 2, "choose --output FILE or --play"),
        (["say", "Hi.", "--speaker", "soft", "-o", "x.wav"], 2, "--speaker needs --voice"),
        (["shout"], 2, "No such command"),
        (["say", "Hi.", "-o", "x.mp3"], os.EX_USAGE, "x.mp3: only WAV can be written; use x.wav"),
        (["voices", "--uri", "tcp://127.0.0.1:9"], os.EX_UNAVAILABLE, "connection refused"),
        (["--backend", "gpt"], os.EX_CONFIG, "engine.backend"),
        (["--set", "wyoming"], os.EX_CONFIG, "section.key=value"),
        (["say", "Hi.", "--uri", "http://x", "-o", "x.wav"], os.EX_CONFIG, "it must begin with tcp:// or unix://"),
    ],
)
def test_invalid_usage_prints_one_message_and_exits_with_status(arguments, status, message):
    finished = run(*arguments)
    assert finished.returncode == status, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_failed_say_leaves_no_file(tmp_path):
    assert (
        run("say", "Hi.", "--uri", "tcp://127.0.0.1:9", "-o", str(tmp_path / "x.wav")).returncode == os.EX_UNAVAILABLE
    )
    assert list(tmp_path.iterdir()) == []


def test_say_prints_code_of_server_error(speaking, tmp_path):
    finished = run("say", "Hi.", "--voice", "nobody", "--uri", speaking.uri, "-o", str(tmp_path / "x.wav"))
    assert finished.returncode == 1
    assert "(voice-not-found)" in finished.stderr


def test_say_names_file_that_cannot_be_written(speaking):
    finished = run("say", "Hi.", "--uri", speaking.uri, "-o", "/nowhere/x.wav")
    assert finished.returncode == os.EX_CANTCREAT
    assert "/nowhere/x.wav: No such file or directory" in finished.stderr
    assert "Exception ignored" not in finished.stderr


def test_version_and_help():
    assert run("--version").stdout.strip() == qwentts_daemon.__version__
    assert "say" in run("--help").stdout
    assert run("say", "-h").stdout == run("say", "--help").stdout
    assert "--play" in run("say", "-h").stdout


def test_check_config_prints_effective_values():
    finished = run("check-config", "--set", "queue.max_size=7")
    assert finished.returncode == 0
    assert json.loads(finished.stdout)["queue"]["max_size"] == 7
    assert finished.stderr == "OK: the configuration is valid\n"


def test_daemon_and_engine_have_the_same_version():
    import engine

    assert engine.__version__ == qwentts_daemon.__version__
