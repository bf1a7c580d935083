"""Voice prompts on disk and the shortest recording that makes one."""

import numpy as np
import pytest
import torch

from engine.voices.prompt import VoicePrompt, VoicePromptError, make_voice_prompt
from tests.engine.support.random_inputs import sound
from tests.engine.support.tiny_models import tiny_model


def test_voice_prompt_round_trips(tmp_path):
    made = make_voice_prompt(tiny_model(), sound(1.0, 1), "the door is open")
    made.save(tmp_path / "prompt.npz")
    loaded = VoicePrompt.load(tmp_path / "prompt.npz")
    assert loaded.clone == made.clone
    assert torch.equal(loaded.codes, made.codes)
    assert list(tmp_path.iterdir()) == [tmp_path / "prompt.npz"]


@pytest.mark.parametrize("length", [0, 10, 200, -30])
def test_load_rejects_truncated_voice_prompt(tmp_path, length):
    path = tmp_path / "prompt.npz"
    make_voice_prompt(tiny_model(), sound(1.0, 1), "hello").save(path)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(VoicePromptError, match="not a voice prompt"):
        VoicePrompt.load(path)


def test_make_voice_prompt_rejects_too_short_recording():
    with pytest.raises(VoicePromptError, match="too short"):
        make_voice_prompt(tiny_model(), np.zeros(100, np.float32), None)


def test_make_voice_prompt_requires_base_model():
    with pytest.raises(VoicePromptError, match="Base model"):
        make_voice_prompt(tiny_model("custom_voice"), sound(1.0, 1), None)
