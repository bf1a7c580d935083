"""Voice-clone prompts in the reference package's form, and their conversion to the engine's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..model.config import CODEBOOK_SIZE
from ..voices.prompt import VoicePrompt


@dataclass
class VoiceClonePromptItem:
    """A voice computed from one recording. `icl_mode`: speech continues the recording (in-context learning)."""

    ref_code: Tensor | None  # int64 [frames, 16]; None with x_vector_only_mode
    ref_spk_embedding: Tensor  # float [H]
    x_vector_only_mode: bool
    icl_mode: bool
    ref_text: str | None = None


def item_of(voice: VoicePrompt, ref_text: str | None) -> VoiceClonePromptItem:
    """Return a voice prompt under the reference's names."""
    in_context = voice.codes is not None
    return VoiceClonePromptItem(voice.codes, voice.speaker, not in_context, in_context, ref_text)


def voice_of(item: VoiceClonePromptItem) -> VoicePrompt:
    """Return the voice of an item, ours or the reference's own. Raises ValueError for anything else."""
    if not hasattr(item, "ref_spk_embedding"):
        raise ValueError(f"voice_clone_prompt must come from create_voice_clone_prompt, not be {type(item).__name__}")
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
    # On a GPU an index out of range makes every later CUDA call of the process fail.
    if len(codes) and not 0 <= int(codes.min()) <= int(codes.max()) < CODEBOOK_SIZE:
        raise ValueError(f"ref_code must be between 0 and {CODEBOOK_SIZE - 1}")
    return VoicePrompt(speaker, codes, item.ref_text)


def items_of(prompt: Any) -> list[Any]:
    """Return the items of a list, of one item, or of the reference's dict of lists. Raises ValueError."""
    if isinstance(prompt, Mapping):
        fields = ("ref_code", "ref_spk_embedding", "x_vector_only_mode", "icl_mode")
        if missing := [field for field in fields if field not in prompt]:
            raise ValueError(f"a voice_clone_prompt that is a dict also needs {', '.join(missing)}, each a list")
        rows = zip(*(prompt[field] for field in fields), strict=True)
        return [VoiceClonePromptItem(*row) for row in rows]
    return list(prompt) if isinstance(prompt, (list, tuple)) else [prompt]


def _tensor(values: Any) -> Tensor:
    return torch.as_tensor(values).detach().cpu()
