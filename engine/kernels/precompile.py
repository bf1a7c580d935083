"""Compiles all kernels needed at start in parallel, before the first launch.

Triton compiles a kernel for each combination of types, alignments and constants at its first launch: about 150 kernels
and a minute on one core. Here the steps are run once without launching anything, while threads compile what they
request. Triton's passes, ptxas and gcc release the GIL, and Python code is a tenth of the work; so threads suffice, and
no processes are needed that could use GPU memory or outlive this one.
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
"""More threads do not help, because Python's share of the work is serialised by the GIL."""

log = logging.getLogger(__name__)


def compile_ahead(steps: Iterable[Callable[[], object]]) -> None:
    """Compile all kernels that `steps` launch, for this process and Triton's cache; load those already in the cache.

    The kernels do not run, so the results of the steps are undefined. Errors are only logged: a kernel that is still
    missing is compiled at its first launch.
    """
    began_s = time.perf_counter()
    try:
        kernels = copy_context().run(_compiled, steps)  # confines Triton's compile mode to this call
    except Exception as error:  # compilers raise arbitrary exceptions
        log.warning("kernels will be compiled at first launch: %s: %s", type(error).__name__, error)
        return
    log.info("compiled or loaded %d kernels in %.1f s", kernels, time.perf_counter() - began_s)


def _compiled(steps: Iterable[Callable[[], object]]) -> int:
    """Compile or load the kernels; return their number."""
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
    """A pool with one thread per core, up to `MOST_THREADS`, that records its futures."""

    def __init__(self) -> None:
        super().__init__(min(MOST_THREADS, len(os.sched_getaffinity(0))), "compile")
        self.futures: list[Future[Any]] = []

    def __exit__(self, *_: object) -> None:
        self.shutdown(cancel_futures=True)

    def submit(self, work: Callable[..., Any], /, *arguments: Any, **more: Any) -> Future[Any]:
        self.futures.append(super().submit(work, *arguments, **more))
        return self.futures[-1]


def _build_launchers(threads: ThreadPoolExecutor, kernels: list[Any]) -> None:
    """Build launchers: up to Triton 3.6, gcc compiles and caches a library for each combination of argument types."""
    one_of_each = {_argument_types(kernel): kernel for kernel in kernels}.values()
    for _ in threads.map(lambda kernel: driver.active.launcher_cls(kernel.src, kernel.metadata), one_of_each):
        pass


def _argument_types(kernel: Any) -> tuple[object, ...]:
    return tuple(kernel.src.signature.values())
