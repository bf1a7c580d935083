"""Small random checkpoints with every file, id and rate of the real ones, the same bytes on every machine.

python -m engine.testing.tiny_checkpoint OUT --type base|custom_voice|voice_design --size 1b7|0b6
python -m engine.testing.tiny_checkpoint OUT --full 1.7B|0.6B      (real sizes; wants a GPU, or patience)

Random speech does not end by itself; with `--eos-gain` it ends by chance, the sooner the larger it is.
"""

from __future__ import annotations

import argparse
import json
import math
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from ..checkpoint.weight_map import Shape, codec_weights, model_weights
from ..model.config import CODEC_FILE, MODEL_FILE, ModelConfig, read_config
from .tiny_tokenizer import text_ids, write_tokenizer

TEXT_ROWS = 768
LANGUAGES = {
    "chinese": 2055, "english": 2050, "german": 2053, "italian": 2070, "portuguese": 2071,
    "spanish": 2054, "japanese": 2058, "korean": 2064, "french": 2061, "russian": 2069,
}  # fmt: skip
DIALECTS = {"beijing_dialect": 2074, "sichuan_dialect": 2062}
SPEAKERS = {
    "serena": 3066, "vivian": 3065, "uncle_fu": 3010, "ryan": 3061, "aiden": 2861,
    "ono_anna": 2873, "sohee": 2864, "eric": 2875, "dylan": 2878,
}  # fmt: skip
SPOKEN_DIALECTS = {"eric": "sichuan_dialect", "dylan": "beijing_dialect"}
GENERATION = {
    "do_sample": True, "repetition_penalty": 1.05, "temperature": 0.9, "top_p": 1.0, "top_k": 50,
    "subtalker_dosample": True, "subtalker_temperature": 0.9, "subtalker_top_p": 1.0, "subtalker_top_k": 50,
    "max_new_tokens": 8192,
}  # fmt: skip


@dataclass(frozen=True)
class Sizes:
    """What differs between a tiny and a full checkpoint."""

    text_rows: int
    text_hidden: int
    hidden: int
    intermediate: int
    layers: int
    heads: tuple[int, int, int]
    predictor: tuple[int, int, int]
    speaker: dict[str, Any]
    decoder: dict[str, int]
    encoder: dict[str, int]


TINY_SPEAKER = {
    "mel_dim": 128, "enc_channels": [16, 16, 16, 16, 48], "enc_kernel_sizes": [5, 3, 3, 3, 1],
    "enc_dilations": [1, 2, 3, 4, 1], "enc_attention_channels": 8, "enc_res2net_scale": 8, "enc_se_channels": 8,
}  # fmt: skip
TINY_DECODER = {
    "latent_dim": 32, "codebook_dim": 16, "decoder_dim": 48, "hidden_size": 24, "intermediate_size": 40,
    "head_dim": 8, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 2,
    "vector_quantization_hidden_dimension": 16,
}  # fmt: skip
TINY_ENCODER = {
    "num_filters": 4, "hidden_size": 32, "intermediate_size": 64, "head_dim": 8, "num_attention_heads": 4,
    "num_key_value_heads": 4, "num_hidden_layers": 2, "codebook_dim": 8, "upsample_groups": 32,
    "vector_quantization_hidden_dimension": 8,
}  # fmt: skip
FULL_DECODER = {
    "latent_dim": 1024, "codebook_dim": 512, "decoder_dim": 1536, "hidden_size": 512, "intermediate_size": 1024,
    "head_dim": 64, "num_attention_heads": 16, "num_key_value_heads": 16, "num_hidden_layers": 8,
    "vector_quantization_hidden_dimension": 512,
}  # fmt: skip
FULL_ENCODER = {
    "num_filters": 64, "hidden_size": 512, "intermediate_size": 2048, "head_dim": 64, "num_attention_heads": 8,
    "num_key_value_heads": 8, "num_hidden_layers": 8, "codebook_dim": 256, "upsample_groups": 512,
    "vector_quantization_hidden_dimension": 256,
}  # fmt: skip


def tiny_sizes(size: str) -> Sizes:
    """Layout of the small checkpoints: `1b7` has a projection before the code predictor, `0b6` does not."""
    predictor = (32 if size == "1b7" else 64, 96, 2)
    return Sizes(TEXT_ROWS, 48, 64, 128, 3, (4, 2, 16), predictor, TINY_SPEAKER, TINY_DECODER, TINY_ENCODER)


def full_sizes(size: str) -> Sizes:
    """Layout of the published checkpoints."""
    hidden = 2048 if size == "1b7" else 1024
    heads, predictor = (16, 8, 128), (1024, 3072, 5)
    return Sizes(151_936, 2048, hidden, 3 * hidden, 28, heads, predictor, {}, FULL_DECODER, FULL_ENCODER)


# --- config files -----------------------------------------------------------------------------------------------


def _stack(hidden: int, intermediate: int, layers: int, heads: tuple[int, int, int]) -> dict[str, Any]:
    return {
        "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": layers,
        "num_attention_heads": heads[0], "num_key_value_heads": heads[1], "head_dim": heads[2],
        "hidden_act": "silu", "attention_bias": False, "attention_dropout": 0, "initializer_range": 0.02,
        "rms_norm_eps": 1e-6, "rope_theta": 1_000_000, "num_code_groups": 16, "sliding_window": None,
        "use_sliding_window": False, "use_cache": True,
    }  # fmt: skip


def _talker_config(kind: str, sizes: Sizes) -> dict[str, Any]:
    hidden, intermediate, layers = sizes.predictor
    custom = kind == "custom_voice"
    sections = [sizes.heads[2] // 2 - 2 * (sizes.heads[2] * 5 // 32)] + [sizes.heads[2] * 5 // 32] * 2
    return _stack(sizes.hidden, sizes.intermediate, sizes.layers, sizes.heads) | {
        "model_type": "qwen3_tts_talker", "vocab_size": 3072, "text_vocab_size": sizes.text_rows,
        "text_hidden_size": sizes.text_hidden, "max_position_embeddings": 32768, "position_id_per_seconds": 13,
        "rope_scaling": {
            "interleaved": True, "mrope_section": sections, "rope_type": "default", "type": "default"
        },
        "codec_pad_id": 2148, "codec_bos_id": 2149, "codec_eos_token_id": 2150, "codec_think_id": 2154,
        "codec_nothink_id": 2155, "codec_think_bos_id": 2156, "codec_think_eos_id": 2157,
        "codec_language_id": LANGUAGES | (DIALECTS if custom else {}),
        "spk_id": SPEAKERS if custom else {},
        "spk_is_dialect": {name: SPOKEN_DIALECTS.get(name, False) for name in SPEAKERS} if custom else {},
        "code_predictor_config": _stack(hidden, intermediate, layers, sizes.heads) | {
            "model_type": "qwen3_tts_talker_code_predictor", "vocab_size": 2048, "rope_scaling": None,
            "max_position_embeddings": 65536, "max_window_layers": 28, "layer_types": ["full_attention"] * layers,
        },
    }  # fmt: skip


def _model_config(kind: str, size: str, sizes: Sizes, ids: dict[str, int]) -> dict[str, Any]:
    config = {
        "architectures": ["Qwen3TTSForConditionalGeneration"], "model_type": "qwen3_tts",
        "tokenizer_type": "qwen3_tts_tokenizer_12hz", "tts_model_size": size, "tts_model_type": kind,
        # The reference's tokenizer loader swaps the split pattern of checkpoints that name no version.
        "transformers_version": "4.57.3",
        "talker_config": _talker_config(kind, sizes),
    } | ids  # fmt: skip
    if kind == "base":
        config["speaker_encoder_config"] = {"enc_dim": sizes.hidden, "sample_rate": 24000} | sizes.speaker
    return config


def _codec_config(sizes: Sizes) -> dict[str, Any]:
    shared = {
        "attention_bias": False, "attention_dropout": 0.0, "codebook_size": 2048, "num_semantic_quantizers": 1,
        "layer_scale_initial_scale": 0.01, "max_position_embeddings": 8000,
    }  # fmt: skip
    decoder = {
        "hidden_act": "silu", "num_quantizers": 16, "rms_norm_eps": 1e-5, "rope_theta": 10000,
        "semantic_codebook_size": 4096, "sliding_window": 72, "upsample_rates": [8, 5, 4, 3],
        "upsampling_ratios": [2, 2],
    }  # fmt: skip
    encoder = {
        "_frame_rate": 12.5, "audio_channels": 1, "compress": 2, "dilation_growth_rate": 2, "dtype": "float32",
        "hidden_act": "gelu", "initializer_range": 0.02, "kernel_size": 7, "last_kernel_size": 3, "norm_eps": 1e-5,
        "normalize": False, "num_quantizers": 32, "num_residual_layers": 1, "pad_mode": "constant",
        "residual_kernel_size": 3, "rope_theta": 10000.0, "sampling_rate": 24000, "sliding_window": 250,
        "transformers_version": "4.57.0.dev0", "trim_right_ratio": 1.0, "upsampling_ratios": [8, 6, 5, 4],
        "use_cache": False, "use_causal_conv": True, "use_conv_shortcut": False, "use_streaming": False,
    }  # fmt: skip
    return {
        "architectures": ["Qwen3TTSTokenizerV2Model"], "model_type": "qwen3_tts_tokenizer_12hz",
        "encoder_valid_num_quantizers": 16, "input_sample_rate": 24000, "output_sample_rate": 24000,
        "decode_upsample_rate": 1920, "encode_downsample_rate": 1920, "transformers_version": "4.57.3",
        "decoder_config": shared | decoder | sizes.decoder, "encoder_config": shared | encoder | sizes.encoder,
    }  # fmt: skip


# --- weights ----------------------------------------------------------------------------------------------------


def _spread(name: str, shape: Shape) -> tuple[float, float]:
    """Mean and deviation under which every parameter matters, activations stay near 1 and the wave within [-1, 1]."""
    parts = name.split(".")
    leaf, parent = parts[-1], parts[-2]
    fixed = {
        "initialized": (1.0, 0.0), "cluster_usage": (2.0, 0.6), "embedding_sum": (0.0, 1.0), "embed_sum": (0.0, 1.0),
        "alpha": (0.0, 0.3), "beta": (0.0, 0.3), "scale": (0.5, 0.1), "gamma": (0.5, 0.1), "bias": (0.0, 0.05),
    }  # fmt: skip
    if leaf in fixed:
        return fixed[leaf]
    if "norm" in parent:
        return 1.0, 0.1
    if "embedding" in name:
        return 0.0, 0.5
    return 0.0, _gain(name, shape) / math.sqrt(_fan_in(name, shape))


def _is_transposed(name: str) -> bool:
    parts = name.split(".")
    return (parts[1] == "upsample" and parts[3] == "0") or (parts[1] == "decoder" and parts[3:5] == ["block", "1"])


def _fan_in(name: str, shape: Shape) -> int:
    return shape[0] if _is_transposed(name) else math.prod(shape[1:])


def _gain(name: str, shape: Shape) -> float:
    if name.startswith("talker."):
        return 1.5
    if not name.startswith("decoder.decoder."):
        return 1.0
    if _is_transposed(name):
        return 0.6
    if shape[0] == 1:
        return 0.15
    return 0.35 if ".conv2." in name else 1.0


def _flat_noise(name: str, shape: Shape, seed: int) -> Tensor:
    """Uniform noise of unit variance from raw PCG64 bits, which no library version or processor can change."""
    count = math.prod(shape)
    bits = np.random.PCG64(zlib.crc32(name.encode()) + (seed << 32)).random_raw((count + 1) // 2)
    words = bits.view(np.uint32)[:count] >> 8
    unit = words.astype(np.float32) * np.float32(2.0**-24)
    return torch.from_numpy((unit * 2 - 1) * np.float32(math.sqrt(3))).view(shape)


def random_tensors(
    shapes: dict[str, Shape], seed: int, dtype: torch.dtype, device: str | None = None
) -> dict[str, Tensor]:
    """Weights for `shapes`; with a `device` drawn there and then, quickly, but not the same everywhere."""
    tensors = {}
    generator = torch.Generator(device).manual_seed(seed) if device else None
    for name, shape in sorted(shapes.items()):
        mean, deviation = _spread(name, shape)
        if device:
            noise = torch.randn(shape, generator=generator, device=device).clamp_(-1.7, 1.7)
        else:
            noise = _flat_noise(name, shape, seed)
        tensors[name] = noise.mul_(deviation).add_(mean).to(dtype)
    return tensors


def model_tensors(
    config: ModelConfig, seed: int = 0, dtype: torch.dtype = torch.float32, device: str | None = None
) -> dict[str, Tensor]:
    """Random contents of model.safetensors."""
    return random_tensors(model_weights(config).tensors(), seed, dtype, device)


def codec_tensors(config: ModelConfig, seed: int = 0, device: str | None = None) -> dict[str, Tensor]:
    """Random contents of speech_tokenizer/model.safetensors."""
    return random_tensors(codec_weights(config.codec).tensors(), seed + 1, torch.float32, device)


# --- directories ------------------------------------------------------------------------------------------------


def _dump(file: Path, value: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def write_configs(directory: Path, kind: str, size: str, sizes: Sizes, ids: dict[str, int]) -> ModelConfig:
    """Write every JSON file but the tokenizer's; return what the engine reads from them."""
    _dump(directory / MODEL_FILE, _model_config(kind, size, sizes, ids))
    _dump(directory / CODEC_FILE, _codec_config(sizes))
    _dump(directory / "generation_config.json", GENERATION)
    _dump(directory / "preprocessor_config.json", {
        "padding_side": "left", "padding_value": 0.0, "processor_class": "Qwen3TTSProcessor",
        "return_attention_mask": True,
    })  # fmt: skip
    _dump(directory / "speech_tokenizer/preprocessor_config.json", {
        "chunk_length_s": None, "feature_extractor_type": "EncodecFeatureExtractor", "feature_size": 1,
        "overlap": None, "padding_side": "right", "padding_value": 0.0, "return_attention_mask": True,
        "sampling_rate": 24000,
    })  # fmt: skip
    return read_config(directory)


def build(
    directory: Path, kind: str = "base", size: str = "1b7", seed: int = 0,
    dtype: torch.dtype = torch.float32, eos_gain: float = 0.0, metadata: bool = True,
) -> Path:  # fmt: skip
    """Write a tiny checkpoint. `eos_gain` scales up the head's EOS row, so that greedy runs end by themselves."""
    directory.mkdir(parents=True, exist_ok=True)
    ids = text_ids(write_tokenizer(directory))
    config = write_configs(directory, kind, size, tiny_sizes(size), ids)
    tensors = model_tensors(config, seed, dtype)
    tensors["talker.codec_head.weight"][config.talker.ids.eos] *= 1 + eos_gain
    header = {"format": "pt"} if metadata else None
    save_file(tensors, directory / "model.safetensors", header)
    save_file(codec_tensors(config, seed), directory / "speech_tokenizer/model.safetensors", header)
    return directory


REAL_TEXT_IDS = {
    "im_start_token_id": 151644, "im_end_token_id": 151645, "assistant_token_id": 77091,
    "tts_pad_token_id": 151671, "tts_bos_token_id": 151672, "tts_eos_token_id": 151673,
}  # fmt: skip


def full_config(directory: Path, size: str, kind: str = "base") -> ModelConfig:
    """Config files of a full-size checkpoint, real text ids included; no weights."""
    return write_configs(directory, kind, size, full_sizes(size), REAL_TEXT_IDS)


def build_full(
    directory: Path, size: str, kind: str = "base", seed: int = 0, device: str | None = None, eos_gain: float = 0.0
) -> Path:
    """Write a full-size random checkpoint. The tokenizer is the tiny one, which makes more ids of a text."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    directory.mkdir(parents=True, exist_ok=True)
    ids = text_ids(write_tokenizer(directory))  # config.json must name this tokenizer's ids, or nothing loads it
    config = write_configs(directory, kind, size, full_sizes(size), ids)
    model = model_tensors(config, seed, torch.bfloat16, device)
    model["talker.codec_head.weight"][config.talker.ids.eos] *= 1 + eos_gain
    save_file({name: value.cpu() for name, value in model.items()}, directory / "model.safetensors")
    del model
    codec = codec_tensors(config, seed, device)
    save_file({name: value.cpu() for name, value in codec.items()}, directory / "speech_tokenizer/model.safetensors")
    return directory


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--type", default="base", choices=("base", "custom_voice", "voice_design"))
    parser.add_argument("--size", default="1b7", choices=("1b7", "0b6"))
    parser.add_argument("--full", choices=("1.7B", "0.6B"))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--eos-gain", type=float, default=0.0)
    args = parser.parse_args()
    if args.full:
        build_full(args.out, {"1.7B": "1b7", "0.6B": "0b6"}[args.full], args.type, args.seed, eos_gain=args.eos_gain)
    else:
        build(args.out, args.type, args.size, args.seed, eos_gain=args.eos_gain)


if __name__ == "__main__":
    main()
