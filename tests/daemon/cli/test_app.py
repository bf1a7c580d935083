"""The command line as a person uses it, against a real daemon."""

import os
import subprocess
import sys
import wave

import pytest

import qwentts_daemon
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


async def test_say_writes_what_the_daemon_speaks_and_prints_figures(speaking, tmp_path):
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
        (["--backend", "gpt"], os.EX_CONFIG, "engine.backend"),
        (["--set", "wyoming"], os.EX_CONFIG, "section.key=value"),
        (["say", "Hi.", "--uri", "http://x", "-o", "x.wav"], os.EX_CONFIG, "it must begin with tcp://"),
    ],
)
def test_a_mistake_is_one_message_and_a_status_without_traceback(arguments, status, message):
    finished = run(*arguments)
    assert finished.returncode == status, finished.stderr
    assert message in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_failure_leaves_no_file_behind(tmp_path):
    assert (
        run("say", "Hi.", "--uri", "tcp://127.0.0.1:9", "-o", str(tmp_path / "x.wav")).returncode == os.EX_UNAVAILABLE
    )
    assert list(tmp_path.iterdir()) == []


def test_an_error_of_the_server_is_told_with_its_code(speaking, tmp_path):
    finished = run("say", "Hi.", "--voice", "nobody", "--uri", speaking.uri, "-o", str(tmp_path / "x.wav"))
    assert finished.returncode == 1
    assert "(voice-not-found)" in finished.stderr


def test_a_file_that_cannot_be_written_is_named(speaking):
    finished = run("say", "Hi.", "--uri", speaking.uri, "-o", "/nowhere/x.wav")
    assert finished.returncode == os.EX_CANTCREAT
    assert "/nowhere/x.wav: No such file or directory" in finished.stderr


def test_version_and_help():
    assert run("--version").stdout.strip() == qwentts_daemon.__version__
    assert "say" in run("--help").stdout


def test_check_config_prints_what_is_in_force():
    finished = run("check-config", "--set", "queue.max_size=7")
    assert finished.returncode == 0
    assert '"max_size": 7' in finished.stdout


def test_the_program_and_the_engine_have_one_version():
    import engine

    assert engine.__version__ == qwentts_daemon.__version__
