"""Finds a checkpoint's files: a local directory, the Hugging Face cache, or a download of just what is needed."""

from __future__ import annotations

import contextlib
import errno
import logging
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ..model.config import CODEC_FILE, MODEL_FILE, CheckpointError

WEIGHTS_FILE = "model.safetensors"
CODEC_WEIGHTS_FILE = "speech_tokenizer/model.safetensors"
REQUIRED_FILES = (
    MODEL_FILE,
    WEIGHTS_FILE,
    CODEC_FILE,
    CODEC_WEIGHTS_FILE,
    "tokenizer_config.json",
    "vocab.json",
    "merges.txt",
)
WANTED_FILES = (*REQUIRED_FILES, "generation_config.json")
CODEC_ALONE_FILES = ("config.json", "model.safetensors")
"""Of a repository that holds nothing but the codec, such as Qwen/Qwen3-TTS-Tokenizer-12Hz."""
DENIED = (401, 403)
PROGRESS_INTERVAL_S = 15.0

log = logging.getLogger(__name__)


class DownloadError(CheckpointError):
    """The files of a checkpoint cannot be obtained; the message contains the remedy."""


class DownloadInterrupted(DownloadError):
    """The files cannot be had now, but may be had later as things are: no network, a hub that is down, a full disk."""


class IncompleteError(CheckpointError):
    """A checkpoint directory lacks files."""


def find_checkpoint(
    name: str,
    *,
    revision: str | None = None,
    offline: bool = False,
    cache: Path | None = None,
    files: Sequence[str] = REQUIRED_FILES,
) -> Path:
    """The directory of checkpoint `name`, a path or a hub id such as Qwen/Qwen3-TTS-12Hz-1.7B-CustomVoice.

    An interrupted download is resumed and its progress shown; `offline` looks into the cache only. `files` must all
    be there. Raises DownloadError or IncompleteError.
    """
    path = Path(name).expanduser()
    if path.is_dir():
        return _complete(path, files)
    if name.startswith((".", "/", "~")) or name.count("/") != 1:
        raise DownloadError(f"{name}: not an existing directory, and not a hub id of the form owner/name")
    with _explained(name, revision):
        directory = _download(name, revision, offline, cache, files)
    return _complete(directory, files)


def cached_file(name: str, file: str, revision: str | None, cache: Path | None) -> Path | None:
    """One file of a hub id if it has been downloaded already, without asking the hub."""
    try:
        from huggingface_hub import try_to_load_from_cache

        found = try_to_load_from_cache(name, file, cache_dir=cache, revision=revision)
    except (ImportError, ValueError):  # not installed; the hub's complaint about a name is a ValueError
        return None
    return Path(found) if isinstance(found, str) else None


def _complete(directory: Path, files: Sequence[str]) -> Path:
    missing = [file for file in files if not (directory / file).is_file()]
    if missing:
        raise IncompleteError(
            f"{directory}: lacks {', '.join(missing)}; it is not a complete Qwen3-TTS 12 Hz checkpoint"
        )
    return directory


def _download(name: str, revision: str | None, offline: bool, cache: Path | None, files: Sequence[str]) -> Path:
    from huggingface_hub import snapshot_download  # heavy, and not needed for a local directory

    wanted = WANTED_FILES if files == REQUIRED_FILES else files
    with _progress_logged(name, cache):
        directory = snapshot_download(
            name, revision=revision, cache_dir=cache, local_files_only=offline, allow_patterns=list(wanted)
        )
    return Path(directory)


@contextmanager
def _progress_logged(name: str, cache: Path | None) -> Iterator[None]:
    """Log the progress at intervals if the hub's own bars are not shown: they need a terminal."""
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(cache or HF_HUB_CACHE) / f"models--{name.replace('/', '--')}" / "blobs"
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(PROGRESS_INTERVAL_S):
            with contextlib.suppress(OSError):  # a file gets its name
                size = sum(file.stat().st_size for file in folder.glob("*"))
                log.info("%s: %.2f GB downloaded so far", name, size / 1e9)

    watcher = threading.Thread(target=watch, name="download", daemon=True)
    if not sys.stderr.isatty():
        watcher.start()
    try:
        yield
    finally:
        ended.set()


@contextmanager
def _explained(name: str, revision: str | None) -> Iterator[None]:
    """Convert an error of the hub into one sentence with a remedy. The order matters: the errors are subclasses."""
    import httpx
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError as error:
        raise DownloadError(
            f"{name}: access is restricted. Accept its terms at https://huggingface.co/{name}, "
            "then run `hf auth login` or set HF_TOKEN"
        ) from error
    except errors.RepositoryNotFoundError as error:
        raise DownloadError(
            f"{name}: no such repository on the hub, or it is private. Check the spelling, or set HF_TOKEN"
        ) from error
    except errors.RevisionNotFoundError as error:
        raise DownloadError(f"{name}: revision {revision!r} does not exist on the hub. Check `revision`") from error
    except errors.HFValidationError as error:
        raise DownloadError(f"{name}: is neither a directory nor a hub id of the form owner/name") from error
    except errors.LocalEntryNotFoundError as error:
        raise DownloadInterrupted(
            f"{name}: not wholly in the local cache, and the hub cannot be reached or offline mode is on. Connect once "
            "to download it, or pass the path of a copied directory"
        ) from error
    except errors.HfHubHTTPError as error:
        kind = DownloadError if _status(error) in DENIED else DownloadInterrupted
        raise kind(f"{name}: the hub answered {_status(error)}. {_advice(error)}") from error
    except (httpx.HTTPError, ConnectionError) as error:
        raise DownloadInterrupted(f"{name}: the download broke off ({error}). Run again: it resumes") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DownloadInterrupted(
                f"{name}: the disk is full. Free space or point HF_HOME at a larger disk, then run again: it resumes"
            ) from error
        raise DownloadError(f"{name}: the cache cannot be written ({error}). Check HF_HOME and its rights") from error


def _status(error: Exception) -> int | None:
    response = getattr(error, "response", None)
    return getattr(response, "status_code", None)


def _advice(error: Exception) -> str:
    if _status(error) in DENIED:
        return "Set HF_TOKEN to a token that may read it"
    return "Try again later: the download resumes"
