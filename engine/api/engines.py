"""Engines as the Python API drives them: for any number of threads, each with the cloned voices that it has heard."""

from __future__ import annotations

import threading
from collections.abc import Callable
from functools import partial
from typing import Any, TypeAlias, TypeVar

from ..prompt.planner import PromptPlan
from ..prompt.tokenizer import TextTokenizer
from ..runtime.model_runner import Runner
from ..scheduler.engine import Engine, GenerationRequest
from ..scheduler.sequence import RunawayLimits
from ..voices.prompt import VoicePrompt
from .clone_prompts import PrimedVoices
from .paged_engine import PagedOptions
from .threaded_engine import ThreadedEngine

NO_GUARDS = RunawayLimits(frames_per_text_id=0, min_frames=1 << 31, loop_frames=0)

T = TypeVar("T")
Planned: TypeAlias = tuple[PromptPlan, VoicePrompt | None]


class EngineHandle:
    """A runner under a `ThreadedEngine`."""

    def __init__(self, runner: Runner, tokenizer: TextTokenizer) -> None:
        self.engine = engine = ThreadedEngine(Engine(runner, tokenizer, NO_GUARDS), runner.device)
        self._primed = PrimedVoices(lambda codes: engine.exclusively(partial(runner.prime, codes)))

    def utterance(self, planned: Planned, **how: Any) -> GenerationRequest:
        """What this engine needs to speak as planned; snapshots of a voice fit no other."""
        plan, voice = planned
        if voice is None:
            return GenerationRequest(plan, **how)
        return GenerationRequest(plan, voice=voice.vectors, primed=self._primed.get(voice), **how)


class PagedEngine:
    """A model's paged engine, opened when it is first wanted."""

    def __init__(self, open_engine: Callable[[PagedOptions], EngineHandle], options: PagedOptions) -> None:
        self._open, self._options = open_engine, options
        self._changing = threading.Lock()
        self._driven: EngineHandle | None = None

    @property
    def idle(self) -> bool:
        """Whether it speaks to nobody."""
        return self._driven is None or self._driven.engine.idle

    def exclusively(self, call: Callable[[], T]) -> T:
        """What `call` gives when no step of it runs beside."""
        driven = self._driven
        return call() if driven is None else driven.engine.exclusively(call)

    def opened(self, options: PagedOptions | None = None) -> EngineHandle:
        """The engine; with other `options` than it has, another one. Raises RuntimeError while that one speaks."""
        with self._changing:
            if options not in (None, self._options):
                if not self.idle:
                    raise RuntimeError("other options exchange the paged engine: close what is being spoken first")
                self._driven, self._options = None, options  # its memory is free before the new one takes any
            if self._driven is None:
                self._driven = self._open(self._options)
            return self._driven
