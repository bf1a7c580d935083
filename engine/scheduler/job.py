"""A running job: its progress in frames, and the chunks that they form."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..model.config import CODE_GROUPS, FRAME_S
from ..model.streaming import CodecSnapshot
from ..prompt.languages import PromptError
from ..prompt.planner import PromptPlan
from ..prompt.sampling_params import SamplingParams
from ..prompt.tokenizer import TokenStream
from ..runtime.model_runner import PendingAudio
from ..runtime.prefill import VoiceVectors
from .chunking import BufferedPlan, Emission, Playback
from .edges import fade_out, trim_silence
from .sequence import FinishReason, SampleOutcome, Sequence

log = logging.getLogger(__name__)

RUNAWAY = (FinishReason.TOO_LONG, FinishReason.LOOP)
SILENT_FRAMES = 5
"""At most this many leading frames are trimmed as silence."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A job's parameters, except its text. With `trim_silence`, leading silence is removed from its audio.

    `codes_only`: the caller decodes the codes itself; the chunks' waves are empty.
    """

    plan: PromptPlan
    sampling: SamplingParams = field(default_factory=SamplingParams)
    voice: VoiceVectors = field(default_factory=VoiceVectors)
    primed: CodecSnapshot | None = None
    emission: Emission = field(default_factory=BufferedPlan)
    trim_silence: bool = False
    codes_only: bool = False


@dataclass(frozen=True, slots=True)
class ChunkOutput:
    """One chunk of one job: codes [16, n] and wave float32 [1920 · n], both on the host.

    The wave is shorter if it was trimmed, and empty if only codes were requested. `failed` is the PromptError or
    MemoryError that prevented the job from starting; such a job has ended.
    """

    job: int
    codes: Tensor
    wave: Tensor
    ended: bool = False
    cut: FinishReason | None = None
    failed: PromptError | MemoryError | None = None


@dataclass(frozen=True, slots=True)
class DecodedSpan:
    """One job's row in a batch of launched audio (None: codes only), and whether it completes a chunk."""

    wave: PendingAudio | None
    row: int
    frames: int
    closes: bool
    launched_s: float

    @property
    def ready(self) -> bool:
        """True if `read` would not block."""
        return self.wave is None or self.wave.ready

    def read(self) -> Tensor:
        """Wait for the audio: [1920 · frames] on the host, or an empty tensor for codes only."""
        return torch.empty(0) if self.wave is None else self.wave.read()[self.row]


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job's progress as frame counters; `Engine.step` documents their meaning and order."""

    utterance: GenerationRequest
    sequence: Sequence
    text: TokenStream
    frame_samples: int
    slot: int | None = None
    paused: bool = False
    launched: int = 0
    decoded: int = 0
    closed: int = 0
    sent: int = 0
    kept: int = 0
    chunks: int = 0  # closed chunks
    playback: Playback = field(default_factory=Playback)
    _codes: list[list[int]] = field(default_factory=list)  # kept but not sent
    _spans: deque[DecodedSpan] = field(default_factory=deque)  # decoded but not sent

    @property
    def finished(self) -> bool:
        return self.sequence.outcome is not SampleOutcome.FRAME

    @property
    def started(self) -> bool:
        return self.playback.ends_s is not None

    @property
    def in_flight(self) -> bool:
        """True if a frame has been launched whose codes have not been processed."""
        return not self.finished and self.launched > self.sequence.samples

    @property
    def unsent(self) -> bool:
        """True if there is output left to send even if no further frame is generated."""
        return self.finished or self.sent < self.closed

    @property
    def processed(self) -> bool:
        """True if it is known which frames of the next chunk are speech."""
        return self.finished or self.kept >= self.sent + sum(span.frames for span in self._next_spans())

    @property
    def arrived(self) -> bool:
        """True if the audio of the next chunk is ready, or if the chunk does not have any."""
        return all(span.ready for span in self._next_spans())

    def add_frame(self, codes: list[int], last: bool) -> None:
        """Process a frame's codes and keep them if they are speech; `last` means that the frame fills the slot.

        The last frame of runaway speech is kept too: the fade-out is applied to it.
        """
        outcome = self.sequence.accept(codes[0])
        if outcome is SampleOutcome.FRAME and last:
            self.sequence.cut_short(FinishReason.TOO_LONG)
        if outcome is SampleOutcome.FRAME or self.sequence.cut in RUNAWAY:
            self._codes.append(codes)
            self.kept += 1

    def add_span(self, span: DecodedSpan) -> None:
        """Record that the audio of the next frames has been launched."""
        self._spans.append(span)
        self.decoded += span.frames
        if span.closes:
            self.closed = self.decoded
            self.chunks += 1

    def next_chunk(self, clock: Callable[[], float]) -> tuple[ChunkOutput, float | None]:
        """Wait for the next chunk; return it and, if it has audio, the time since its decoding was launched.

        Frames decoded beyond the job's end are never included.
        """
        spans = self._next_spans()
        for _ in spans:
            self._spans.popleft()
        frames = min(sum(span.frames for span in spans), self.kept - self.sent)
        wave = torch.cat([span.read() for span in spans]) if frames else torch.empty(0)
        now_s = clock()
        ended = self.finished and self.sent + frames == self.kept
        wave = self._trim_and_fade(wave[: frames * self.frame_samples], ended)
        codes = torch.tensor(self._codes[:frames], dtype=torch.int64).view(-1, CODE_GROUPS).mT  # [16, n]
        del self._codes[:frames]
        self.sent += frames
        if len(wave):
            self.playback.receive(now_s, len(wave) / self.frame_samples * FRAME_S)
        progress = ChunkOutput(self.sequence.job, codes, wave, ended, self.sequence.cut if ended else None)
        return progress, now_s - spans[-1].launched_s if frames and spans[-1].wave else None

    def _next_spans(self) -> list[DecodedSpan]:
        """Return the spans of the next chunk; for the last chunk of an ended job, all remaining spans."""
        spans: list[DecodedSpan] = []
        for span in self._spans:
            spans.append(span)
            if span.closes:
                break
        return spans

    def _trim_and_fade(self, wave: Tensor, ended: bool) -> Tensor:
        """Trim leading silence if requested, and fade out runaway speech at its end."""
        if self.utterance.trim_silence and not self.started:
            wave = trim_silence(wave, max(SILENT_FRAMES - self.sent, 0) * self.frame_samples)
        if not (ended and self.sequence.cut in RUNAWAY):
            return wave
        log.warning("job %d cut after %d frames for %d text ids: %s", self.sequence.job, self.kept,
                    self.sequence.text_ids, self.sequence.cut)  # fmt: skip
        return fade_out(wave, self.frame_samples)
