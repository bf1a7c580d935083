"""The systemd units: sound, closed, inside the wheel, and installed by a command that can be repeated and undone."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from qwentts_daemon.errors import StartError
from qwentts_daemon.service import install
from qwentts_daemon.service.install import ServiceTarget, plan_install, plan_uninstall
from tests.support.harness import PATIENCE_S, ROOT

EXPOSURE_MAX = 2.0
PROGRAM = Path(sys.prefix) / "bin" / "qwentts-daemon"
UNITS = ROOT / "systemd"
DROP_INS = sorted(path.stem for path in (UNITS / "qwentts.service.d").glob("*.conf"))
needs_systemd = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd is not installed")


def perform(steps):
    for step in steps:
        if step.act:
            step.act()
    return [step.line for step in steps]


def run(*command, **options):
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, **options)


@pytest.fixture
def image(tmp_path):
    return ServiceTarget(root=tmp_path / "image")


# --- the units as systemd reads them --------------------------------------------------------------------------


@needs_systemd
@pytest.mark.parametrize("extra", [[], *([name] for name in DROP_INS), DROP_INS], ids=lambda names: "+".join(names))
def test_system_units_verify_and_are_hardened(image, extra):
    perform(plan_install(image, PROGRAM, extra)[:-1])
    service, port = image.folder / "qwentts.service", image.folder / "qwentts.socket"
    verified = run("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", service, port)
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")
    threshold = f"--threshold={round(EXPOSURE_MAX * 10)}"
    judged = run("systemd-analyze", "security", "--offline=true", "--no-pager", threshold, service)
    assert judged.returncode == 0, judged.stdout


@needs_systemd
def test_user_unit_verifies(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    perform(plan_install(ServiceTarget(user=True), PROGRAM, [])[:1])
    verified = run("systemd-analyze", "--user", "verify", "--man=no", tmp_path / "systemd/user/qwentts.service",
                   env={**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)})  # fmt: skip
    assert (verified.returncode, verified.stdout + verified.stderr) == (0, "")


@needs_systemd
def test_systemd_analyze_detects_mistakes_in_units(tmp_path):
    unit = tmp_path / "qwentts.service"
    unit.write_text((UNITS / "qwentts.service").read_text().replace("ProtectHome=", "ProtectHouse="))
    assert "ProtectHouse" in run("systemd-analyze", "verify", "--man=no", unit).stderr
    unit.write_text(f"[Service]\nExecStart={PROGRAM}\n")
    open_to_all = run("systemd-analyze", "security", "--offline=true", "--no-pager", "--threshold=20", unit)
    assert open_to_all.returncode != 0


def settings(name):
    """`Section.Key` and its values; a unit may have a key several times."""
    found, section = {}, ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = line[1:-1]
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(f"{section}.{key}", []).append(value)
    return found


@pytest.mark.parametrize("name", ["qwentts.service", "user/qwentts.service"])
def test_unit_settings_agree_with_the_daemon(name):
    """Check what is written twice: exit statuses without restart, the reload, the name of the socket."""
    unit = settings(name)
    assert unit["Service.Type"] == ["notify"]
    assert set(unit["Service.RestartPreventExitStatus"][0].split()) == {
        "2",
        str(os.EX_USAGE),
        str(os.EX_NOPERM),
        str(os.EX_CONFIG),
    }
    assert unit["Service.ExecReload"] == ["/bin/sh -c 'kill -HUP $$MAINPID'"]
    assert unit["Service.ExecStart"] == ["/opt/qwentts/bin/qwentts-daemon run"]
    assert settings("qwentts.socket")["Socket.FileDescriptorName"] == ["wyoming"]


def test_unit_keeps_every_cache_in_the_service_directory():
    words = " ".join(settings("qwentts.service")["Service.Environment"]).split()
    variables = dict(word.split("=", 1) for word in words)
    caches = {
        "HF_HOME",
        "TRITON_HOME",
        "TRITON_CACHE_DIR",
        "TORCHINDUCTOR_CACHE_DIR",
        "CUDA_CACHE_PATH",
        "XDG_CACHE_HOME",
    }
    assert caches <= variables.keys()
    assert all(variables[name].startswith("%C/qwentts") for name in caches)
    assert "HF_HUB_OFFLINE" not in variables  # the first start downloads the model


# --- installing -----------------------------------------------------------------------------------------------


@needs_systemd
def test_install_enables_is_idempotent_and_can_be_undone(image):
    unit, link = image.folder / "qwentts.service", image.folder / "multi-user.target.wants/qwentts.service"
    lines = perform(plan_install(image, PROGRAM, ["strict-memory"]))
    assert lines[0] == f"write {unit}"
    assert f"ExecStart={PROGRAM} run" in unit.read_text()
    assert link.is_symlink()
    assert (image.folder / "qwentts.service.d/strict-memory.conf").exists()
    again = perform(plan_install(image, PROGRAM, []))
    assert [line.split()[0] for line in again] == ["keep", "keep", "keep", "run"]
    other = perform(plan_install(image, Path("/opt/other/bin/qwentts-daemon"), []))
    assert [line.split()[0] for line in other] == ["write", "keep", "keep", "run"]
    perform(plan_uninstall(image))
    assert [path for path in image.folder.rglob("*") if path.is_file() or path.is_symlink()] == []
    assert not (image.folder / "qwentts.service.d").exists()
    assert perform(plan_uninstall(image)) == [
        f"nothing to remove: {image.folder} does not contain units of qwentts-daemon"
    ]


@needs_systemd
def test_install_and_uninstall_keep_files_of_others(image):
    own = image.folder / "qwentts.service.d/override.conf"
    perform(plan_install(image, PROGRAM, []))
    own.parent.mkdir()
    own.write_text("[Service]\nNice=-5\n")
    perform(plan_uninstall(image))
    assert [path for path in image.folder.rglob("*") if path.is_file()] == [own]
    (image.folder / "qwentts.service").write_text("[Service]\nExecStart=/bin/true\n")
    with pytest.raises(
        StartError, match=r"qwentts\.service was not written by `install-service`; move it elsewhere first"
    ):
        plan_install(image, PROGRAM, [])
    perform(plan_uninstall(image))
    assert (image.folder / "qwentts.service").exists()


def test_install_restarts_service_only_after_a_change(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    target = ServiceTarget(user=True)
    steps = plan_install(target, PROGRAM, [])
    assert [step.line for step in steps[1:]] == [
        "run systemctl --user daemon-reload",
        "run systemctl --user enable qwentts.service",
        "run systemctl --user restart qwentts.service",
    ]
    perform(steps[:1])
    assert plan_install(target, PROGRAM, [])[-1].line == "run systemctl --user start qwentts.service"


def command(*arguments, **environment):
    return run(PROGRAM, *arguments, cwd=ROOT, env={**os.environ, **environment})


def test_dry_run_prints_steps_and_changes_nothing(tmp_path):
    finished = command("install-service", "--user", "--dry-run", XDG_CONFIG_HOME=str(tmp_path))
    assert finished.returncode == 0, finished.stderr
    unit = tmp_path / "systemd/user/qwentts.service"
    assert finished.stdout.splitlines() == [
        f"would write {unit}",
        "would run systemctl --user daemon-reload",
        "would run systemctl --user enable qwentts.service",
        "would run systemctl --user restart qwentts.service",
    ]
    unit.parent.mkdir(parents=True)
    unit.write_text(install.MARK)
    finished = command("uninstall-service", "--user", "--dry-run", XDG_CONFIG_HOME=str(tmp_path))
    assert f"would remove {unit}" in finished.stdout
    assert "Configuration, voices and models are kept" in finished.stdout
    assert unit.exists()


def test_install_rejects_program_under_home_with_remedy(tmp_path):
    assert "is not readable for a service" in install.unreadable(Path("/home/anna/venv/bin/qwentts-daemon"))
    assert install.unreadable(Path("/usr/bin/env")) is None
    finished = command("install-service", "--dry-run")
    refused = [each for each in (PROGRAM, Path(sys.base_prefix), ROOT) if install.unreadable(each)]
    assert (finished.returncode == os.EX_NOPERM) == bool(refused)
    assert ("sudo python3 -m venv /opt/qwentts" in finished.stderr) == bool(refused)


def test_unreadable_names_directory_closed_to_other_users(tmp_path, monkeypatch):
    monkeypatch.setattr(install, "HIDDEN", ())
    program = tmp_path / "closed" / "program"
    program.parent.mkdir(mode=0o700)
    program.touch(0o755)
    assert f"{program.parent} is not accessible to other users" in install.unreadable(program)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "--root", "/mnt"], "--root and --user cannot be combined"),
        (["--user", "--dry-run", "--with", "local-sound"], "--with is not available for --user services"),
    ],
)
def test_install_rejects_contradictory_options(arguments, message):
    finished = command("install-service", *arguments)
    assert finished.returncode == 2
    assert message in " ".join(finished.stderr.replace("│", " ").split())


@pytest.mark.skipif(Path("/run/systemd/system").is_dir(), reason="this machine is run by systemd")
def test_install_without_systemd_exits_with_reason():
    finished = command("install-service", "--user")
    assert finished.returncode == os.EX_UNAVAILABLE
    assert "systemd is not running on this machine" in finished.stderr


def test_wheel_contains_the_units(tmp_path):
    built = run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", tmp_path, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as wheel:
        packed = {name: wheel.read(name) for name in wheel.namelist() if name.startswith("qwentts_daemon/units/")}
    files = [path for path in UNITS.rglob("*") if path.is_file()]
    assert packed == {f"qwentts_daemon/units/{path.relative_to(UNITS)}": path.read_bytes() for path in files}
