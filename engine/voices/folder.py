"""The voices folder: recordings to clone, and voices described in words.

NAME/voice.yaml            kind: clone or design; the other keys are those of `FolderVoice`
NAME/reference.wav|flac    the recording of a cloned voice
NAME/transcript.txt        its transcript, which makes the clone closer
"""

from __future__ import annotations

import difflib
import os
import reprlib
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

SHEET_FILE = "voice.yaml"
TRANSCRIPT_FILE = "transcript.txt"
REFERENCE_FILES = ("reference.wav", "reference.flac")
VOICE_FILES = (SHEET_FILE, TRANSCRIPT_FILE, *REFERENCE_FILES)
MODEL_KINDS = {"clone": "base", "design": "voice_design"}
"""The kind of checkpoint that each kind of voice needs."""
MAX_FILE_BYTES = 64 * 1024

Signature = tuple[tuple[str, str, int, int, int], ...]


class VoiceFolderError(Exception):
    """A voice of the folder cannot be used; the message names the file and the reason."""


@dataclass(frozen=True, slots=True)
class FolderVoice:
    """One voice as its files describe it. `languages`: BCP-47 tags, its own first; empty if the files do not name one.

    `instruct` describes a designed voice; `styles` maps the name of a style to the words to add to `instruct`.
    """

    name: str
    kind: str
    description: str
    languages: tuple[str, ...] = ()
    instruct: str | None = None
    styles: Mapping[str, str] = field(default_factory=dict)
    recording: Path | None = None
    transcript: str | None = None


def signature(folder: Path) -> Signature:
    """Return a value that changes whenever a file of a voice changes. Costs one `stat` per file."""
    found = []
    for directory in _directories(folder):
        for name in VOICE_FILES:
            try:
                status = (directory / name).stat()
            except OSError:
                continue
            found.append((directory.name, name, status.st_mtime_ns, status.st_size, status.st_ino))
    return tuple(found)


def read_folder(folder: Path) -> tuple[dict[str, FolderVoice], dict[str, str]]:
    """Return the voices of the folder by name, and the faults of unusable ones by name. A missing folder is empty."""
    voices, problems = {}, {}
    for directory in _directories(folder):
        try:
            voices[directory.name] = read_voice(directory)
        except VoiceFolderError as error:
            problems[directory.name] = str(error)
        except OSError as error:  # such as a link into a directory without access
            problems[directory.name] = f"{error.filename or directory}: {error.strerror or error}"
    return voices, problems


def read_voice(directory: Path) -> FolderVoice:
    """Read the voice in one directory. Raises VoiceFolderError, OSError."""
    check_name(directory.name)
    sheet = _Sheet(directory / SHEET_FILE)
    kind = sheet.choice("kind", tuple(MODEL_KINDS))
    sheet.allow(("kind", "description", "language", *(("instruct", "styles") if kind == "design" else ())))
    voice = FolderVoice(
        name=directory.name,
        kind=kind,
        description=sheet.text("description") or directory.name.replace("_", " ").capitalize(),
        languages=sheet.words("language"),
        instruct=sheet.text("instruct"),
        styles=sheet.mapping("styles"),
        recording=_recording(directory) if kind == "clone" else None,
        transcript=_transcript(directory) if kind == "clone" else None,
    )
    if kind == "design" and not voice.instruct:
        raise VoiceFolderError(f"{sheet.file}: `instruct` is missing: describe the voice in words")
    return voice


def write_clone(folder: Path, voice: FolderVoice) -> Path:
    """Create or replace a cloned voice's directory atomically, with a copy of its recording. Raises OSError.

    Only the owner of the folder can read it, because a voice is personal data.
    """
    assert voice.recording is not None, voice.name
    directory, partial = folder / voice.name, folder / f".{voice.name}.partial"
    owner, is_new = _nearest(folder).stat(), not folder.exists()
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    sheet: dict[str, Any] = {"kind": "clone", "description": voice.description}
    if voice.languages:
        sheet["language"] = voice.languages[0]
    (partial / SHEET_FILE).write_text(yaml.safe_dump(sheet, sort_keys=False, allow_unicode=True), encoding="utf-8")
    if voice.transcript:
        (partial / TRANSCRIPT_FILE).write_text(voice.transcript.strip() + "\n", encoding="utf-8")
    shutil.copyfile(voice.recording, partial / f"reference{voice.recording.suffix.lower()}")
    for path in (*([folder] if is_new else []), partial, *partial.iterdir()):
        path.chmod(0o700 if path.is_dir() else 0o600)
        if os.geteuid() == 0:  # root creates it for a daemon that runs as another user
            os.chown(path, owner.st_uid, owner.st_gid)
    if directory.exists():
        shutil.rmtree(directory)
    partial.rename(directory)
    return directory


def check_name(name: str) -> None:
    """Raises VoiceFolderError for a name that Wyoming or MQTT clients could not send."""
    if not name or name.startswith(".") or set(name) & set("@+/ \t\n") or _is_broken(name):
        raise VoiceFolderError(
            f"{name!r}: a voice's name must not contain a blank, '/', '@' or '+', nor start with a dot"
        )


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest directory above it that exists."""
    return path if path.exists() else _nearest(path.absolute().parent)


def _directories(folder: Path) -> list[Path]:
    try:
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith(".") and _is_directory(entry))
    except OSError:
        return []


def _is_directory(entry: Path) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # such as a link into a directory without access
        return False


def _is_broken(words: str) -> bool:
    """True for text with surrogates, as in a file name that is not UTF-8: it cannot be sent to a client."""
    return any("\ud800" <= character <= "\udfff" for character in words)


def _recording(directory: Path) -> Path:
    found = [directory / name for name in REFERENCE_FILES if (directory / name).is_file()]
    if len(found) != 1:
        fault = "there are two recordings" if found else "the recording is missing"
        raise VoiceFolderError(f"{directory}: {fault}: put {' or '.join(REFERENCE_FILES)} there")
    return found[0]


def _transcript(directory: Path) -> str | None:
    file = directory / TRANSCRIPT_FILE
    if not file.exists():
        return None
    words = _read(file).strip()
    if not words:
        raise VoiceFolderError(f"{file}: is empty: write down the words of the recording, or delete it")
    return words


def _read(file: Path) -> str:
    if file.exists() and not file.is_file():  # reading a named pipe could block forever
        raise VoiceFolderError(f"{file}: is not a file")
    try:
        with file.open("rb") as stream:
            data = stream.read(MAX_FILE_BYTES + 1)
        if len(data) > MAX_FILE_BYTES:
            raise VoiceFolderError(f"{file}: is larger than {MAX_FILE_BYTES} bytes")
        return data.decode("utf-8-sig").replace("\r\n", "\n")  # Windows editors write a byte order mark and CR LF
    except OSError as error:
        raise VoiceFolderError(f"{file}: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise VoiceFolderError(f"{file}: is not UTF-8 text") from error


class _SheetLoader(yaml.SafeLoader):
    """Reject aliases: a few of them expand to gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.YAMLError("aliases are not supported: write the value out")
        return super().compose_node(parent, index)


class _Sheet:
    """The mapping in a voice.yaml. Methods raise VoiceFolderError with path and key."""

    def __init__(self, file: Path) -> None:
        self.file = file
        try:
            values = yaml.load(_read(file), Loader=_SheetLoader)
        except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: such as a date that does not exist
            raise VoiceFolderError(f"{file}: no valid YAML: {' '.join(str(error).split())}") from error
        if not isinstance(values, dict):
            raise VoiceFolderError(f"{file}: expected keys such as `kind: clone`")
        self._values = values

    def allow(self, known: Sequence[str]) -> None:
        """Reject every other key."""
        for key in self._values:
            if key not in known:
                near = difflib.get_close_matches(str(key), known, n=1)
                hint = f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}"
                raise VoiceFolderError(f"{self.file}: unknown key {reprlib.repr(key)}; {hint}")

    def choice(self, key: str, known: tuple[str, ...]) -> str:
        value = self._values.get(key)
        if value not in known:
            raise VoiceFolderError(f"{self.file}: `{key}` must be {' or '.join(known)}, not {reprlib.repr(value)}")
        return str(value)

    def text(self, key: str) -> str | None:
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, str) or not value.strip() or _is_broken(value):
            raise VoiceFolderError(f"{self.file}: `{key}` must be a text, not {reprlib.repr(value)}")
        return " ".join(value.split())

    def words(self, key: str) -> tuple[str, ...]:
        """Return one word or a list of them as a tuple."""
        value = self._values.get(key)
        words = value if isinstance(value, list) else [] if value is None else [value]
        words = ["no" if word is False else word for word in words]  # YAML 1.1 reads Norwegian's code as a boolean
        if not all(isinstance(word, str) and word for word in words):
            raise VoiceFolderError(
                f"{self.file}: `{key}` must be a tag such as de-DE or a list of them, not {reprlib.repr(value)}"
            )
        return tuple(words)

    def mapping(self, key: str) -> dict[str, str]:
        value = self._values.get(key)
        pairs = {} if value is None else value
        if not isinstance(pairs, dict) or not all(isinstance(word, str) for pair in pairs.items() for word in pair):
            raise VoiceFolderError(f"{self.file}: `{key}` must map names to words, not {reprlib.repr(value)}")
        for name in pairs:
            check_name(name)
        return pairs
