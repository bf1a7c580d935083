"""Bindings of the eSpeak NG library that speak a piece of text and return the same audio for the same state.

In eSpeak NG 1.52, three variables besides the voice persist between utterances and change the sound.
The position in the table that flutters the pitch, the count of voice cycles that times a rolled r, and the automatic
gain are static variables that no function of the library resets, not even a new espeak_Initialize. The noise of breathy
voices is from a generator that can be seeded. So the three are set before each piece and read after it, at the
addresses in the library's symbol table. A library without these symbols works too, but two equal requests then
differ inaudibly. The speed persists as well: characters of another script can load that
language's voice, whose speed then remains until the rate is set again.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_SYNCHRONOUS = 2  # AUDIO_OUTPUT_SYNCHRONOUS: the callback runs inside espeak_Synth
_DONT_EXIT = 0x8000  # espeakINITIALIZE_DONT_EXIT: without it, missing data would end the process
_FLAGS = 1 | 0x1000  # espeakCHARS_UTF8, and espeakENDPAUSE: the last sentence gets its pause like every other
_BY_CHARACTER = 1  # POS_CHARACTER
_RATE, _DEFAULT_WPM = 1, 175  # espeakRATE, espeakRATE_NORMAL

_SynthCallback = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p)


class EspeakError(Exception):
    """A call of the library failed."""


@dataclass(frozen=True, slots=True)
class SynthState:
    """State of the library between two pieces of a job. The defaults are those after loading."""

    flutter: int = 0
    cycles: int = 0
    gain: int = 256
    pieces: int = 0


class EspeakLibrary:
    """The loaded library. Its state is global in the process, so only one instance may be in use at a time."""

    def __init__(self, library: Path, data: Path, buffer_ms: int) -> None:
        """Load and initialise; each callback then receives `buffer_ms` of audio. Raises OSError and EspeakError."""
        self._library = ctypes.CDLL(str(library))
        number, pointer = ctypes.c_uint, ctypes.c_void_p
        size, text = ctypes.c_size_t, ctypes.c_char_p
        self._library.espeak_Synth.argtypes = [text, size, number, ctypes.c_int, number, number, pointer, pointer]
        self._library.espeak_ng_SetRandSeed.argtypes = [ctypes.c_long]
        self._library.espeak_Info.restype = ctypes.c_char_p
        self.rate: int = self._library.espeak_Initialize(_SYNCHRONOUS, buffer_ms, str(data).encode(), _DONT_EXIT)
        if self.rate <= 0:
            raise EspeakError(f"eSpeak NG cannot use its data in {data}; it takes paths of up to 150 characters")
        self.version: str = self._library.espeak_Info(None).decode()
        self._callback = _SynthCallback(self._on_audio)
        self._library.espeak_SetSynthCallback(self._callback)
        self._variables = _hidden_variables(self._library, library)
        self._voice = ""
        self._take: Callable[[bytes], None] | None = None
        self._error: BaseException | None = None

    @property
    def repeatable(self) -> bool:
        """Whether the same piece in the same state results in the same bytes."""
        return len(self._variables) == 3

    def speak(self, voice: str, text: str, state: SynthState, take: Callable[[bytes], None]) -> SynthState:
        """Speak `text`, pass each buffer of s16 PCM to `take`, and return the new state.

        Raises EspeakError, and exceptions of `take`, which end the speech.
        """
        self._choose(voice)
        self._restore(state)
        self._take, self._error = take, None
        spoken = text.encode()
        status = self._library.espeak_Synth(spoken, len(spoken) + 1, 0, _BY_CHARACTER, 0, _FLAGS, None, None)
        self._take = None
        if self._error is not None:
            self._voice = ""
            raise self._error
        if status != 0:
            raise EspeakError(f"espeak_Synth failed with status {status}")
        return self._saved(state)

    def _choose(self, voice: str) -> None:
        """Set the voice if it differs, which takes 0.02-0.1 ms (Russian: 4 ms).

        A variant is set each time: only that clears its echo and breath.
        """
        if voice == self._voice and "+" not in voice:
            return
        self._voice = ""
        if self._library.espeak_SetVoiceByName(voice.encode()) != 0:
            raise EspeakError(f"eSpeak NG cannot load the voice {voice}")
        self._voice = voice

    def _restore(self, state: SynthState) -> None:
        self._library.espeak_ng_SetRandSeed(state.pieces + 1)
        self._library.espeak_SetParameter(_RATE, _DEFAULT_WPM, 0)
        for variable, value in zip(self._variables, (state.flutter, state.cycles, state.gain), strict=False):
            variable.value = value

    def _saved(self, before: SynthState) -> SynthState:
        if not self.repeatable:
            return SynthState(pieces=before.pieces + 1)
        flutter, cycles, gain = (variable.value for variable in self._variables)
        return SynthState(flutter, cycles, gain, before.pieces + 1)

    def _on_audio(self, samples: int | None, count: int, _events: int | None) -> int:
        """Handle a buffer for espeak_Synth; 1 ends it. An exception cannot cross C, so `speak` raises it later."""
        try:
            if samples and count > 0 and self._take is not None:
                self._take(ctypes.string_at(samples, 2 * count))
        except BaseException as error:
            self._error = error
            return 1
        return 0


def _hidden_variables(library: ctypes.CDLL, path: Path) -> list[ctypes.c_int]:
    """Return the static variables flutter, cycles and gain of the library; empty unless all three are found."""
    anchor = "espeak_Initialize"
    found: dict[str, list[int]] = {"Flutter_ix": [], "cycle_count": [], "agc": [], anchor: []}
    for name, size, address in _elf_symbols(path.read_bytes()):
        stem = name.partition(".")[0]  # GCC numbers function statics: Flutter_ix.5965
        if stem in found and (size == ctypes.sizeof(ctypes.c_int) or stem == anchor):
            found[stem].append(address)
    if any(len(addresses) != 1 for addresses in found.values()):
        return []
    loaded_at = ctypes.cast(library.espeak_Initialize, ctypes.c_void_p).value or 0
    base = loaded_at - found.pop(anchor)[0]
    return [ctypes.c_int.from_address(base + addresses[0]) for addresses in found.values()]


def _elf_symbols(image: bytes) -> Iterator[tuple[str, int, int]]:
    """Yield name, size and address of each symbol of a 64-bit little-endian ELF file (System V gABI, ch. 4)."""
    if image[:6] != b"\x7fELF\x02\x01":
        return
    (section_table,) = struct.unpack_from("<Q", image, 0x28)
    entry_size, count = struct.unpack_from("<HH", image, 0x3A)
    sections = [struct.unpack_from("<IIQQQQIIQQ", image, section_table + i * entry_size) for i in range(count)]
    for kind, offset, size, names in ((s[1], s[4], s[5], s[6]) for s in sections):
        if kind != 2:  # SHT_SYMTAB
            continue
        strings = sections[names][4]
        for name, _, _, _, address, length in struct.iter_unpack("<IBBHQQ", image[offset : offset + size]):
            start = strings + name
            yield image[start : image.index(b"\0", start)].decode("ascii", "replace"), length, address
