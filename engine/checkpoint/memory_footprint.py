"""How many bytes of a GPU a checkpoint takes, from the sizes in its config files and before its weights are opened."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from ..model.config import (
    CODEC_STEP_FRAMES,
    SAMPLE_RATE,
    CodecDecoderConfig,
    CodecEncoderConfig,
    ModelConfig,
    SpeakerEncoderConfig,
    TransformerConfig,
)

ENCODER_BYTES = 4
"""The encoders are float32 always."""
MEL_FRAMES = 30 * SAMPLE_RATE // 256
"""Of the longest reference that is encoded for a voice."""
LIVE_LAYERS = 3
"""Intermediate results of the speaker encoder's widest layer, its pool, that exist at once; nothing else needs more."""


@dataclass(frozen=True, slots=True)
class NumberBytes:
    """Bytes of one number in each part of the model."""

    network: int
    codec: int


@dataclass(frozen=True, slots=True)
class Footprint:
    """Bytes on the GPU: weights by part, and what each slot adds.

    `position` are the keys and values of one position of one slot; `stream` is a slot's codec state; `hearing` is
    needed while a reference is encoded.
    """

    network: int
    text_table: int
    codec: int
    encoders: int
    position: int
    stream: int
    hearing: int

    def weights(self, text_table: bool = True) -> int:
        """All weights, with the text table or with that in host memory."""
        return self.network + self.codec + self.encoders + (self.text_table if text_table else 0)


def footprint(config: ModelConfig, each: NumberBytes) -> Footprint:
    """What the checkpoint of this config takes, its numbers being so wide."""
    talker, t = config.talker, config.talker.transformer
    speaker = config.speaker_encoder
    return Footprint(
        network=each.network * _network(config),
        text_table=each.network * talker.text_vocab_size * talker.text_hidden_size,
        codec=each.codec * _codec_decoder(config.codec.decoder),
        encoders=ENCODER_BYTES * (_speaker_encoder(speaker) + _codec_encoder(config.codec.encoder)) if speaker else 0,
        position=each.network * t.layers * 2 * t.kv_heads * t.head_dim,
        stream=each.codec * _codec_state(config.codec.decoder),
        hearing=LIVE_LAYERS * ENCODER_BYTES * 3 * speaker.channels[-1] * MEL_FRAMES if speaker else 0,
    )


# --- numbers in each part -------------------------------------------------------------------------------------


def _network(config: ModelConfig) -> int:
    talker, predictor = config.talker, config.code_predictor
    hidden, width = talker.transformer.hidden_size, predictor.transformer.hidden_size
    text = talker.text_hidden_size
    groups = (predictor.code_groups - 1) * predictor.vocab_size
    codes = talker.vocab_size + groups
    projection = (hidden + 1 + codes) * width if hidden != width else 0  # and the embedding table, projected once
    return (
        _stack(talker.transformer)
        + _stack(predictor.transformer)
        + (talker.vocab_size + codes) * hidden
        + (text + 1) * (text + hidden)
        + groups * width
        + projection
    )


def _stack(t: TransformerConfig) -> int:
    query, key = t.heads * t.head_dim, t.kv_heads * t.head_dim
    attention = t.hidden_size * (2 * query + 2 * key) + query + key  # with the norms of queries and keys
    return t.layers * (attention + 3 * t.hidden_size * t.intermediate_size + 2 * t.hidden_size) + t.hidden_size


def _codec_decoder(config: CodecDecoderConfig) -> int:
    latent, t = config.latent_size, config.transformer
    tables = config.quantizers * config.codebook_size * config.codebook_dim
    frames = _stack(t) + 2 * t.hidden_size * latent + 3 * config.codebook_dim * latent
    stages = sum((rate + 8) * latent * latent + 16 * latent for rate in config.upsampling_ratios)
    blocks = sum(
        2 * rate * inputs * outputs + 3 * 8 * outputs * outputs
        for inputs, outputs, rate in _wave_blocks(config)
    )  # fmt: skip
    return tables + frames + stages + 7 * latent * config.channels + blocks


def _codec_state(config: CodecDecoderConfig) -> int:
    t = config.transformer
    attention = t.layers * 2 * t.kv_heads * t.head_dim * (config.window_frames + CODEC_STEP_FRAMES)
    return attention + conv_memory(config)


def conv_memory(config: CodecDecoderConfig) -> int:
    """How many numbers the codec's convolutions remember of one stream (`CodecDecoder.allocate`)."""
    blocks = _wave_blocks(config)
    frames = 2 * config.codebook_dim + 6 * config.latent_size * (len(config.upsampling_ratios) + 1)
    waves = sum(outputs * (rate + 6 * (1 + 3 + 9)) for _, outputs, rate in blocks)
    return frames + waves + 6 * blocks[-1][1]


def _wave_blocks(config: CodecDecoderConfig) -> list[tuple[int, int, int]]:
    """Channels in, channels out and rate of each."""
    return [(config.channels >> n, config.channels >> (n + 1), rate) for n, rate in enumerate(config.upsample_rates)]


def _codec_encoder(config: CodecEncoderConfig) -> int:
    t, filters = config.transformer, config.filters
    widths = [(filters << n, ratio) for n, ratio in enumerate(config.ratios)]
    blocks = sum(
        width * width // config.compress * (config.residual_kernel_size + 1) + 4 * width * width * ratio
        for width, ratio in widths
    )
    ends = config.kernel_size * filters + config.last_kernel_size * (filters << len(widths)) * t.hidden_size
    layer = 4 * t.hidden_size * t.heads * t.head_dim + 2 * t.hidden_size * t.intermediate_size
    tables = config.kept_quantizers * config.codebook_size * config.codebook_dim
    return blocks + ends + t.layers * layer + 4 * t.hidden_size**2 + 2 * t.hidden_size * config.codebook_dim + tables


def _speaker_encoder(config: SpeakerEncoderConfig) -> int:
    width, total = config.channels[0], config.channels[-1]
    group = width // config.scale
    blocks = sum(
        2 * width * width + (config.scale - 1) * group * group * kernel + 2 * config.squeeze_channels * width
        for kernel in config.kernel_sizes[1:-1]
    )
    pool = 4 * config.attention_channels * total + 2 * total * config.output_size
    return prod((config.mel_bins, config.kernel_sizes[0], width)) + blocks + total * total + pool
