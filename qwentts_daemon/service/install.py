"""`install-service` and `uninstall-service`: write and remove the systemd units of this installation.

All steps are planned first, so that `--dry-run` prints exactly the steps that a real run takes.
"""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from engine import host

from .. import __version__
from ..errors import StartError

SERVICE, SOCKET, DROP_INS = "qwentts.service", "qwentts.socket", "qwentts.service.d"
MARK = "# Written by qwentts-daemon "
PLACEHOLDER = "/opt/qwentts/bin/qwentts-daemon"
HIDDEN = ("/home", "/root", "/run/user", "/tmp", "/var/tmp")  # by ProtectHome= and PrivateTmp=

User = Annotated[bool, typer.Option("--user", help="Install a service for your own user, without root.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the steps without taking them.")]
Extra = Annotated[
    list[str] | None,
    typer.Option("--with", help="Add a drop-in: local-sound, strict-memory or own-network; may be repeated."),
]
Root = Annotated[Path, typer.Option("--root", help="Install into a mounted image without starting the service.")]


@dataclass(frozen=True, slots=True)
class InstallStep:
    """One step, described by `line`; without `act` it is already done."""

    line: str
    act: Callable[[], None] | None = None


@dataclass(frozen=True, slots=True)
class ServiceTarget:
    """The owner of the service, the system or the current user, and the root directory of the installation."""

    user: bool = False
    root: Path = Path("/")

    @property
    def folder(self) -> Path:
        """The directory of the units."""
        if not self.user:
            return self.root / "etc/systemd/system"
        return Path(os.environ.get("XDG_CONFIG_HOME") or "~/.config").expanduser() / "systemd/user"

    @property
    def is_image(self) -> bool:
        return self.root != Path("/")

    def systemctl(self, *words: str) -> InstallStep:
        """Return a step that runs systemctl for this target."""
        where = ["--user"] if self.user else [f"--root={self.root}"] if self.is_image else []
        command = ["systemctl", *where, *words]
        return InstallStep(f"run {' '.join(command)}", lambda: _run(command))


def install_service(
    user: User = False,
    dry_run: DryRun = False,
    root: Root = Path("/"),
    extra: Extra = None,
) -> None:
    """Install a systemd service that starts this installation at boot (repeat it after an upgrade)."""
    target = _target(user, root, dry_run)
    program = Path(sys.prefix) / "bin" / "qwentts-daemon"
    check_program(program, target.user)
    _perform(plan_install(target, program, extra or []), dry_run)
    option = "--user " if user else ""
    if not (dry_run or target.is_image):
        print(f"The service is running: systemctl {option}status qwentts, journalctl {option}-u qwentts -f")
        if user:
            print("It runs while you are logged in; `loginctl enable-linger` starts it at boot")


def uninstall_service(user: User = False, dry_run: DryRun = False, root: Root = Path("/")) -> None:
    """Stop the service and remove its units. Configuration, voices and models are kept."""
    _perform(plan_uninstall(_target(user, root, dry_run)), dry_run)
    where = "~/.config, ~/.local/share and ~/.cache" if user else "/etc, /var/lib and /var/cache"
    print(f"Configuration, voices and models are kept: the directories `qwentts` in {where}")


# --- planning -------------------------------------------------------------------------------------------------


def plan_install(target: ServiceTarget, program: Path, extra: Sequence[str]) -> list[InstallStep]:
    """Return the steps that install `program` as a service. Raises StartError."""
    files = {target.folder / SERVICE: _unit("user/qwentts.service" if target.user else SERVICE, program)}
    if not target.user:
        files[target.folder / SOCKET] = _unit(SOCKET, program)
    for name in _drop_ins(target, extra):
        files[target.folder / DROP_INS / f"{name}.conf"] = _unit(f"{DROP_INS}/{name}.conf", program)
    writing = [_write(path, text) for path, text in files.items()]
    if target.is_image:
        return [*writing, target.systemctl("enable", SERVICE)]
    begin = "restart" if any(step.act for step in writing) else "start"
    return [*writing, target.systemctl("daemon-reload"), target.systemctl("enable", SERVICE),
            target.systemctl(begin, SERVICE)]  # fmt: skip


def plan_uninstall(target: ServiceTarget) -> list[InstallStep]:
    """Return the steps that remove exactly the files that `plan_install` may have written."""
    paths = [target.folder / SERVICE, target.folder / SOCKET, *sorted((target.folder / DROP_INS).glob("*.conf"))]
    ours = [path for path in paths if _is_ours(path)]
    if not ours:
        return [InstallStep(f"nothing to remove: {target.folder} does not contain units of qwentts-daemon")]
    units = [path.name for path in ours if path.parent == target.folder]
    now = [] if target.is_image else ["--now"]
    steps = [target.systemctl("disable", *now, *units)] if units else []
    steps += [InstallStep(f"remove {path}", path.unlink) for path in ours]
    if set(paths[2:]) and set(paths[2:]) <= set(ours):
        steps.append(InstallStep(f"remove {target.folder / DROP_INS}", (target.folder / DROP_INS).rmdir))
    return steps if target.is_image else [*steps, target.systemctl("daemon-reload")]


def check_program(program: Path, user: bool) -> None:
    """Check that a service can run this program. Raises StartError with advice."""
    if sys.prefix == sys.base_prefix or not program.exists():
        raise StartError(
            f"this Python ({sys.prefix}) is not a virtual environment that contains qwentts-daemon. {_advice()}"
        )
    if not re.fullmatch(r"[\w./+@:,~-]+", str(program)):
        raise StartError(
            f"{program}: the path of a service's program may contain letters, digits and ./+@:,~- only. {_advice()}"
        )
    needed = (program, Path(sys.base_prefix), Path(__file__))
    problem = None if user else next(filter(None, map(unreadable, needed)), None)
    if problem:
        raise StartError(f"{problem}. {_advice()}", os.EX_NOPERM)


def unreadable(path: Path) -> str | None:
    """Return why a service of another user cannot read `path`, or None if it can."""
    path = path.resolve()
    if any(path.is_relative_to(folder) for folder in HIDDEN):
        return f"{path} is not readable for a service (ProtectHome=, PrivateTmp=)"
    for each in (path, *path.parents):
        wanted = stat.S_IXOTH if each.is_dir() else stat.S_IROTH
        if not each.stat().st_mode & wanted:
            return f"{each} is not accessible to other users (chmod o+{'x' if each.is_dir() else 'r'})"
    return None


# --- steps ----------------------------------------------------------------------------------------------------


def _target(user: bool, root: Path, dry_run: bool) -> ServiceTarget:
    target = ServiceTarget(user, root.absolute())
    if user and target.is_image:
        raise typer.BadParameter("--root and --user cannot be combined")
    if not (dry_run or target.is_image or Path("/run/systemd/system").is_dir()):
        raise StartError("systemd is not running on this machine; start `qwentts-daemon` with its own init system")
    return target


def _source() -> Path:
    """Return the directory of the unit files: systemd/ in the sources, `units` in a wheel."""
    packaged = Path(__file__).parents[1] / "units"
    return packaged if packaged.is_dir() else Path(__file__).parents[2] / "systemd"


def _unit(name: str, program: Path) -> str:
    """Return a unit file with the path of this program."""
    text = (_source() / name).read_text(encoding="utf-8").replace(PLACEHOLDER, str(program))
    return f"{MARK}{__version__}, `install-service`.\n{text}"


def _drop_ins(target: ServiceTarget, extra: Sequence[str]) -> Iterable[str]:
    """Return the drop-ins that are requested now or already installed."""
    known = sorted(path.stem for path in (_source() / DROP_INS).glob("*.conf"))
    if unknown := sorted(set(extra) - set(known)):
        raise typer.BadParameter(f"--with {unknown[0]}: unknown drop-in; choose from {', '.join(known)}")
    if target.user and extra:
        raise typer.BadParameter("--with is not available for --user services")
    return [name for name in known if name in extra or _is_ours(target.folder / DROP_INS / f"{name}.conf")]


def _is_ours(path: Path) -> bool:
    return path.is_file() and path.read_text(encoding="utf-8", errors="replace").startswith(MARK)


def _write(path: Path, text: str) -> InstallStep:
    if path.exists() and not _is_ours(path):
        raise StartError(f"{path} was not written by `install-service`; move it elsewhere first", os.EX_CANTCREAT)
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return InstallStep(f"keep {path}")

    def write() -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o644)

    return InstallStep(f"write {path}", write)


def _run(command: Sequence[str]) -> None:
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise StartError(f"{command[0]} is not installed") from error
    except subprocess.CalledProcessError as error:
        raise StartError(f"`{' '.join(command)}` failed: {error.stderr.strip() or error.returncode}") from error


def _perform(steps: Sequence[InstallStep], dry_run: bool) -> None:
    for step in steps:
        print(f"would {step.line}" if dry_run and step.act else step.line, flush=True)
        if dry_run or not step.act:
            continue
        try:
            step.act()
        except PermissionError as error:
            raise StartError(f"{error.filename}: permission denied; run the command with sudo", os.EX_NOPERM) from error
        except OSError as error:
            raise StartError(f"{error.filename}: {error.strerror}", os.EX_CANTCREAT) from error


def _advice() -> str:
    return (
        "Create a virtual environment for the service: sudo python3 -m venv /opt/qwentts && sudo /opt/qwentts/bin/pip "
        f"install '{host.install_source()}[espeak,engine]' && sudo /opt/qwentts/bin/qwentts-daemon install-service. Or "
        "install a service for your own user with --user"
    )
