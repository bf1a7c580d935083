"""Default files and directories: the user's own (XDG) or the service's (systemd)."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path

from ..errors import ConfigError
from .ownership import SERVICE_STATE, acts_for_the_service
from .schema import Config


def default_paths(environment: Mapping[str, str]) -> list[Path]:
    """Return the default paths of the configuration: the user's, if there is a home directory, then the machine's."""
    paths = [Path("/etc/qwentts/config.yaml")]
    with contextlib.suppress(ConfigError):
        home = user_dir(environment, "XDG_CONFIG_HOME", "~/.config", "--config")
        paths.insert(0, home / "qwentts" / "config.yaml")
    return paths


def default_path(environment: Mapping[str, str]) -> Path | None:
    """Return the first of `default_paths` that exists. Raises ConfigError if that cannot be determined."""
    for path in default_paths(environment):
        try:
            path.stat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise ConfigError(f"{path}: {error.strerror}; name a file with --config") from error
        return path
    return None


def user_dir(environment: Mapping[str, str], variable: str, usual: str, key: str) -> Path:
    """Return one of the user's XDG base directories. Raises ConfigError, naming `key`, without a home directory."""
    try:
        return Path(environment.get(variable) or usual).expanduser()
    except RuntimeError:
        raise ConfigError(f"{key}: this user does not have a home directory; set a directory") from None


def voices_dir(config: Config, environment: Mapping[str, str]) -> Path:
    """Return the voices folder: `voices.dir`, the service's state directory (also for root), or the user's."""
    if config.voices.dir:
        return Path(config.voices.dir).expanduser().absolute()
    if state := environment.get("STATE_DIRECTORY", "").partition(":")[0]:  # set by systemd
        return Path(state) / "voices"
    if acts_for_the_service():
        return SERVICE_STATE / "voices"
    return user_dir(environment, "XDG_DATA_HOME", "~/.local/share", "voices.dir") / "qwentts" / "voices"


def cache_dir(config: Config, environment: Mapping[str, str]) -> Path:
    """Return the directory of recordings for HTTP: `http.cache_dir`, the service's cache directory, or the user's."""
    if config.http.cache_dir:
        return Path(config.http.cache_dir).expanduser().absolute()
    if cache := environment.get("CACHE_DIRECTORY", "").partition(":")[0]:  # set by systemd
        return Path(cache) / "audio"
    return user_dir(environment, "XDG_CACHE_HOME", "~/.cache", "http.cache_dir") / "qwentts" / "audio"


def preferences_path(environment: Mapping[str, str]) -> Path:
    """Return the file of the settings made over MQTT, in the service's or the user's directory. Raises ConfigError."""
    if state := environment.get("STATE_DIRECTORY", "").partition(":")[0]:  # set by systemd
        return Path(state) / "preferences.json"
    return user_dir(environment, "XDG_DATA_HOME", "~/.local/share", "XDG_DATA_HOME") / "qwentts" / "preferences.json"
