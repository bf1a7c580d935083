"""The engine as a worker opens it, and requests spoken through its public door with a clock beside them."""

from __future__ import annotations

import argparse
import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch

from ..ipc.settings import ModelSettings
from ..model.config import SAMPLE_RATE
from ..prompt.planner import CloneVoice, PromptPlan
from ..prompt.sampling_params import resolve_sampling
from ..runtime.prefill import VoiceVectors
from ..scheduler.engine import ChunkOutput, GenerationRequest
from ..scheduler.sequence import FinishReason
from ..worker.backends.qwen3_loading import LoadedEngine, open_engine
from .machine import device_name
from .metrics import AUDIBLE, RequestTrace
from .report import Setting

TEXT = "The washing machine has finished, and it will rain at six o'clock. Please close the window in the kitchen."
LANGUAGE, INSTRUCT, X_VECTOR = "english", "A calm voice.", "bench"
WARM_UP_FRAMES = 16

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class BenchRequest:
    """A text and its number of frames; random weights do not end by themselves."""

    text: str
    frames: int
    seed: int | None = None


class BenchSpeaker:
    """One voice of one checkpoint; numbers its jobs."""

    def __init__(self, directory: Path, jobs: int, options: argparse.Namespace) -> None:
        self.opened: LoadedEngine = open_engine(directory, worker_settings(directory, jobs, options))
        self.engine = self.opened.engine
        self.model = self.opened.loaded.model
        self.device = self.model.talker.head.weight.device
        self._plan, self._voice = _voice(self.opened)
        self._jobs = 0
        self.cpu_share = 0.0  # CPU time of this process during the last `speak`, of its wall time
        self.steps_s: list[float] = []  # its steps from the last first chunk to the first end

    def begin(self, request: BenchRequest) -> int:
        """Add a job with its whole text and return its number."""
        self._jobs += 1
        samples = {"max_new_tokens": request.frames + 1, "min_new_tokens": request.frames + 1, "seed": request.seed}
        sampling = resolve_sampling(samples, self.opened.loaded.generation)
        self.engine.add(self._jobs, GenerationRequest(self._plan, sampling, self._voice))
        self.engine.append_text(self._jobs, request.text)
        self.engine.end_text(self._jobs)
        return self._jobs

    def speak(self, requests: Sequence[BenchRequest]) -> list[RequestTrace]:
        """Speak simultaneous requests to their ends, and return their traces."""
        takes: dict[int, RequestTrace] = {}
        self.steps_s, started, ended = [], set[int](), False
        began_s, began_cpu_s = time.perf_counter(), time.process_time()
        for request in requests:
            requested_s = time.perf_counter()
            takes[self.begin(request)] = RequestTrace(requested_s)
        while self.engine.busy:
            step_s = time.perf_counter()
            outputs = self.engine.step()
            if len(started) == len(takes) and not ended:
                self.steps_s.append(time.perf_counter() - step_s)
            for progress in outputs:
                listen(takes[progress.job], progress)
                started.add(progress.job)
                ended = ended or progress.ended
        self.cpu_share = (time.process_time() - began_cpu_s) / (time.perf_counter() - began_s)
        return list(takes.values())

    def warm_up(self, batch: int) -> None:
        """Speak with `batch` listeners, half as many, … one: nothing is prepared or first seen under the clock."""
        while batch:
            self.speak([BenchRequest(TEXT, WARM_UP_FRAMES)] * batch)
            batch //= 2

    def setting(self, command: str, batch: int | str, frames: int | str) -> Setting:
        """Return the head of each line."""
        size = self.model.config.model_size
        return Setting(command, device_name(self.device), torch.__version__, size, batch, frames)


def worker_settings(directory: Path, jobs: int, options: argparse.Namespace) -> ModelSettings:
    """Return the settings that the daemon would send to its worker."""
    known = {field.name for field in fields(ModelSettings)}
    if "kernels" not in known and options.kernels != "auto":
        raise SystemExit("--kernels: this engine has one way of running only")
    values = {
        "name": str(directory), "voices_dir": "", "device": options.device, "dtype": options.dtype,
        "codec_dtype": "auto", "kernels": options.kernels, "cuda_graphs": True, "revision": None, "offline": True,
        "cache_dir": None, "max_jobs": jobs, "trim_silence": False, "sampling": {},
    }  # fmt: skip
    return ModelSettings(**{name: value for name, value in values.items() if name in known})


def listen(take: RequestTrace, progress: ChunkOutput) -> None:
    """Record the output of a step; log a warning if the engine itself cut or rejected the job."""
    now_s, wave = time.perf_counter(), progress.wave
    if progress.failed or progress.cut not in (None, FinishReason.MAX_NEW_TOKENS):
        log.warning("job %d: %s", progress.job, progress.failed or progress.cut)
    if wave.numel():
        loud = (wave.abs() > AUDIBLE).nonzero() if take.audible_s is None else wave.new_empty(0)
        take.receive(now_s, wave.numel() / SAMPLE_RATE, loud[0].item() / SAMPLE_RATE if len(loud) else None)


def _voice(opened: LoadedEngine) -> tuple[PromptPlan, VoiceVectors]:
    """A voice that this kind of checkpoint has."""
    planner, talker = opened.loaded.planner, opened.loaded.model.config.talker
    if opened.loaded.kind == "custom_voice":
        return planner.custom_voice(next(iter(planner.ids.speakers)), LANGUAGE), VoiceVectors()
    if opened.loaded.kind == "voice_design":
        return planner.voice_design(INSTRUCT, LANGUAGE), VoiceVectors()
    vector = torch.randn(talker.transformer.hidden_size, generator=torch.Generator().manual_seed(0))
    return planner.clone(CloneVoice(X_VECTOR), LANGUAGE), VoiceVectors(vector)
