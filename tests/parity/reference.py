"""Runs the reference package on our tiny checkpoints and notes what flows between its parts.

Only the 25 Hz tokenizer's quantizer needs torchaudio, sox and onnxruntime, so an empty module replaces it.
"""

from __future__ import annotations

import os
import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_UNUSED_MODULE = "qwen_tts.core.tokenizer_25hz.vq.speech_vq"
GREEDY = {"do_sample": False, "subtalker_dosample": False}


def import_reference() -> Any:
    """The package qwen_tts, able to run on Transformers 5.17. Raises ImportError where it is not installed."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    stand_in = types.ModuleType(_UNUSED_MODULE)
    stand_in.__dict__.update(WhisperEncoderVQ=object, XVectorExtractor=object)
    sys.modules.setdefault(_UNUSED_MODULE, stand_in)
    import qwen_tts

    _mend_rope()
    return qwen_tts


def _mend_rope() -> None:
    """The package's default RoPE reads config.rope_theta, which Mimi's config of newer Transformers no longer has."""
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    theirs = ROPE_INIT_FUNCTIONS.get("default")
    if theirs is None or not theirs.__module__.startswith("qwen_tts"):
        return

    def mended(config: Any, device: Any = None, seq_len: int | None = None, **_: Any) -> tuple[Tensor, float]:
        if hasattr(config, "rope_theta"):
            return theirs(config, device, seq_len)
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        powers = torch.arange(0, width, 2, device=device, dtype=torch.float32) / width
        return config.rope_parameters["rope_theta"] ** -powers, 1.0

    ROPE_INIT_FUNCTIONS["default"] = mended


def load_reference(directory: Path, **options: Any) -> Any:
    """Qwen3TTSModel of a checkpoint directory, by default in float32 on the CPU."""
    options.setdefault("dtype", torch.float32)
    return import_reference().Qwen3TTSModel.from_pretrained(str(directory), **options)


@dataclass
class Trace:
    """One generate call of the reference: its talker's inputs, outputs and codes."""

    prompts: Tensor | None = None  # [B, T, H], padded at the left
    mask: Tensor | None = None  # [B, T]
    trailing: Tensor | None = None  # [B, n, H]
    pad: Tensor | None = None  # [H]
    hidden: list[Tensor] = field(default_factory=list)  # per step [B, H]
    logits: list[Tensor] = field(default_factory=list)  # per step [B, 3072]
    predictor: list[Tensor] = field(default_factory=list)  # per pass [B, 2048]
    codes: list[Tensor] = field(default_factory=list)  # per item [frames, 16]

    def prompt(self, item: int) -> Tensor:
        """The item's prompt without padding: [t, H]."""
        return self.prompts[item][self.mask[item].bool()]


@contextmanager
def traced(model: Any) -> Iterator[Trace]:
    """Note what the next generation of a Qwen3TTSModel does."""
    trace, inner = Trace(), model.model
    talker_generate, generate = inner.talker.generate, inner.generate

    def watched_talker(**inputs: Any) -> Any:
        trace.prompts, trace.mask = inputs["inputs_embeds"], inputs["attention_mask"]
        trace.trailing, trace.pad = inputs["trailing_text_hidden"], inputs["tts_pad_embed"].flatten()
        return talker_generate(**inputs)

    def watched_generate(*args: Any, **kwargs: Any) -> Any:
        result = generate(*args, **kwargs)
        trace.codes = [codes.clone() for codes in result[0]]
        return result

    def talker_hook(_: Any, __: Any, output: Any) -> None:
        trace.hidden.append(output.past_hidden[:, -1].clone())
        trace.logits.append(output.logits[:, -1].clone())

    def predictor_hook(_: Any, __: Any, output: Any) -> None:
        trace.predictor.append(output.logits[:, -1].clone())

    hooks = [
        inner.talker.register_forward_hook(talker_hook),
        inner.talker.code_predictor.register_forward_hook(predictor_hook),
    ]
    inner.talker.generate, inner.generate = watched_talker, watched_generate
    try:
        yield trace
    finally:
        inner.talker.generate, inner.generate = talker_generate, generate
        for hook in hooks:
            hook.remove()
