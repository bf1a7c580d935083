"""Signals in the first second of a command, while it still imports its modules."""

import signal
import subprocess
import sys

import pytest

from tests.support.harness import PATIENCE_S

# nohup, or a shell's background job, may have started the tests with these signals ignored.
DEFAULTS = (
    "import os, signal, sys\n"
    "signal.signal(signal.SIGINT, signal.default_int_handler); signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
)
INSTALL = DEFAULTS + (
    "sys.argv = ['qwentts-daemon', *{words}]\n"
    "from qwentts_daemon.service import early_signals; early_signals.install()\n"
)


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=PATIENCE_S)


@pytest.mark.parametrize("words", [[], ["run"], ["say", "Hello."]])
def test_interrupt_during_imports_exits_130_without_traceback(words):
    finished = python(INSTALL.format(words=words) + "os.kill(os.getpid(), signal.SIGINT); signal.pause()")
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_interrupt_during_cli_imports_exits_130_without_traceback():
    interrupt = "import builtins; original = builtins.__import__\n" + (
        "def slow(name, *rest):\n"
        "    if name == 'typer': os.kill(os.getpid(), signal.SIGINT)\n"
        "    return original(name, *rest)\n"
        "builtins.__import__ = slow\n"
        "from qwentts_daemon.__main__ import main; main()"
    )
    finished = python(DEFAULTS + "sys.argv = ['qwentts-daemon', 'voices']\n" + interrupt)
    assert (finished.returncode, finished.stdout, finished.stderr) == (130, "", "")


def test_install_keeps_an_interrupt_that_is_ignored():
    ignored = "import signal; signal.signal(signal.SIGINT, signal.SIG_IGN); import os, sys\n"
    install = "from qwentts_daemon.service import early_signals; early_signals.install(); early_signals.imported()\n"
    assert python(ignored + install + "os.kill(os.getpid(), signal.SIGINT); sys.exit(3)").returncode == 3


@pytest.mark.parametrize(
    ("words", "status"), [([], 0), (["run"], 0), (["--debug"], 0), (["say", "Hello."], -signal.SIGHUP)]
)
def test_hangup_during_imports_ends_only_terminal_commands(words, status):
    code = INSTALL.format(words=words) + "os.kill(os.getpid(), signal.SIGHUP); sys.exit(not early_signals.hung_up())"
    assert python(code).returncode == status


def test_hangup_during_imports_reloads_daemon_configuration(tmp_path):
    words = ["run", "--config", "/dev/null", "--uri", f"unix://{tmp_path}/wyoming", "--backend", "espeak"]
    code = INSTALL.format(words=words) + (
        "os.kill(os.getpid(), signal.SIGHUP)\nfrom qwentts_daemon.cli.app import run_cli; run_cli()"
    )
    with subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        try:
            assert any("configuration reloaded" in line for line in process.stderr)
        finally:
            process.terminate()
        assert process.wait(PATIENCE_S) == 0
