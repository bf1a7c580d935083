"""A prompt planner with the ids of the real checkpoints and a tokenizer of one character a token."""

from __future__ import annotations

from engine.prompt.planner import PromptIds, PromptPlanner

LANGUAGES = {"chinese": 2055, "english": 2050, "german": 2053, "beijing_dialect": 2074, "sichuan_dialect": 2062}
CONFIG = {
    "tts_model_type": "custom_voice",
    "tts_model_size": "1b7",
    "im_start_token_id": 151644,
    "im_end_token_id": 151645,
    "assistant_token_id": 77091,
    "tts_pad_token_id": 151671,
    "tts_bos_token_id": 151672,
    "tts_eos_token_id": 151673,
    "talker_config": {
        "codec_pad_id": 2148,
        "codec_bos_id": 2149,
        "codec_think_id": 2154,
        "codec_nothink_id": 2155,
        "codec_think_bos_id": 2156,
        "codec_think_eos_id": 2157,
        "codec_language_id": LANGUAGES,
        "spk_id": {"Ryan": 3061, "eric": 2875, "dylan": 2878, "uncle_fu": 3010},
        "spk_is_dialect": {"Ryan": False, "eric": "sichuan_dialect", "dylan": "beijing_dialect", "uncle_fu": False},
    },
}
PAD, BOS, EOS = 151671, 151672, 151673


def encode(text: str) -> list[int]:
    known = {"assistant": [77091], "user": [872], "\n": [198]}
    return known.get(text, [ord(character) for character in text])


def planner(kind: str = "custom_voice", size: str = "1b7") -> PromptPlanner:
    config = {**CONFIG, "tts_model_type": kind, "tts_model_size": size}
    if kind != "custom_voice":
        config["talker_config"] = {**CONFIG["talker_config"], "spk_id": {}, "spk_is_dialect": {}}  # type: ignore[dict-item]
    return PromptPlanner(PromptIds.from_config(config), encode)
