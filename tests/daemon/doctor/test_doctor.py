"""The doctor: each check alone with what it may meet, and the command on real machines, daemons and checkpoints."""

import hashlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from engine.checkpoint import integrity
from engine.testing.tiny_checkpoint import full_config
from qwentts_daemon.config.schema import Engine, Wyoming
from qwentts_daemon.doctor import directories, findings, machine, model, network, subprocesses
from qwentts_daemon.doctor.findings import Level
from qwentts_daemon.doctor.model import Gpu, Torch
from qwentts_daemon.doctor.subprocesses import CommandResult
from tests.engine.support.qwen3 import put_voice
from tests.engine.support.tiny_models import tiny_directory
from tests.support.harness import PATIENCE_S, ROOT, daemon

OK, WARNING, ERROR = Level.OK, Level.WARNING, Level.ERROR
GB = 10**9


def levels(found):
    return [finding.level for finding in found]


# --- Python, packages, driver -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("version", "in_environment", "level"),
    [
        ((3, 11), True, OK),
        ((3, 13), True, OK),
        ((3, 14), True, WARNING),
        ((3, 10), True, WARNING),
        ((3, 12), False, WARNING),
    ],
)
def test_check_python_warns_of_untested_version_or_missing_venv(version, in_environment, level):
    assert levels(machine.check_python(version, in_environment)) == [level]


def test_check_packages_compares_versions_with_requirements():
    wanted = Requirement("wyoming>=1.10,<2")
    assert levels(machine.check_packages([(wanted, "1.10.2")])) == [OK]
    (old,) = machine.check_packages([(wanted, "1.7.2")])
    assert (old.level, old.remedy) == (WARNING, "pip install 'wyoming<2,>=1.10'")
    assert levels(machine.check_packages([(wanted, None), (wanted, "2.0")])) == [ERROR, WARNING]
    assert levels(machine.check_packages([])) == [WARNING]


def test_installed_packages_of_this_environment_are_complete():
    assert levels(machine.check_packages(machine.installed_packages(["espeak", "engine"]))) == [OK]
    names = {wanted.name for wanted, _ in machine.installed_packages(["espeak"])}
    assert "torch" not in names
    assert {"wyoming", "espeakng-loader"} <= names


@pytest.mark.parametrize(
    ("answer", "devices", "level", "words"),
    [
        (
            CommandResult("NVIDIA GeForce RTX 3060, 580.95, 12288, 11000, 8.6\n"),
            ["/dev/null"],
            OK,
            "RTX 3060, driver 580.95",
        ),
        (CommandResult("A, 1, 2, 3, 8.6\nB, 1, 2, 3, 9.0\n"), ["/dev/null"], OK, "A, driver 1"),
        (CommandResult("No devices were found\n"), ["/dev/null"], ERROR, "lists no GPU"),
        (CommandResult("", "nvidia-smi: No such file or directory"), [], ERROR, "no driver of an NVIDIA GPU is loaded"),
        (CommandResult("", "nvidia-smi: No such file or directory"), ["/dev/null"], OK, "not installed"),
        (CommandResult("", "exit status 9: Driver/library version mismatch"), ["/dev/null"], ERROR, "mismatch"),
        (CommandResult("", "no answer within 10 s"), ["/dev/null"], ERROR, "no answer"),
    ],
)
def test_check_driver_reads_nvidia_smi_output(answer, devices, level, words):
    found = machine.check_driver(answer, [Path(device) for device in devices])
    assert found[0].level is level
    assert words in found[0].text
    assert all(finding.remedy for finding in found if finding.level is not OK)


# --- commands that may hang -------------------------------------------------------------------------------------


def python(code):
    return [sys.executable, "-c", code]


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        (python("print(6 * 7)"), None),
        (python("import os; os.abort()"), "it died of SIGABRT"),
        (python("raise SystemExit('no driver')"), "exit status 1: no driver"),
        (["no-such-program"], "no-such-program: No such file or directory"),
        (python("import time; time.sleep(60)"), "no answer within 0.3 s"),
        (python("import subprocess; subprocess.run(['sleep', '60'])"), "no answer within 0.3 s"),
    ],
)
def test_subprocess_run_describes_failure_and_timeout(command, fault):
    outcome = subprocesses.run(command, 5 if fault is None or "answer" not in fault else 0.3)
    assert outcome.fault == fault
    assert outcome.output == ("" if fault else "42\n")


# --- GPU and memory ---------------------------------------------------------------------------------------------


def torch(*gpus, cuda="12.8"):
    return Torch("2.13.0", cuda, gpus)


def gpu(total_gb=12.0, capability=(8, 6), fault=None):
    return Gpu("Some GPU", capability, int(total_gb * GB * 0.95), int(total_gb * GB), fault)


@pytest.mark.parametrize(
    ("found", "wanted", "expected"),
    [
        (torch(gpu()), ("auto",), [OK]),
        (torch(gpu(), gpu()), ("all",), [OK, OK]),
        (torch(gpu()), ("cuda:1",), [ERROR]),
        (torch(gpu(), gpu(capability=(7, 5))), ("cuda:0", "cuda:1"), [OK, WARNING]),
        (torch(gpu(fault="CUDA error: out of memory")), ("auto",), [ERROR]),
        (torch(), ("auto",), [ERROR]),
        (torch(cuda=None), ("auto",), [ERROR]),
        (torch(gpu()), ("cpu",), [WARNING]),
    ],
)
def test_check_gpus_compares_devices_with_configuration(found, wanted, expected):
    assert levels(model.check_gpus(found, wanted, "580.95.05")) == expected


@pytest.mark.parametrize(
    ("driver", "cuda", "remedy"),
    [
        (
            "550.163.01",
            "13.0",
            "driver 550.163.01 is too old .* CUDA 13.0, which needs driver 580 or newer; .*cu126",
        ),
        ("470.256.02", "12.6", "needs driver 525 or newer"),
        ("580.95.05", "13.0", "the driver 580.95.05 is new enough: check CUDA_VISIBLE_DEVICES"),
        ("550.163.01", "12.6", "is new enough"),
        (None, "13.0", "no NVIDIA driver is loaded"),
    ],
)
def test_check_gpus_tells_an_old_driver_from_a_missing_one(driver, cuda, remedy):
    (found,) = model.check_gpus(torch(cuda=cuda), ("auto",), driver)
    assert found.level is ERROR
    assert re.search(remedy, found.remedy)


def test_check_gpus_rejects_a_card_that_torch_does_not_support():
    (found,) = model.check_gpus(torch(gpu(capability=(6, 1), fault="no kernel image")), ("auto",), "580.95.05")
    assert "RTX 20 series or newer" in found.remedy


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """The sizes of the published 1.7B model."""
    return full_config(tmp_path_factory.mktemp("full"), "1b7", "custom_voice")


@pytest.mark.parametrize(
    ("card", "keys", "level"),
    [
        (gpu(12), {}, OK),
        (gpu(7), {}, WARNING),
        (gpu(4), {}, ERROR),
        (gpu(12, capability=(7, 5)), {}, WARNING),
        (gpu(12, capability=(7, 5)), {"dtype": "float16"}, OK),
        (gpu(7), {"max_jobs": 1}, OK),
    ],
)
def test_check_memory_compares_model_with_gpu_memory(full, card, keys, level):
    (found,) = model.check_memory(full, Engine(**keys), torch(card), in_use=False)
    assert found.level is level, found.text
    assert (found.remedy is None) is (level is OK)


def test_check_memory_counts_total_memory_while_daemon_runs(full):
    busy = Gpu("Some GPU", (8, 6), GB, 12 * GB, None)
    assert levels(model.check_memory(full, Engine(), torch(busy), in_use=False)) == [ERROR]
    assert levels(model.check_memory(full, Engine(), torch(busy), in_use=True)) == [OK]


def test_check_memory_skips_faulty_gpu(full):
    assert model.check_memory(full, Engine(), torch(gpu(fault="broken")), in_use=False) == []


def test_ask_torch_returns_version_on_this_machine():
    answer = model.read_probe(model.ask_torch())
    assert isinstance(answer, Torch)
    assert answer.version


def test_read_probe_reports_crash_as_finding():
    found = model.read_probe(CommandResult("", "it died of SIGSEGV"))
    assert isinstance(found, findings.Finding)
    assert "SIGSEGV" in found.text


# --- files ------------------------------------------------------------------------------------------------------


@pytest.fixture
def checkpoint(tmp_path):
    return Path(shutil.copytree(tiny_directory("custom_voice"), tmp_path / "model"))


def test_check_files_accepts_complete_checkpoint(checkpoint):
    assert levels(model.check_files(checkpoint, with_hashes=True)) == [OK]


def truncate(file):
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 1)


def garble(file):
    file.write_bytes(b"\xff" * 100)


def cut_to_nothing(file):
    file.write_bytes(b"")


def scramble_header(file):
    file.write_bytes(b"\x10" + bytes(7) + b"{'no': json here and more")


@pytest.mark.parametrize(
    ("harm", "fault"),
    [
        (truncate, "header announces"),
        (garble, "not a safetensors file"),
        (cut_to_nothing, "not a safetensors file"),
        (scramble_header, "damaged header"),
    ],
)
def test_check_files_reports_damaged_weights(checkpoint, harm, fault):
    harm(checkpoint / "model.safetensors")
    (found,) = model.check_files(checkpoint, with_hashes=False)
    assert found.level is ERROR
    assert fault in found.text


def in_hub_cache(folder, content):
    """A file as the hub's cache keeps it: a link to what is named by its hash."""
    (folder / "blobs").mkdir()
    (folder / "snapshots").mkdir()
    blob = folder / "blobs" / hashlib.sha256(content).hexdigest()
    blob.write_bytes(content)
    link = folder / "snapshots" / "model.safetensors"
    link.symlink_to(blob)
    return link, blob


def test_hash_fault_detects_changed_hub_file(tmp_path):
    link, blob = in_hub_cache(tmp_path, b"weights")
    assert integrity.hash_fault(link) is None
    blob.write_bytes(b"weightz")
    assert integrity.hash_fault(link) == "is not what the hub sent: its hash differs"


def test_hash_fault_checks_small_hub_file_by_git_hash(tmp_path):
    content = b'{"a": 1}'
    (tmp_path / "blobs").mkdir()
    name = hashlib.sha1(f"blob {len(content)}\0".encode() + content).hexdigest()
    (tmp_path / "blobs" / name).write_bytes(content)
    assert integrity.hash_fault(tmp_path / "blobs" / name) is None
    (tmp_path / "blobs" / name).write_bytes(content + b" ")
    assert integrity.hash_fault(tmp_path / "blobs" / name)


def test_find_model_does_not_download(tmp_path):
    found = model.find_model(Engine(cache_dir=str(tmp_path)))
    assert isinstance(found, findings.Finding)
    assert "not downloaded yet" in found.text
    assert list(tmp_path.iterdir()) == []


# --- places and the network -------------------------------------------------------------------------------------


def test_check_directory_does_not_create_missing_directory(tmp_path):
    assert levels(directories.check_directory("voices", tmp_path / "a" / "b", "voices.dir")) == [OK]
    assert levels(directories.check_directory("voices", tmp_path, "voices.dir", room_bytes=1 << 60)) == [WARNING]
    assert list(tmp_path.iterdir()) == []


def test_check_privacy_warns_of_world_readable_voices(tmp_path):
    tmp_path.chmod(0o755)
    (found,) = directories.check_privacy("voices", tmp_path)
    assert found.remedy == f"chmod -R o= {tmp_path}"
    tmp_path.chmod(0o750)
    assert directories.check_privacy("voices", tmp_path) == []


NOEXEC = [line.split()[1] for line in Path("/proc/mounts").read_text().splitlines() if "noexec" in line.split()[3]]


@pytest.mark.skipif(not NOEXEC, reason="no file system here is mounted noexec")
def test_check_execution_reports_noexec_file_system():
    assert levels(directories.check_execution("kernels", Path(NOEXEC[0]) / "triton", "TRITON_CACHE_DIR")) == [ERROR]


def test_check_execution_accepts_executable_file_system():
    assert directories.check_execution("kernels", Path("/usr"), "TRITON_CACHE_DIR") == []


def test_check_port_reports_used_and_invalid_addresses():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (found,) = network.check_port(Wyoming(uri=f"tcp://127.0.0.1:{port}"), None)
        assert found.level is ERROR
        assert f"sport = :{port}" in (found.remedy or "")
    assert levels(network.check_port(Wyoming(uri=f"tcp://127.0.0.1:{port}"), None)) == [OK]
    assert levels(network.check_port(Wyoming(uri="tcp://203.0.113.1:10200"), None)) == [ERROR]
    assert levels(network.check_port(Wyoming(uri="unix:///nowhere/socket"), None)) == [ERROR]


def test_check_access_warns_of_public_networks():
    config = load_networks("0.0.0.0/0")
    assert levels(network.check_access(config)) == [WARNING]
    assert levels(network.check_access(load_networks("2001:4860::/32"))) == [WARNING]
    assert levels(network.check_access(load_networks("192.168.0.0/16"))) == [OK]
    assert levels(network.check_access(Wyoming())) == [OK]


def load_networks(*networks):
    return Wyoming.model_validate({"allow_networks": networks})


# --- the command ------------------------------------------------------------------------------------------------


def doctor(*arguments, home, **environment):
    """Its exit status and what it found, by check."""
    finished = subprocess.run(
        [sys.executable, "-m", "qwentts_daemon", "doctor", "--json", *arguments],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
        env={**os.environ, "HOME": str(home), **environment},
    )  # fmt: skip
    assert not finished.stderr
    answer = json.loads(finished.stdout)
    assert answer["exit_status"] == finished.returncode or finished.returncode == os.EX_CONFIG
    return finished.returncode, {finding["check"]: finding for finding in answer["findings"]}


def contents(folder):
    """Return the files below a home directory and when they changed, without the GPU driver's own cache."""
    return {path: path.stat().st_mtime_ns for path in folder.rglob("*") if ".nv" not in path.parts}


def test_doctor_tests_speech_of_running_daemon(tmp_path):
    with daemon(fake="ToneBackend") as process:
        status, found = doctor("--set", f"wyoming.uri={process.uri}", "--set", "engine.backend=espeak", home=tmp_path)
    assert status == 1  # a loopback address is not advertised
    assert "is answered by qwen-tts" in found["port"]["text"]
    assert found["speech"]["text"].startswith("the running daemon: first audio after ")
    assert found["discovery"]["level"] == "warning"


def test_doctor_tests_engine_without_daemon_and_leaves_no_files(tmp_path):
    put_voice(tmp_path / ".local/share/qwentts/voices", "anna", 1, "Some words.", kind="clone")
    (tmp_path / ".local/share/qwentts/voices/bert").mkdir()  # of which a worker would warn
    (tmp_path / ".local/share/qwentts/voices").chmod(0o700)
    before = contents(tmp_path)
    words = ("engine.backend=qwen3", f"engine.model={tiny_directory('base')}", "engine.devices=cpu",
             "sampling.max_new_tokens=14", "wyoming.uri=tcp://127.0.0.1:47011")  # fmt: skip
    _, found = doctor(*(each for word in words for each in ("--set", word)), home=tmp_path)
    assert "first audio after" in found["speech"]["text"]
    assert found["model"]["level"] == "ok"
    assert contents(tmp_path) == before


def test_doctor_reports_why_engine_cannot_speak(tmp_path):
    words = ("engine.backend=qwen3", f"engine.model={tmp_path}", "engine.devices=cpu", "engine.fallback=false")
    status, found = doctor("--quick", *(each for word in words for each in ("--set", word)), home=tmp_path)
    assert status == os.EX_UNAVAILABLE
    assert "lacks config.json" in found["model"]["text"]


def test_doctor_reports_invalid_configuration_as_finding(tmp_path):
    status, found = doctor("--set", "wyoming.prot=1", home=tmp_path)
    assert status == os.EX_CONFIG
    assert "unknown key" in found["configuration"]["text"]


def test_doctor_prints_one_marked_line_per_finding():
    finished = subprocess.run(
        [sys.executable, "-m", "qwentts_daemon", "doctor", "--quick", "--set", "engine.backend=auto"],
        cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S,
    )  # fmt: skip
    lines = finished.stdout.splitlines()
    assert any(line.startswith("✓ python: ") for line in lines)
    assert all(line.startswith(("✓ ", "! ", "✗ ", "  → ")) for line in lines)
