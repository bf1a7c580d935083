"""Sizes and token ids of one checkpoint, read from its two config files: the single source for the whole engine."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MODEL_FILE = "config.json"
CODEC_FILE = "speech_tokenizer/config.json"
MODEL_TYPES = ("base", "custom_voice", "voice_design")
SAMPLE_RATE = 24_000
FRAME_SAMPLES = 1920
FRAME_S = FRAME_SAMPLES / SAMPLE_RATE
CODE_GROUPS = 16
CODEBOOK_SIZE = 2048
CODEC_STEP_FRAMES = 25
"""Longest step of the eager codec; its state has room for this many frames beyond the attention window."""


class CheckpointError(Exception):
    """Base class of all checkpoint errors: configuration, weights, download."""


class ConfigError(CheckpointError):
    """A config file lacks a key or has an unsupported value."""


@dataclass(frozen=True, slots=True)
class TransformerConfig:
    """One stack of decoder layers, used by several parts of the model."""

    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    rope_theta: float
    norm_eps: float


@dataclass(frozen=True, slots=True)
class CodecIds:
    """Rows of the talker's codec embedding that are special tokens, not sound."""

    pad: int
    bos: int
    eos: int
    think: int
    nothink: int
    think_bos: int
    think_eos: int


@dataclass(frozen=True, slots=True)
class TextIds:
    """Ids of the special text tokens."""

    im_start: int
    im_end: int
    assistant: int
    tts_pad: int
    tts_bos: int
    tts_eos: int


@dataclass(frozen=True, slots=True)
class TalkerConfig:
    """The talker, which reads the text and predicts code group 0."""

    transformer: TransformerConfig
    vocab_size: int
    text_vocab_size: int
    text_hidden_size: int
    max_positions: int
    code_groups: int
    ids: CodecIds
    languages: Mapping[str, int]
    speakers: Mapping[str, int]
    dialects: Mapping[str, str]
    """Maps each speaker name to the language key of the speaker's dialect."""


@dataclass(frozen=True, slots=True)
class CodePredictorConfig:
    """The model of code groups 1 to 15 within one frame."""

    transformer: TransformerConfig
    vocab_size: int
    code_groups: int


@dataclass(frozen=True, slots=True)
class SpeakerEncoderConfig:
    """The ECAPA-TDNN that maps a mel spectrogram to a voice's x-vector; only Base checkpoints contain one."""

    mel_bins: int
    channels: tuple[int, ...]
    kernel_sizes: tuple[int, ...]
    dilations: tuple[int, ...]
    attention_channels: int
    scale: int
    squeeze_channels: int
    output_size: int
    sample_rate: int


@dataclass(frozen=True, slots=True)
class CodecDecoderConfig:
    """The codec's decoder: codes to waveform."""

    transformer: TransformerConfig
    window_frames: int
    latent_size: int
    codebook_dim: int
    codebook_size: int
    quantizers: int
    semantic_quantizers: int
    channels: int
    upsample_rates: tuple[int, ...]
    upsampling_ratios: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class CodecEncoderConfig:
    """The codec's encoder (the encoder half of Mimi): waveform to codes."""

    transformer: TransformerConfig
    filters: int
    kernel_size: int
    last_kernel_size: int
    residual_kernel_size: int
    compress: int
    ratios: tuple[int, ...]
    """Strides, in the encoder's order."""
    codebook_dim: int
    codebook_size: int
    quantizers: int
    semantic_quantizers: int
    kept_quantizers: int


@dataclass(frozen=True, slots=True)
class CodecConfig:
    """Both halves of the codec and the sample and frame rates between them."""

    decoder: CodecDecoderConfig
    encoder: CodecEncoderConfig
    sample_rate: int
    frame_samples: int


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Everything the engine knows about a checkpoint before it reads the weights."""

    model_type: str
    model_size: str
    text_ids: TextIds
    talker: TalkerConfig
    code_predictor: CodePredictorConfig
    speaker_encoder: SpeakerEncoderConfig | None
    codec: CodecConfig


class _Section:
    """A JSON object with its file and key path, so that every error message names both."""

    def __init__(self, values: Any, file: str, path: str = "") -> None:
        if not isinstance(values, dict):
            raise ConfigError(f"{file}: {path.rstrip('.') or 'the file'} must be a JSON object")
        self.values, self.file, self.path = values, file, path

    def __getitem__(self, key: str) -> Any:
        if key not in self.values:
            raise ConfigError(f"{self.file}: key {self.path + key!r} is missing")
        return self.values[key]

    def section(self, key: str) -> _Section:
        return _Section(self[key], self.file, f"{self.path}{key}.")

    def integer(self, key: str, default: int | None = None) -> int:
        value = self.values.get(key, default) if default is not None else self[key]
        if isinstance(value, bool) or not isinstance(value, int):
            raise ConfigError(f"{self.file}: key {self.path + key!r} must be a whole number, not {value!r}")
        return value

    def number(self, key: str) -> float:
        value = self[key]
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ConfigError(f"{self.file}: key {self.path + key!r} must be a number, not {value!r}")
        return float(value)

    def integers(self, key: str, default: tuple[int, ...] | None = None) -> tuple[int, ...]:
        value = self.values.get(key, default) if default is not None else self[key]
        if not isinstance(value, (list, tuple)) or not all(type(item) is int for item in value):
            raise ConfigError(f"{self.file}: key {self.path + key!r} must be a list of whole numbers, not {value!r}")
        return tuple(value)

    def expect(self, key: str, *known: Any) -> Any:
        value = self[key]
        if value not in known:
            raise ConfigError(
                f"{self.file}: key {self.path + key!r} is {value!r}; supported values: {', '.join(map(repr, known))}"
            )
        return value


def read_config(directory: Path) -> ModelConfig:
    """Read the configuration of the checkpoint in `directory`. Raise ConfigError, which names the file and the key."""
    model = _read_json(directory / MODEL_FILE)
    model.expect("model_type", "qwen3_tts")
    model.expect("tokenizer_type", "qwen3_tts_tokenizer_12hz")
    model_type = model.expect("tts_model_type", *MODEL_TYPES)
    talker = model.section("talker_config")
    return ModelConfig(
        model_type=model_type,
        model_size=str(model["tts_model_size"]),
        text_ids=_text_ids(model),
        talker=_talker(talker),
        code_predictor=_code_predictor(talker.section("code_predictor_config")),
        speaker_encoder=_speaker_encoder(model.section("speaker_encoder_config")) if model_type == "base" else None,
        codec=read_codec_config(directory / CODEC_FILE),
    )


def read_codec_config(file: Path) -> CodecConfig:
    """Read the configuration of the codec. Raise ConfigError, which names the file and the key."""
    codec = _read_json(file)
    codec.expect("model_type", "qwen3_tts_tokenizer_12hz")
    decoder = codec.section("decoder_config")
    encoder = codec.section("encoder_config")
    return CodecConfig(
        decoder=_codec_decoder(decoder),
        encoder=_codec_encoder(encoder, kept=codec.integer("encoder_valid_num_quantizers")),
        sample_rate=codec.expect("output_sample_rate", SAMPLE_RATE),
        frame_samples=codec.integer("decode_upsample_rate"),
    )


def _read_json(file: Path) -> _Section:
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:
        raise ConfigError(f"{file}: is not valid JSON ({error})") from error
    return _Section(values, str(file))


def _transformer(part: _Section, norm_eps: str = "rms_norm_eps") -> TransformerConfig:
    part.expect("attention_bias", False)
    return TransformerConfig(
        hidden_size=part.integer("hidden_size"),
        intermediate_size=part.integer("intermediate_size"),
        layers=part.integer("num_hidden_layers"),
        heads=part.integer("num_attention_heads"),
        kv_heads=part.integer("num_key_value_heads"),
        head_dim=part.integer("head_dim"),
        rope_theta=part.number("rope_theta"),
        norm_eps=part.number(norm_eps),
    )


def _text_ids(model: _Section) -> TextIds:
    return TextIds(
        im_start=model.integer("im_start_token_id"),
        im_end=model.integer("im_end_token_id"),
        assistant=model.integer("assistant_token_id"),
        tts_pad=model.integer("tts_pad_token_id"),
        tts_bos=model.integer("tts_bos_token_id"),
        tts_eos=model.integer("tts_eos_token_id"),
    )


def _talker(talker: _Section) -> TalkerConfig:
    talker.expect("hidden_act", "silu")
    dialects = talker.section("spk_is_dialect").values
    return TalkerConfig(
        transformer=_transformer(talker),
        vocab_size=talker.integer("vocab_size"),
        text_vocab_size=talker.integer("text_vocab_size"),
        text_hidden_size=talker.integer("text_hidden_size"),
        max_positions=talker.integer("max_position_embeddings"),
        code_groups=talker.integer("num_code_groups"),
        ids=_codec_ids(talker),
        languages=dict(talker.section("codec_language_id").values),
        speakers=dict(talker.section("spk_id").values),
        dialects={name: key for name, key in dialects.items() if key},
    )


def _codec_ids(talker: _Section) -> CodecIds:
    return CodecIds(
        pad=talker.integer("codec_pad_id"),
        bos=talker.integer("codec_bos_id"),
        eos=talker.integer("codec_eos_token_id"),
        think=talker.integer("codec_think_id"),
        nothink=talker.integer("codec_nothink_id"),
        think_bos=talker.integer("codec_think_bos_id"),
        think_eos=talker.integer("codec_think_eos_id"),
    )


def _code_predictor(predictor: _Section) -> CodePredictorConfig:
    predictor.expect("hidden_act", "silu")
    return CodePredictorConfig(
        transformer=_transformer(predictor),
        vocab_size=predictor.integer("vocab_size"),
        code_groups=predictor.integer("num_code_groups"),
    )


def _speaker_encoder(speaker: _Section) -> SpeakerEncoderConfig:
    # Published files contain only enc_dim and sample_rate; the other values are fixed by the architecture.
    return SpeakerEncoderConfig(
        mel_bins=speaker.integer("mel_dim", 128),
        channels=speaker.integers("enc_channels", (512, 512, 512, 512, 1536)),
        kernel_sizes=speaker.integers("enc_kernel_sizes", (5, 3, 3, 3, 1)),
        dilations=speaker.integers("enc_dilations", (1, 2, 3, 4, 1)),
        attention_channels=speaker.integer("enc_attention_channels", 128),
        scale=speaker.integer("enc_res2net_scale", 8),
        squeeze_channels=speaker.integer("enc_se_channels", 128),
        output_size=speaker.integer("enc_dim"),
        sample_rate=speaker.expect("sample_rate", SAMPLE_RATE),
    )


def _codec_decoder(decoder: _Section) -> CodecDecoderConfig:
    decoder.expect("hidden_act", "silu")
    return CodecDecoderConfig(
        transformer=_transformer(decoder),
        window_frames=decoder.integer("sliding_window"),
        latent_size=decoder.integer("latent_dim"),
        codebook_dim=decoder.integer("codebook_dim"),
        codebook_size=decoder.integer("codebook_size"),
        quantizers=decoder.integer("num_quantizers"),
        semantic_quantizers=decoder.expect("num_semantic_quantizers", 1),
        channels=decoder.integer("decoder_dim"),
        upsample_rates=decoder.integers("upsample_rates"),
        upsampling_ratios=decoder.integers("upsampling_ratios"),
    )


def _codec_encoder(encoder: _Section, kept: int) -> CodecEncoderConfig:
    for key, known in (("hidden_act", "gelu"), ("audio_channels", 1), ("num_residual_layers", 1)):
        encoder.expect(key, known)
    for key, known in (("use_causal_conv", True), ("use_conv_shortcut", False), ("pad_mode", "constant")):
        encoder.expect(key, known)
    return CodecEncoderConfig(
        transformer=_transformer(encoder, norm_eps="norm_eps"),
        filters=encoder.integer("num_filters"),
        kernel_size=encoder.integer("kernel_size"),
        last_kernel_size=encoder.integer("last_kernel_size"),
        residual_kernel_size=encoder.integer("residual_kernel_size"),
        compress=encoder.integer("compress"),
        ratios=tuple(reversed(encoder.integers("upsampling_ratios"))),
        codebook_dim=encoder.integer("codebook_dim"),
        codebook_size=encoder.integer("codebook_size"),
        quantizers=encoder.integer("num_quantizers"),
        semantic_quantizers=encoder.expect("num_semantic_quantizers", 1),
        kept_quantizers=kept,
    )
