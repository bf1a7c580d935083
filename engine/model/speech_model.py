"""All networks of one checkpoint under one root, whose parameter names are those of the weight map."""

from __future__ import annotations

from torch import nn

from .code_predictor import CodePredictor
from .codec_decoder import CodecDecoder
from .codec_encoder import CodecEncoder
from .config import CodecConfig, ModelConfig
from .speaker_encoder import SpeakerEncoder
from .talker import Talker


class SpeechCodec(nn.Module):
    """Only what turns sound into codes and back."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = CodecDecoder(config.decoder)
        self.encoder = CodecEncoder(config.encoder)


class SpeechModel(nn.Module):
    """Weights only; what sequences and streams remember is allocated from the parts by their owner."""

    def __init__(self, config: ModelConfig, encoders: bool = True) -> None:
        """`encoders` False leaves out what only voice cloning needs."""
        super().__init__()
        self.config = config
        speaker = config.speaker_encoder if encoders else None
        self.talker = Talker(config.talker, config.code_predictor.vocab_size)
        self.code_predictor = CodePredictor(config.code_predictor, self.talker.codes)
        self.speaker_encoder = SpeakerEncoder(speaker) if speaker else None
        self.decoder = CodecDecoder(config.codec.decoder)
        self.encoder = CodecEncoder(config.codec.encoder) if speaker else None
