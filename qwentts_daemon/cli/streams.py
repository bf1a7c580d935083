"""Standard input, output and error: each may be closed when the program starts, or fail while it runs."""

from __future__ import annotations

import io
import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import Buffer


def set_up() -> None:
    """Set up three standard streams, with a standard error that never fails.

    /dev/null replaces a closed one: otherwise the next socket would get its number, and the output of a library would
    be sent to a client.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # open returns the lowest free number: this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 (it stays open as long as the process)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    encoding = sys.stderr.encoding if sys.stderr else "utf-8"
    log = io.BufferedWriter(LossyFile(2, "w", closefd=False))
    sys.stderr = io.TextIOWrapper(log, encoding, "backslashreplace", line_buffering=True)


def flush_results() -> None:
    """Write out what standard output still buffers. Raises OSError if it cannot be written.

    The interpreter would end with status 120, which names no cause: https://docs.python.org/3/library/sys.html#sys.exit
    """
    if sys.stdout.closed:  # stdio:// handed it to a transport, which closes it
        return
    try:
        sys.stdout.flush()
    except OSError:
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())  # the interpreter flushes the same buffer again on exit
        os.close(null)
        raise


class LossyFile(io.FileIO):
    """A file that drops data it cannot write: a closed terminal or a full disk must not end a daemon."""

    def write(self, data: Buffer, /) -> int:
        try:
            written = super().write(data)
        except OSError:
            written = None
        return memoryview(data).nbytes if written is None else written
