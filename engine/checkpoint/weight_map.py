"""Which tensors of a checkpoint each of our parameters is made of; the one place that knows their names and shapes.

A recipe either lays its parts one after another in memory (packed QKV, gate and up, stacked tables), which the loader
does without a second copy, or combines them by a function (folded scales, codebooks, exponentials), in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model.config import (
    CodecConfig,
    CodecDecoderConfig,
    CodecEncoderConfig,
    CodePredictorConfig,
    ModelConfig,
    SpeakerEncoderConfig,
    TalkerConfig,
    TransformerConfig,
)

Shape = tuple[int, ...]
Combine = Callable[[Sequence[Tensor]], Tensor]


@dataclass(frozen=True, slots=True)
class Recipe:
    """The parts of one parameter, each a tensor name and its shape."""

    parts: tuple[tuple[str, Shape], ...]
    combine: Combine | None = None


@dataclass(slots=True)
class WeightMap:
    """Recipes by parameter name, and the tensors that a checkpoint holds but inference does not need."""

    recipes: dict[str, Recipe] = field(default_factory=dict)
    unused: dict[str, Shape] = field(default_factory=dict)

    def tensors(self) -> dict[str, Shape]:
        """Name and shape of every tensor that the file must hold."""
        named = {name: shape for recipe in self.recipes.values() for name, shape in recipe.parts}
        return named | self.unused

    def put(self, ours: str, *parts: tuple[str, Shape], combine: Combine | None = None) -> None:
        """Make parameter `ours` of `parts`."""
        self.recipes[ours] = Recipe(parts, combine)

    def pair(self, ours: str, theirs: str, shape: Shape, bias: int | None) -> None:
        """A weight and, unless `bias` is None, its bias."""
        self.put(f"{ours}.weight", (f"{theirs}.weight", shape))
        if bias is not None:
            self.put(f"{ours}.bias", (f"{theirs}.bias", (bias,)))


def model_weights(config: ModelConfig) -> WeightMap:
    """The tensors of model.safetensors."""
    weights = WeightMap()
    _talker(weights, config.talker, config.code_predictor)
    _code_predictor(weights, config.code_predictor, config.talker.transformer.hidden_size)
    if config.speaker_encoder is not None:
        _speaker_encoder(weights, config.speaker_encoder)
    return weights


def codec_weights(config: CodecConfig) -> WeightMap:
    """The tensors of speech_tokenizer/model.safetensors."""
    weights = WeightMap()
    _codec_decoder(weights, config.decoder)
    _codec_encoder(weights, config.encoder)
    return weights


# --- how parts are combined -----------------------------------------------------------------------------------


def _scaled_rows(parts: Sequence[Tensor]) -> Tensor:
    weight, scale = parts
    return weight * scale.view(-1, *[1] * (weight.dim() - 1))


def _exponential(parts: Sequence[Tensor]) -> Tensor:
    return parts[0].exp().unsqueeze(-1)


def _snake_gain(parts: Sequence[Tensor]) -> Tensor:
    return (1.0 / (parts[0].exp() + 1e-9)).unsqueeze(-1)


def _repeated(heads: int, kv_heads: int) -> Combine:
    def combine(parts: Sequence[Tensor]) -> Tensor:
        query, key = parts
        return torch.cat((query.expand(heads, -1), key.expand(kv_heads, -1)))

    return combine


def _codebook(total: Tensor, usage: Tensor) -> Tensor:
    return total / usage.clamp(min=1e-5).unsqueeze(-1)


def _codebooks(parts: Sequence[Tensor]) -> Tensor:
    return torch.stack([_codebook(total, usage) for total, usage in zip(parts[::2], parts[1::2], strict=True)])


def _projected_codebooks(parts: Sequence[Tensor]) -> Tensor:
    first, rest, *books = parts
    tables = _codebooks(books)
    projections = [first] + [rest] * (len(tables) - 1)
    return torch.cat([table @ out[..., 0].T for table, out in zip(tables, projections, strict=True)])


# --- talker and code predictor ----------------------------------------------------------------------------------


def _attention(weights: WeightMap, ours: str, theirs: str, t: TransformerConfig) -> None:
    query, key = t.heads * t.head_dim, t.kv_heads * t.head_dim
    weights.put(
        f"{ours}.attention.qkv.weight",
        (f"{theirs}.self_attn.q_proj.weight", (query, t.hidden_size)),
        (f"{theirs}.self_attn.k_proj.weight", (key, t.hidden_size)),
        (f"{theirs}.self_attn.v_proj.weight", (key, t.hidden_size)),
    )
    out = (f"{theirs}.self_attn.o_proj.weight", (t.hidden_size, query))
    weights.put(f"{ours}.attention.out.weight", out)


def _gated_mlp(weights: WeightMap, ours: str, theirs: str, t: TransformerConfig) -> None:
    shape = (t.intermediate_size, t.hidden_size)
    gate, up = (f"{theirs}.mlp.gate_proj.weight", shape), (f"{theirs}.mlp.up_proj.weight", shape)
    weights.put(f"{ours}.mlp.gate_up.weight", gate, up)
    weights.put(f"{ours}.mlp.down.weight", (f"{theirs}.mlp.down_proj.weight", shape[::-1]))


def _norms(weights: WeightMap, ours: str, theirs: str, size: int, *leaves: str) -> None:
    for leaf in leaves:
        weights.put(f"{ours}.attention_norm.{leaf}", (f"{theirs}.input_layernorm.{leaf}", (size,)))
        weights.put(f"{ours}.mlp_norm.{leaf}", (f"{theirs}.post_attention_layernorm.{leaf}", (size,)))


def _fold_scales(weights: WeightMap, ours: str, theirs: str, down: str, size: int) -> None:
    for weight, scale in ((f"{ours}.attention.out.weight", "self_attn"), (f"{ours}.{down}.weight", "mlp")):
        parts = weights.recipes[weight].parts
        weights.put(weight, *parts, (f"{theirs}.{scale}_layer_scale.scale", (size,)), combine=_scaled_rows)


def _decoder_layers(weights: WeightMap, ours: str, theirs: str, t: TransformerConfig) -> None:
    for index in range(t.layers):
        a, b = f"{ours}.layers.{index}", f"{theirs}.layers.{index}"
        _attention(weights, a, b, t)
        _gated_mlp(weights, a, b, t)
        _norms(weights, a, b, t.hidden_size, "weight")
        norms = [(f"{b}.self_attn.{name}_norm.weight", (t.head_dim,)) for name in "qk"]
        weights.put(f"{a}.attention.qk_norm", *norms, combine=_repeated(t.heads, t.kv_heads))
    weights.put(f"{ours}.norm.weight", (f"{theirs}.norm.weight", (t.hidden_size,)))


def _talker(weights: WeightMap, config: TalkerConfig, predictor: CodePredictorConfig) -> None:
    hidden, text = config.transformer.hidden_size, config.text_hidden_size
    _decoder_layers(weights, "talker", "talker.model", config.transformer)
    weights.pair("talker.head", "talker.codec_head", (config.vocab_size, hidden), None)
    weights.put("talker.text.table", ("talker.model.text_embedding.weight", (config.text_vocab_size, text)))
    weights.pair("talker.text.fc1", "talker.text_projection.linear_fc1", (text, text), text)
    weights.pair("talker.text.fc2", "talker.text_projection.linear_fc2", (hidden, text), hidden)
    embeddings = [("talker.model.codec_embedding.weight", (config.vocab_size, hidden))]
    for index in range(config.code_groups - 1):
        name = f"talker.code_predictor.model.codec_embedding.{index}.weight"
        embeddings.append((name, (predictor.vocab_size, hidden)))
    weights.put("talker.codes.weight", *embeddings)


def _code_predictor(weights: WeightMap, config: CodePredictorConfig, talker_hidden: int) -> None:
    theirs, hidden = "talker.code_predictor", config.transformer.hidden_size
    _decoder_layers(weights, "code_predictor", f"{theirs}.model", config.transformer)
    shape = (config.vocab_size, hidden)
    heads = [(f"{theirs}.lm_head.{index}.weight", shape) for index in range(config.code_groups - 1)]
    weights.put("code_predictor.heads", *heads)
    if talker_hidden != hidden:
        weights.pair("code_predictor.project", f"{theirs}.small_to_mtp_projection", (hidden, talker_hidden), hidden)


# --- speaker encoder --------------------------------------------------------------------------------------------


def _speaker_encoder(weights: WeightMap, config: SpeakerEncoderConfig) -> None:
    width, total, kernels = config.channels[0], config.channels[-1], config.kernel_sizes

    def conv(ours: str, theirs: str, outputs: int, inputs: int, kernel: int = 1) -> None:
        weights.pair(f"speaker_encoder.{ours}", f"speaker_encoder.{theirs}", (outputs, inputs, kernel), outputs)

    conv("in_proj", "blocks.0.conv", width, config.mel_bins, kernels[0])
    for block, kernel in enumerate(kernels[1:-1]):
        a, b, group = f"blocks.{block}", f"blocks.{block + 1}", width // config.scale
        conv(f"{a}.in_proj", f"{b}.tdnn1.conv", width, width)
        for index in range(config.scale - 1):
            conv(f"{a}.res2net.convs.{index}", f"{b}.res2net_block.blocks.{index}.conv", group, group, kernel)
        conv(f"{a}.out_proj", f"{b}.tdnn2.conv", width, width)
        conv(f"{a}.squeeze", f"{b}.se_block.conv1", config.squeeze_channels, width)
        conv(f"{a}.excite", f"{b}.se_block.conv2", width, config.squeeze_channels)
    conv("merge", "mfa.conv", total, total, kernels[-1])
    conv("pool.reduce", "asp.tdnn.conv", config.attention_channels, 3 * total)
    conv("pool.expand", "asp.conv", total, config.attention_channels)
    conv("out_proj", "fc", config.output_size, 2 * total)


# --- codec decoder ----------------------------------------------------------------------------------------------


def _codec_decoder(weights: WeightMap, config: CodecDecoderConfig) -> None:
    latent = config.latent_size
    _code_tables(weights, config)
    weights.pair("decoder.pre_conv", "decoder.pre_conv.conv", (latent, config.codebook_dim, 3), latent)
    _frame_transformer(weights, config)
    for index, rate in enumerate(config.upsampling_ratios):
        _upsample_stage(weights, index, rate, latent)
    weights.pair("decoder.in_proj", "decoder.decoder.0.conv", (config.channels, latent, 7), config.channels)
    for index, rate in enumerate(config.upsample_rates):
        _wave_block(weights, index, rate, config.channels // 2**index)
    count = len(config.upsample_rates)
    outputs = config.channels // 2**count
    _snake(weights, "decoder.snake", f"decoder.decoder.{count + 1}", outputs)
    weights.pair("decoder.out_proj", f"decoder.decoder.{count + 2}.conv", (1, outputs, 7), 1)


def _code_tables(weights: WeightMap, config: CodecDecoderConfig) -> None:
    dim, size = config.codebook_dim // 2, config.codebook_size
    parts: list[tuple[str, Shape]] = []
    books: list[tuple[str, Shape]] = []
    for branch, count in (("rvq_first", 1), ("rvq_rest", config.quantizers - 1)):
        theirs = f"decoder.quantizer.{branch}"
        weights.unused[f"{theirs}.input_proj.weight"] = (dim, config.codebook_dim, 1)
        parts.append((f"{theirs}.output_proj.weight", (config.codebook_dim, dim, 1)))
        for index in range(count):
            book = f"{theirs}.vq.layers.{index}._codebook"
            books += [(f"{book}.embedding_sum", (size, dim)), (f"{book}.cluster_usage", (size,))]
    weights.put("decoder.quantizer.table", *parts, *books, combine=_projected_codebooks)


def _frame_transformer(weights: WeightMap, config: CodecDecoderConfig) -> None:
    ours, theirs, t = "decoder.transformer", "decoder.pre_transformer", config.transformer
    weights.pair(f"{ours}.in_proj", f"{theirs}.input_proj", (t.hidden_size, config.latent_size), t.hidden_size)
    weights.pair(f"{ours}.out_proj", f"{theirs}.output_proj", (config.latent_size, t.hidden_size), config.latent_size)
    weights.put(f"{ours}.norm.weight", (f"{theirs}.norm.weight", (t.hidden_size,)))
    for index in range(t.layers):
        a, b = f"{ours}.layers.{index}", f"{theirs}.layers.{index}"
        _attention(weights, a, b, t)
        _gated_mlp(weights, a, b, t)
        _norms(weights, a, b, t.hidden_size, "weight")
        _fold_scales(weights, a, b, "mlp.down", t.hidden_size)


def _upsample_stage(weights: WeightMap, index: int, rate: int, latent: int) -> None:
    ours, theirs = f"decoder.stages.{index}", f"decoder.upsample.{index}"
    weights.pair(f"{ours}.upsample", f"{theirs}.0.conv", (latent, latent, rate), latent)
    weights.pair(f"{ours}.mix.depthwise", f"{theirs}.1.dwconv.conv", (latent, 1, 7), latent)
    weights.pair(f"{ours}.mix.norm", f"{theirs}.1.norm", (latent,), latent)
    weights.pair(f"{ours}.mix.up", f"{theirs}.1.pwconv1", (4 * latent, latent), 4 * latent)
    gamma = (f"{theirs}.1.gamma", (latent,))
    for leaf, shape in (("weight", (latent, 4 * latent)), ("bias", (latent,))):
        part = (f"{theirs}.1.pwconv2.{leaf}", shape)
        weights.put(f"{ours}.mix.down.{leaf}", part, gamma, combine=_scaled_rows)


def _wave_block(weights: WeightMap, index: int, rate: int, inputs: int) -> None:
    ours, theirs, outputs = f"decoder.blocks.{index}", f"decoder.decoder.{index + 1}.block", inputs // 2
    _snake(weights, f"{ours}.snake", f"{theirs}.0", inputs)
    weights.pair(f"{ours}.upsample", f"{theirs}.1.conv", (inputs, outputs, 2 * rate), outputs)
    for unit in range(3):
        a, b = f"{ours}.units.{unit}", f"{theirs}.{unit + 2}"
        _snake(weights, f"{a}.snake1", f"{b}.act1", outputs)
        weights.pair(f"{a}.dilated", f"{b}.conv1.conv", (outputs, outputs, 7), outputs)
        _snake(weights, f"{a}.snake2", f"{b}.act2", outputs)
        weights.pair(f"{a}.pointwise", f"{b}.conv2.conv", (outputs, outputs, 1), outputs)


def _snake(weights: WeightMap, ours: str, theirs: str, channels: int) -> None:
    weights.put(f"{ours}.frequency", (f"{theirs}.alpha", (channels,)), combine=_exponential)
    weights.put(f"{ours}.gain", (f"{theirs}.beta", (channels,)), combine=_snake_gain)


# --- codec encoder ----------------------------------------------------------------------------------------------


def _codec_encoder(weights: WeightMap, config: CodecEncoderConfig) -> None:
    _sound_layers(weights, config)
    t = config.transformer
    for index in range(t.layers):
        a, b = f"encoder.layers.{index}", f"encoder.encoder_transformer.layers.{index}"
        _attention(weights, a, b, t)
        _norms(weights, a, b, t.hidden_size, "weight", "bias")
        weights.pair(f"{a}.up", f"{b}.mlp.fc1", (t.intermediate_size, t.hidden_size), None)
        weights.pair(f"{a}.down", f"{b}.mlp.fc2", (t.hidden_size, t.intermediate_size), None)
        _fold_scales(weights, a, b, "down", t.hidden_size)
    shape = (t.hidden_size, t.hidden_size, 4)
    weights.pair("encoder.downsample", "encoder.downsample.conv", shape, None)
    _nearest(weights, config, "semantic", config.semantic_quantizers, config.semantic_quantizers)
    acoustic = config.quantizers - config.semantic_quantizers
    _nearest(weights, config, "acoustic", acoustic, config.kept_quantizers - config.semantic_quantizers)


def _sound_layers(weights: WeightMap, config: CodecEncoderConfig) -> None:
    theirs, channels, place = "encoder.encoder.layers", config.filters, 1
    weights.pair("encoder.in_proj", f"{theirs}.0.conv", (channels, 1, config.kernel_size), channels)
    for index, ratio in enumerate(config.ratios):
        ours, inner = f"encoder.blocks.{index}", channels // config.compress
        wide = (inner, channels, config.residual_kernel_size)
        weights.pair(f"{ours}.wide", f"{theirs}.{place}.block.1.conv", wide, inner)
        weights.pair(f"{ours}.point", f"{theirs}.{place}.block.3.conv", (channels, inner, 1), channels)
        shrink = (2 * channels, channels, 2 * ratio)
        weights.pair(f"{ours}.shrink", f"{theirs}.{place + 2}.conv", shrink, 2 * channels)
        channels, place = 2 * channels, place + 3
    hidden = config.transformer.hidden_size
    weights.pair("encoder.out_proj", f"{theirs}.{place + 1}.conv", (hidden, channels, config.last_kernel_size), hidden)


def _nearest(weights: WeightMap, config: CodecEncoderConfig, branch: str, count: int, kept: int) -> None:
    theirs = f"encoder.quantizer.{branch}_residual_vector_quantizer"
    hidden, dim, size = config.transformer.hidden_size, config.codebook_dim, config.codebook_size
    weights.put(f"encoder.{branch}.project.weight", (f"{theirs}.input_proj.weight", (dim, hidden, 1)))
    weights.unused[f"{theirs}.output_proj.weight"] = (hidden, dim, 1)
    books: list[tuple[str, Shape]] = []
    for index in range(count):
        book = f"{theirs}.layers.{index}.codebook"
        parts = [(f"{book}.embed_sum", (size, dim)), (f"{book}.cluster_usage", (size,))]
        books += parts if index < kept else []
        weights.unused |= {} if index < kept else dict(parts)
        weights.unused[f"{book}.initialized"] = (1,)
    weights.put(f"encoder.{branch}.tables", *books, combine=_codebooks)
