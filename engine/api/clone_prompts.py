"""Voice-clone prompts as scripts for the reference package know them, and what the engine makes of them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model.streaming import CodecSnapshot
from ..voices.prompt import VoicePrompt

CODEBOOK_SIZE = 2048


@dataclass
class VoiceClonePromptItem:
    """What one recording says about a voice. `icl_mode`: the speech continues the recording (in-context learning)."""

    ref_code: Tensor | None  # int64 [frames, 16]; None with x_vector_only_mode
    ref_spk_embedding: Tensor  # float [H]
    x_vector_only_mode: bool
    icl_mode: bool
    ref_text: str | None = None


def item_of(voice: VoicePrompt, ref_text: str | None) -> VoiceClonePromptItem:
    """A heard voice under the reference's names."""
    in_context = voice.codes is not None
    return VoiceClonePromptItem(voice.codes, voice.speaker, not in_context, in_context, ref_text)


def voice_of(item: VoiceClonePromptItem) -> VoicePrompt:
    """The voice of an item, ours or the reference's own. Raises ValueError for none, or one that contradicts itself."""
    if not hasattr(item, "ref_spk_embedding"):
        raise ValueError(f"voice_clone_prompt: what create_voice_clone_prompt gives, not {type(item).__name__}")
    speaker = _tensor(item.ref_spk_embedding).float().flatten()
    if not item.icl_mode:
        if not item.x_vector_only_mode:
            raise ValueError("a voice clone prompt must have either icl_mode or x_vector_only_mode")
        return VoicePrompt(speaker)
    if item.ref_code is None or not item.ref_text:
        raise ValueError("a voice clone prompt with icl_mode needs ref_code and ref_text (pass items, not a dict)")
    codes = _tensor(item.ref_code).long()
    if codes.ndim != 2 or codes.shape[1] != 16:
        raise ValueError(f"ref_code must be [frames, 16], not {list(codes.shape)}")
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < CODEBOOK_SIZE:  # a GPU never recovers
        raise ValueError(f"ref_code must lie between 0 and {CODEBOOK_SIZE - 1}")
    return VoicePrompt(speaker, codes, item.ref_text)


def items_of(prompt: Any) -> list[Any]:
    """The items of a `voice_clone_prompt`: a list of them, one, or the reference's dict of lists. Raises ValueError."""
    if isinstance(prompt, Mapping):
        fields = ("ref_code", "ref_spk_embedding", "x_vector_only_mode", "icl_mode")
        if missing := [field for field in fields if field not in prompt]:
            raise ValueError(f"a voice_clone_prompt that is a dict needs {', '.join(missing)} too: a list for each")
        rows = zip(*(prompt[field] for field in fields), strict=True)
        return [VoiceClonePromptItem(*row) for row in rows]
    return list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]


class PrimedVoices:
    """The codec's state after each of the last few references, so that a sentence need not decode it again."""

    def __init__(self, prime: Callable[[Tensor], CodecSnapshot], keep: int = 8) -> None:
        self._prime, self._keep = prime, keep
        self._states: dict[str, CodecSnapshot] = {}
        self._lock = threading.Lock()

    def get(self, voice: VoicePrompt) -> CodecSnapshot | None:
        """The state for a voice; None where speech starts from silence."""
        reference = voice.clone.reference
        if reference is None or voice.codes is None:
            return None
        with self._lock:
            state = self._states.pop(reference.digest, None)
        state = state or self._prime(voice.codes)
        with self._lock:
            self._states[reference.digest] = state
            while len(self._states) > self._keep:
                del self._states[next(iter(self._states))]
        return state


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu()
