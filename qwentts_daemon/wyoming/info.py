"""The info event in answer to `describe`."""

from __future__ import annotations

import functools

from wyoming.info import Attribution, Info, TtsProgram, TtsVoice, TtsVoiceSpeaker

from .. import __version__
from ..voices.catalog import VoiceCatalog, VoiceEntry
from .wire import encode_event

_ATTRIBUTION = Attribution("Qwen3-TTS and eSpeak NG", "https://github.com/QwenLM/Qwen3-TTS")


@functools.lru_cache(maxsize=1)
def info_bytes(catalog: VoiceCatalog, program_name: str) -> bytes:
    """The info event of a catalog, encoded; Home Assistant asks for it every 30 s."""
    program = TtsProgram(
        name=program_name,
        attribution=_ATTRIBUTION,
        installed=True,
        description="A natural voice on your own machine",
        version=__version__,
        voices=[_voice(entry) for entry in catalog.entries],
        supports_synthesize_streaming=True,
    )
    return encode_event(Info(tts=[program]).event())


def _voice(entry: VoiceEntry) -> TtsVoice:
    return TtsVoice(
        name=entry.id,
        attribution=_ATTRIBUTION,
        installed=True,
        description=entry.description,
        version=None,
        languages=list(entry.languages),
        speakers=[TtsVoiceSpeaker(style) for style in entry.styles] or None,
    )
