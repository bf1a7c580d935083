"""The speech engine: backends that turn text into PCM, the worker process that runs them, and a Python API.

Importing this package is light: `Qwen3TTSModel` and its companions bring torch in when they are first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api.clone_prompts import VoiceClonePromptItem
    from .api.model import Qwen3TTSModel
    from .api.speech_tokenizer import Qwen3TTSTokenizer

__version__ = "0.1.0"
__all__ = ["Qwen3TTSModel", "Qwen3TTSTokenizer", "VoiceClonePromptItem", "__version__"]

_HOMES = {
    "Qwen3TTSModel": "api.model",
    "Qwen3TTSTokenizer": "api.speech_tokenizer",
    "VoiceClonePromptItem": "api.clone_prompts",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
