"""Standard streams that are closed, full, or that nothing reads any more: they decide no exit status but their own."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.harness import PATIENCE_S, ROOT, Systemd

CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}
FULL = {"stdin": "</dev/null", "stdout": ">/dev/full", "stderr": "2>/dev/full"}
DEAD = {"closed": CLOSED, "full": FULL}


def redirected(words, redirections, **options):
    """The daemon's program, its streams redirected as a shell does it."""
    shell = ["sh", "-c", f'exec "$@" {" ".join(redirections)}', "sh"]
    environment = {**os.environ, **options.pop("environment", {})}
    environment.pop("PYTHONUNBUFFERED", None)  # a buffer is what the interpreter flushes at its end
    command = [*shell, sys.executable, "-m", "qwentts_daemon", *words]
    return subprocess.Popen(command, cwd=ROOT, env=environment, text=True, **options)


def finished(words, *redirections):
    with redirected(words, redirections, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        out, err = process.communicate(timeout=PATIENCE_S)
    return process.returncode, out, err


@pytest.mark.parametrize("stdin", ["closed", "full"])
@pytest.mark.parametrize("stdout", ["closed", "full", "unread"])
@pytest.mark.parametrize("stderr", ["closed", "full", "unread"])
def test_run_exits_0_with_closed_full_or_broken_streams(tmp_path, stdin, stdout, stderr):
    wanted = {"stdin": stdin, "stdout": stdout, "stderr": stderr}
    redirections = [DEAD[state][name] for name, state in wanted.items() if state in DEAD]
    words = ["--config", "/dev/null", "--backend", "espeak", "--uri", f"unix://{tmp_path}/socket", "--debug"]
    reading, unread = os.pipe()
    os.close(reading)
    systemd = Systemd(str(tmp_path / "notify"))
    with systemd.socket, redirected(
        words, redirections, stdout=unread, stderr=unread, environment=systemd.environment
    ) as process:  # fmt: skip
        try:
            os.close(unread)
            systemd.until("READY=1")
            process.send_signal(signal.SIGTERM)
            assert process.wait(PATIENCE_S) == 0
        finally:
            process.kill()


def test_run_does_not_reuse_descriptors_of_closed_streams(tmp_path):
    words = ["--config", "/dev/null", "--backend", "espeak", "--uri", f"unix://{tmp_path}/socket"]
    systemd = Systemd(str(tmp_path / "notify"))
    with systemd.socket, redirected(words, CLOSED.values(), environment=systemd.environment) as process:
        try:
            systemd.until("READY=1")
            names = {str(Path(f"/proc/{process.pid}/fd/{number}").readlink()) for number in range(3)}
            assert names == {"/dev/null"}
        finally:
            process.kill()


@pytest.mark.parametrize("words", [["check-config"], ["--version"], ["--help"]])
def test_command_exits_74_when_stdout_is_full(words):
    status, _, err = finished(words, FULL["stdout"])
    assert err == "qwentts-daemon: cannot write to standard output: No space left on device\n"
    assert status == os.EX_IOERR


def test_command_exits_without_traceback_when_stdout_is_a_broken_pipe():
    reading, unread = os.pipe()
    os.close(reading)
    with redirected(["check-config"], [], stdout=unread, stderr=subprocess.PIPE) as process:
        os.close(unread)
        assert process.communicate(timeout=PATIENCE_S)[1] == ""
        assert process.returncode == 1


@pytest.mark.parametrize("stderr", [CLOSED["stderr"], FULL["stderr"]])
@pytest.mark.parametrize(
    ("words", "status"),
    [(["check-config"], 0), (["--config", "/none"], os.EX_CONFIG), (["say"], 2), (["voices"], os.EX_UNAVAILABLE)],
)
def test_command_keeps_its_exit_status_when_stderr_is_unusable(words, status, stderr):
    uri = ["--uri", "tcp://127.0.0.1:1"] if words == ["voices"] else []
    assert finished([*words, *uri], stderr)[0] == status


def test_command_exits_0_when_stdout_is_closed():
    assert finished(["check-config"], CLOSED["stdout"]) == (0, "", "OK: the configuration is valid\n")
