"""All networks of one checkpoint in one root module, whose parameter names match the weight map."""

from __future__ import annotations

from torch import nn

from .code_predictor import CodePredictor
from .codec_decoder import CodecDecoder
from .codec_encoder import CodecEncoder
from .config import CodecConfig, ModelConfig
from .speaker_encoder import SpeakerEncoder
from .talker import Talker


class SpeechCodec(nn.Module):
    """The codec alone: audio to codes and back."""

    def __init__(self, config: CodecConfig) -> None:
        super().__init__()
        self.config = config
        self.decoder = CodecDecoder(config.decoder)
        self.encoder = CodecEncoder(config.encoder)


class SpeechModel(nn.Module):
    """Weights only. The state of sequences and streams is allocated from the parts by its owner."""

    def __init__(self, config: ModelConfig, encoders: bool = True) -> None:
        """Create the model; `encoders` False omits the parts that only voice cloning needs."""
        super().__init__()
        self.config = config
        speaker = config.speaker_encoder if encoders else None
        self.talker = Talker(config.talker, config.code_predictor.vocab_size)
        self.code_predictor = CodePredictor(config.code_predictor, self.talker.codes)
        self.speaker_encoder = SpeakerEncoder(speaker) if speaker else None
        self.decoder = CodecDecoder(config.codec.decoder)
        self.encoder = CodecEncoder(config.codec.encoder) if speaker else None
