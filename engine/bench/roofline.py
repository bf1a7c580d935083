"""What a frame must read and multiply at the least, from the model's sizes: the limit every speed is held against.

Assumed: each weight is streamed once a pass for the whole batch and nothing survives in a cache between two passes.
Norms, biases, embedding rows and the 16 positions that the code predictor looks back on are too small to count.
"""

from __future__ import annotations

from dataclasses import dataclass

from ..checkpoint.memory_footprint import conv_memory
from ..model.config import CodecDecoderConfig, CodePredictorConfig, ModelConfig, TalkerConfig, TransformerConfig


@dataclass(frozen=True, slots=True)
class Matrix:
    """`weights` elements, streamed `reads` times a frame; each stream multiplies every weight `uses` times a frame."""

    weights: int
    reads: int = 1
    uses: int = 1


@dataclass(frozen=True, slots=True)
class Load:
    """The circumstances of a step: sequences, positions each looks back on, bytes an element, frames a chunk."""

    batch: int = 1
    positions: float = 200
    weight_bytes: int = 2
    codec_bytes: int = 2
    chunk_frames: float = 1


def frame_bytes(config: ModelConfig, load: Load) -> dict[str, float]:
    """Bytes that one frame of the whole batch moves, by part. A codec weight is streamed once a chunk."""
    codec = _streamed(codec_matrices(config.codec.decoder)) * load.codec_bytes / load.chunk_frames
    state = _codec_state(config.codec.decoder, load.chunk_frames) * load.codec_bytes
    return {
        "talker": _streamed(talker_matrices(config.talker)) * load.weight_bytes,
        "code_predictor": _streamed(predictor_matrices(config)) * load.weight_bytes,
        "codec": codec,
        "kv": load.batch * load.positions * _kv(config.talker.transformer) * load.weight_bytes,
        "codec_state": load.batch * state,
    }


def frame_macs(config: ModelConfig) -> dict[str, int]:
    """Multiply-accumulates of one frame of one stream, by part; attention scores not counted."""
    return {
        "talker": _multiplied(talker_matrices(config.talker)),
        "code_predictor": _multiplied(predictor_matrices(config)),
        "codec": _multiplied(codec_matrices(config.codec.decoder)),
    }


def compute_floor_s(config: ModelConfig, batch: int, flops_per_s: float) -> float:
    """Seconds a frame of the whole batch takes if only arithmetic limits it."""
    return 2 * batch * sum(frame_macs(config).values()) / flops_per_s


def talker_matrices(config: TalkerConfig) -> list[Matrix]:
    """The layers and the head of group 0."""
    t = config.transformer
    return [Matrix(t.layers * _layer(t)), Matrix(t.hidden_size * config.vocab_size)]


def predictor_matrices(config: ModelConfig) -> list[Matrix]:
    """The layers once for each of groups 1 to 15, a head each, and the projection of the talker's hidden state."""
    predictor: CodePredictorConfig = config.code_predictor
    t, groups = predictor.transformer, predictor.code_groups
    width = config.talker.transformer.hidden_size
    return [
        Matrix(t.layers * _layer(t), reads=groups - 1, uses=groups),  # the first pass has two positions
        Matrix((groups - 1) * predictor.vocab_size * t.hidden_size),
        Matrix(width * t.hidden_size if width != t.hidden_size else 0),
    ]


def codec_matrices(config: CodecDecoderConfig) -> list[Matrix]:
    """From codebook vectors to samples: `uses` grows with the rate that each layer runs at."""
    t, latent, channels = config.transformer, config.latent_size, config.channels
    found = [
        Matrix(3 * config.codebook_dim * latent),
        Matrix(t.layers * _layer(t) + 2 * latent * t.hidden_size),
    ]
    rate = 1
    for ratio in config.upsampling_ratios:
        found.append(Matrix(latent * latent * ratio, uses=rate))
        rate *= ratio
        found.append(Matrix(7 * latent + 8 * latent * latent, uses=rate))
    found.append(Matrix(7 * latent * channels, uses=rate))
    for ratio in config.upsample_rates:
        outputs = channels // 2
        found.append(Matrix(2 * ratio * channels * outputs, uses=rate))
        rate, channels = rate * ratio, outputs
        found.append(Matrix(3 * 8 * channels * channels, uses=rate))  # three units: kernels of 7 and of 1
    return [*found, Matrix(7 * channels, uses=rate)]


def _layer(t: TransformerConfig) -> int:
    attention = t.hidden_size * t.head_dim * (2 * t.heads + 2 * t.kv_heads)
    return attention + 3 * t.hidden_size * t.intermediate_size


def _kv(t: TransformerConfig) -> int:
    return t.layers * 2 * t.kv_heads * t.head_dim


def _codec_state(config: CodecDecoderConfig, chunk_frames: float) -> float:
    """Elements moved a frame and stream: keys and values read, convolution memories read and written, once a chunk."""
    return (config.window_frames * _kv(config.transformer) + 2 * conv_memory(config)) / chunk_frames


def _streamed(matrices: list[Matrix]) -> int:
    return sum(matrix.weights * matrix.reads for matrix in matrices)


def _multiplied(matrices: list[Matrix]) -> int:
    return sum(matrix.weights * matrix.uses for matrix in matrices)
