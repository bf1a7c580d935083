"""A job while it runs: how far its frames have come, and the chunks that they become."""

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
from .edges import faded, without_silence
from .sequence import FinishReason, SampleOutcome, Sequence

log = logging.getLogger(__name__)

RUNAWAY = (FinishReason.TOO_LONG, FinishReason.LOOP)
SILENT_FRAMES = 5
"""At most this many leading frames are left out as silence."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """Everything about a job but its text. With `trim_silence` its audio begins with its sound.

    `codes_only`: the caller decodes the codes; the chunks' waves are empty.
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
    """One chunk of one job: codes [16, n] and wave float32 [1920 · n], both on the host; less wave where it is trimmed,
    empty if only codes are wanted.

    `failed` is why a job could not start, PromptError or MemoryError; it has ended then.
    """

    job: int
    codes: Tensor
    wave: Tensor
    ended: bool = False
    cut: FinishReason | None = None
    failed: PromptError | MemoryError | None = None


@dataclass(frozen=True, slots=True)
class DecodedSpan:
    """A job's row of a wave that has been launched (None: codes only), and whether a chunk ends with it."""

    wave: PendingAudio | None
    row: int
    frames: int
    closes: bool
    launched_s: float

    @property
    def ready(self) -> bool:
        """Whether `read` would not wait."""
        return self.wave is None or self.wave.ready

    def read(self) -> Tensor:
        """Wait for it: [1920 · frames] on the host, or nothing."""
        return torch.empty(0) if self.wave is None else self.wave.read()[self.row]


@dataclass(slots=True, eq=False)
class RunningJob:
    """A job's progress as counters of frames; see `Engine.step` for what each counts and how they are ordered."""

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
    chunks: int = 0  # closed ones
    playback: Playback = field(default_factory=Playback)
    _codes: list[list[int]] = field(default_factory=list)  # kept and not sent
    _pieces: deque[DecodedSpan] = field(default_factory=deque)  # decoded and not sent

    @property
    def over(self) -> bool:
        return self.sequence.verdict is not SampleOutcome.FRAME

    @property
    def heard(self) -> bool:
        return self.playback.ends_s is not None

    @property
    def under_way(self) -> bool:
        """Whether a frame of it has been launched and not judged."""
        return not self.over and self.launched > self.sequence.samples

    @property
    def unsent(self) -> bool:
        """Whether something of it will be sent even if no further frame is made."""
        return self.over or self.sent < self.closed

    @property
    def judged(self) -> bool:
        """Whether it is known which frames of its next chunk are speech."""
        return self.over or self.kept >= self.sent + sum(piece.frames for piece in self._next_pieces())

    @property
    def arrived(self) -> bool:
        """Return whether the audio of its next chunk has arrived; True for a chunk without audio."""
        return all(piece.ready for piece in self._next_pieces())

    def take_frame(self, codes: list[int], last: bool) -> None:
        """Judge a frame, the last one for which there is room or not; keep it if it is speech.

        A runaway's last frame is kept too: it carries the fade.
        """
        verdict = self.sequence.accept(codes[0])
        if verdict is SampleOutcome.FRAME and last:
            self.sequence.cut_short(FinishReason.TOO_LONG)
        if verdict is SampleOutcome.FRAME or self.sequence.cut in RUNAWAY:
            self._codes.append(codes)
            self.kept += 1

    def take_piece(self, piece: DecodedSpan) -> None:
        """Sound of the next frames has been launched."""
        self._pieces.append(piece)
        self.decoded += piece.frames
        if piece.closes:
            self.closed = self.decoded
            self.chunks += 1

    def next_chunk(self, clock: Callable[[], float]) -> tuple[ChunkOutput, float | None]:
        """What is to be sent next, waiting for it, and how long its sound was under way if it has any.

        It does not extend past the job's end, even if more has been decoded in vain.
        """
        pieces = self._next_pieces()
        for _ in pieces:
            self._pieces.popleft()
        frames = min(sum(piece.frames for piece in pieces), self.kept - self.sent)
        wave = torch.cat([piece.read() for piece in pieces]) if frames else torch.empty(0)
        now_s = clock()
        ended = self.over and self.sent + frames == self.kept
        wave = self._edged(wave[: frames * self.frame_samples], ended)
        codes = torch.tensor(self._codes[:frames], dtype=torch.int64).view(-1, CODE_GROUPS).mT  # [16, n]
        del self._codes[:frames]
        self.sent += frames
        if len(wave):
            self.playback.receive(now_s, len(wave) / self.frame_samples * FRAME_S)
        progress = ChunkOutput(self.sequence.job, codes, wave, ended, self.sequence.cut if ended else None)
        return progress, now_s - pieces[-1].launched_s if frames and pieces[-1].wave else None

    def _next_pieces(self) -> list[DecodedSpan]:
        """Those of its next chunk; of an ended job's last chunk, whatever is left."""
        pieces: list[DecodedSpan] = []
        for piece in self._pieces:
            pieces.append(piece)
            if piece.closes:
                break
        return pieces

    def _edged(self, wave: Tensor, ended: bool) -> Tensor:
        """A chunk's wave without leading silence where that is wanted, and faded at a runaway's end."""
        if self.utterance.trim_silence and not self.heard:
            wave = without_silence(wave, max(SILENT_FRAMES - self.sent, 0) * self.frame_samples)
        if not (ended and self.sequence.cut in RUNAWAY):
            return wave
        log.warning("job %d cut after %d frames for %d text ids: %s", self.sequence.job, self.kept,
                    self.sequence.text_ids, self.sequence.cut)  # fmt: skip
        return faded(wave, self.frame_samples)
