"""The shortest loop that speaks greedily, to test the networks without the engine's sampler and scheduler."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine.model.speech_model import SpeechModel
from engine.model.talker import BatchRows, Cache, Talker

PENALTY = 1.05
MIN_NEW_TOKENS = 2
FIRST_MARK = 2048
ROOM = 512


@dataclass
class Spoken:
    """Outputs of the networks, for comparison with the reference."""

    codes: Tensor  # [frames, 16]
    hidden: Tensor  # [steps, H]
    logits: Tensor  # [steps, 3072], as they leave the head
    predictor: Tensor  # [frames · 15, 2048]


def prefill(talker: Talker, inputs: Tensor, cache: Cache, rows: BatchRows, lengths: Tensor) -> tuple[Tensor, Tensor]:
    """Read prompts of unequal length, padded at the right: inputs [B, T, H], of which lengths [B] are real.

    Return the hidden state [B, H] and the logits [B, V] of each last real position.
    """
    hidden = talker(inputs, cache, rows)
    hidden = hidden[torch.arange(len(lengths)), lengths - 1]
    return hidden, talker.head(hidden)


def choose(logits: Tensor, past: list[int], eos: int) -> int:
    """Greedy choice of group 0 [V]: repetition penalty, no early end, no marks but the end."""
    logits = logits.clone()
    seen = torch.tensor(sorted(set(past)), dtype=torch.int64)
    logits[seen] = torch.where(logits[seen] > 0, logits[seen] / PENALTY, logits[seen] * PENALTY)
    end = logits[eos].item() if len(past) >= MIN_NEW_TOKENS else -torch.inf
    logits[FIRST_MARK:] = -torch.inf
    logits[eos] = end
    return int(logits.argmax())


@torch.inference_mode()
def speak(model: SpeechModel, prompt: Tensor, trailing: Tensor, pad: Tensor, samples: int, slot: int = 0) -> Spoken:
    """Prompt [T, H], trailing text [n, H], pad [H]; `samples` group-0 choices yield at most one frame less."""
    talker, predictor, eos = model.talker, model.code_predictor, model.config.talker.ids.eos
    cache, frame_cache = talker.allocate(slot + 1, ROOM), predictor.allocate(1)
    slots, start = torch.tensor([slot]), torch.tensor([0])
    lengths = torch.tensor([len(prompt)])
    hidden, logits = prefill(talker, prompt[None], cache, BatchRows(slots, start, ROOM), lengths)
    spoken, frames, passes = [(hidden, logits)], [], []

    def best(scores: Tensor, group: int) -> Tensor:
        passes.append(scores[0])
        return scores.argmax(-1)

    past = [choose(logits[0], [], eos)]
    while past[-1] != eos and len(past) < samples:
        codes = predictor.frame(hidden, torch.tensor([past[-1]]), frame_cache, best)
        text = trailing[len(frames)] if len(frames) < len(trailing) else pad
        position = torch.tensor([len(prompt) + len(frames)])
        frames.append(codes[0])
        hidden, logits = talker.step(talker.codes(codes) + text, cache, BatchRows(slots, position, ROOM))
        spoken.append((hidden, logits))
        past.append(choose(logits[0], past, eos))
    return Spoken(
        torch.stack(frames),
        torch.cat([hidden for hidden, _ in spoken]),
        torch.cat([logits for _, logits in spoken]),
        torch.stack(passes),
    )
