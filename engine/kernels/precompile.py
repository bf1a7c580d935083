"""The kernels of a start compiled side by side, before the first of them is launched.

Triton compiles a kernel for each set of types, alignments and constants, when it is first launched so: some 150 kernels
and a minute of one core. Here the steps are gone through once without launching anything, while threads compile what
they ask for. Triton's passes, ptxas and gcc run without the GIL, and a tenth of the work is Python's; so threads do,
and no processes are started that could take GPU memory or outlive this one.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from contextvars import copy_context
from typing import Any

from triton import AsyncCompileMode
from triton.runtime import driver

from .launch import nothing_runs

MOST_THREADS = 16
"""More gain nothing, for Python's share of the work is done by one at a time."""

log = logging.getLogger(__name__)


def compile_ahead(steps: Iterable[Callable[[], object]]) -> None:
    """Compile all kernels that `steps` launch, into this process and Triton's cache; those in the cache are loaded.

    The steps' kernels do not run, so their results are undefined. An error is only logged: a kernel
    that is still missing is compiled when it is launched.
    """
    began_s = time.perf_counter()
    try:
        kernels = copy_context().run(_compiled, steps)  # Triton's mode stays in there, whatever happens
    except Exception as error:  # whatever a compiler we do not control raises
        log.warning("kernels are compiled one by one: %s: %s", type(error).__name__, error)
        return
    log.info("%d kernels compiled or found in the cache in %.1f s", kernels, time.perf_counter() - began_s)


def _compiled(steps: Iterable[Callable[[], object]]) -> int:
    """How many kernels there were to compile or to load."""
    with _Threads() as threads:
        with AsyncCompileMode(threads, ignore_errors=True), nothing_runs():
            for step in steps:
                step()
        futures = threads.futures.copy()
        if failed := [error for future in futures if (error := future.exception())]:
            log.warning("%d of %d kernels could not be compiled ahead: %s", len(failed), len(futures), failed[0])
        _build_launchers(threads, [future.result() for future in futures if not future.exception()])
    return len(futures)


class _Threads(ThreadPoolExecutor):
    """As many as there are cores, within bounds; remembers what it was given."""

    def __init__(self) -> None:
        super().__init__(min(MOST_THREADS, len(os.sched_getaffinity(0))), "compile")
        self.futures: list[Future[Any]] = []

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        self.futures.append(super().submit(work, *arguments, **more))
        return self.futures[-1]


def _build_launchers(threads: ThreadPoolExecutor, kernels: list[Any]) -> None:
    """Up to Triton 3.6 gcc makes a library for every combination of argument types; these too go to the cache."""
    one_of_each = {_argument_types(kernel): kernel for kernel in kernels}.values()
    for _ in threads.map(lambda kernel: driver.active.launcher_cls(kernel.src, kernel.metadata), one_of_each):
        pass


def _argument_types(kernel: Any) -> tuple[object, ...]:
    return tuple(kernel.src.signature.values())
