"""The 44-byte header of a WAV file, also for audio whose length is not yet known."""

from __future__ import annotations

import struct

HEADER_BYTES = 44
UNKNOWN = 0xFFFFFFFF  # players take it for "until the stream ends"


def header(rate: int, size: int | None) -> bytes:
    """Return the header of mono 16-bit PCM; `size` is the size of the samples in bytes, None if unknown."""
    riff_size, data_size = (UNKNOWN, UNKNOWN) if size is None else (HEADER_BYTES - 8 + size, size)
    form = struct.pack("<4sIHHIIHH", b"fmt ", 16, 1, 1, rate, 2 * rate, 2, 16)
    return struct.pack("<4sI4s", b"RIFF", riff_size, b"WAVE") + form + struct.pack("<4sI", b"data", data_size)
