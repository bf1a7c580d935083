"""The codec alone: audio to codes and back, under the reference's names."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ..checkpoint.hub import CODEC_ALONE_FILES
from ..checkpoint.load import find_checkpoint, load_codec
from ..model.speech_model import SpeechCodec
from ..voices.audio import Samples, load_audio
from .inputs import FromPretrained
from .optimizations import Optimizations
from .windowed_decode import WindowDecoder

MODEL_TYPE = "qwen3_tts_tokenizer_12hz"
Audio = str | Path | npt.NDArray[Any]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class EncodedAudio:
    """Codes int64 [frames, 16] of each recording."""

    audio_codes: list[Tensor]


class Qwen3TTSTokenizer:
    """Encodes to and decodes from 12.5 frames a second of 16 codes each.

    Source: Qwen3TTSTokenizer of the qwen-tts package, 12 Hz only.
    """

    def __init__(self, codec: SpeechCodec, allow_url: bool = False) -> None:
        self._codec, self._allow_url = codec, allow_url
        self.device = codec.decoder.quantizer.table.device
        self._windows = WindowDecoder(codec.decoder)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, **kwargs: Any) -> Qwen3TTSTokenizer:
        """Load the codec of a directory or hub id (Qwen/Qwen3-TTS-Tokenizer-12Hz), or of a model directory.

        Keywords are those of `Qwen3TTSModel.from_pretrained` except slots, max_positions and codec_device. The weights
        are float32 for any `dtype`. Raises CheckpointError; TypeError for an unknown keyword, ValueError for a
        bad value.
        """
        wanted = FromPretrained.read(kwargs, without=("slots", "max_positions", "codec_device"))
        options = wanted.load_options()
        inner = Path(pretrained_model_name_or_path).expanduser() / "speech_tokenizer"
        name = str(inner) if inner.is_dir() else str(pretrained_model_name_or_path)
        directory = find_checkpoint(name, files=CODEC_ALONE_FILES, **wanted.where)
        config, weights = (directory / file for file in CODEC_ALONE_FILES)
        return cls(load_codec(config, weights, options), wanted.allow_url)

    @torch.inference_mode()
    def encode(
        self, audios: Audio | list[Audio], sr: int | None = None, return_dict: bool = True
    ) -> EncodedAudio | tuple[list[Tensor]]:
        """Encode paths, base64 strings, or arrays [samples] at `sr` Hz → int64 [frames, 16] each, on its device.

        Each recording is encoded alone; the reference pads them to one batch, which can change the last frame of
        a shorter one. Raises AudioError; ValueError for an array without `sr`.
        """
        waves = [self._wave(audio, sr) for audio in (audios if isinstance(audios, list) else [audios])]
        codes = [self._codec.encoder(torch.from_numpy(wave)[None].to(self.device))[0].T for wave in waves]
        return EncodedAudio(codes) if return_dict else (codes,)

    @torch.inference_mode()
    def decode(self, encoded: Any) -> tuple[list[Samples], int]:
        """Decode the result of `encode`, or dicts with `audio_codes` → float32 [1920 · frames] each, and 24000.

        Frames of -1 are padding. As in the reference, more than 300 frames are decoded in chunks of 300 with 25 frames
        of context, which is close but not equal to the exact decoding of streams. Raises TypeError, ValueError.
        """
        waves = [self._decoded(torch.as_tensor(codes), self._chunked) for codes in _codes_of(encoded)]
        return waves, self.get_output_sample_rate()

    def enable_streaming_optimizations(
        self,
        decode_window_frames: int = 80,
        use_compile: bool = True,
        use_cuda_graphs: bool = True,
        compile_mode: str = "reduce-overhead",
        capture_async_graph: bool = False,
    ) -> Qwen3TTSTokenizer:
        """Make `decode_streaming` faster for windows of this length, and return this tokenizer.

        The options are those of `Optimizations`; one graph serves every thread, so capture_async_graph changes nothing.
        On a CPU nothing is compiled or captured, which is logged. Raises ValueError.
        """
        options = Optimizations(
            decode_window_frames=decode_window_frames,
            use_compile=use_compile,
            use_cuda_graphs=use_cuda_graphs,
            compile_mode=compile_mode,
            capture_async_graph=capture_async_graph,
        )
        options.check_device(self.device.type)
        if self.device.type == "cuda":
            self._windows.prepare(options)
        else:
            log.info("on the %s no window is compiled or captured", self.device.type)
        return self

    def decode_streaming(
        self, audio_codes: Any, use_optimized: bool = True, pad_to_size: int | None = None
    ) -> tuple[list[Samples], int]:
        """Decode one window without a past: codes [frames, 16] → ([float32 [1920 · frames]], 24000).

        `Qwen3TTSModel`'s `windowed_decode` uses this decoder and cross-fades the windows. use_optimized: use what
        `enable_streaming_optimizations` has prepared. pad_to_size must be at least the number of frames and has no
        other effect, because no code is silent. Frames of -1 are skipped. Raises ValueError.
        """
        return self.decode_streaming_batch(torch.as_tensor(audio_codes)[None], use_optimized, pad_to_size)

    def decode_streaming_batch(
        self, audio_codes: Any, use_optimized: bool = True, pad_to_size: int | None = None
    ) -> tuple[list[Samples], int]:
        """Decode several windows: [items, frames, 16], padded with -1 → float32 [n] each. Raises ValueError."""
        codes = torch.as_tensor(audio_codes)
        if codes.ndim != 3 or codes.shape[2] != 16:
            raise ValueError(f"codes must be [frames, 16], those of a batch [items, frames, 16], not {[*codes.shape]}")
        if pad_to_size is not None and pad_to_size < codes.shape[1]:
            raise ValueError(f"pad_to_size={pad_to_size} is less than the {codes.shape[1]} frames of the window")
        decode = partial(self._windows.window, prepared=use_optimized)
        return [self._decoded(each, decode) for each in codes], self.get_output_sample_rate()

    def get_model_type(self) -> str:
        return MODEL_TYPE

    def get_input_sample_rate(self) -> int:
        """Return the sample rate in Hz."""
        return self._codec.config.sample_rate

    def get_output_sample_rate(self) -> int:
        """Return the sample rate in Hz."""
        return self._codec.config.sample_rate

    def get_encode_downsample_rate(self) -> int:
        """Return the samples of a frame."""
        return self._codec.config.frame_samples

    def get_decode_upsample_rate(self) -> int:
        """Return the samples of a frame."""
        return self._codec.config.frame_samples

    def _wave(self, audio: Audio, sr: int | None) -> Samples:
        if isinstance(audio, (str, Path)):
            return load_audio(audio, allow_url=self._allow_url)
        if sr is None:
            raise ValueError("an array needs `sr`, its sample rate in Hz")
        return load_audio((audio, sr))

    def _decoded(self, codes: Tensor, decode: Callable[[Tensor], Tensor]) -> Samples:
        codes = codes[codes[:, 0] >= 0].clamp(min=0).long()  # [frames, 16]
        if not len(codes):
            return np.zeros(0, np.float32)
        # On a GPU an index out of range makes every later CUDA call of the process fail.
        if int(codes.max()) >= (size := self._codec.config.decoder.codebook_size):
            raise ValueError(f"codes must be below {size}, not {int(codes.max())}")
        wave: Samples = decode(codes.T).numpy()
        return wave

    def _chunked(self, codes: Tensor) -> Tensor:
        return self._codec.decoder.chunked(codes[None].to(self.device))[0].float().cpu()


def _codes_of(encoded: Any) -> list[Any]:
    """Return the codes of each item. Raises TypeError for anything that `decode` does not accept."""
    if isinstance(encoded, list):
        return [each["audio_codes"] for each in encoded]
    if not isinstance(encoded, Mapping) and not hasattr(encoded, "audio_codes"):
        raise TypeError("decode takes the result of encode, a dict, or a list of dicts")
    found = encoded["audio_codes"] if isinstance(encoded, Mapping) else encoded.audio_codes
    if isinstance(found, (Tensor, np.ndarray)):
        return [found] if found.ndim == 2 else list(found)
    return list(found)
