"""Whether a checkpoint's files are whole, from their own headers and from their names in the hub's cache."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

_LENGTH = struct.Struct("<Q")
HEADER_BYTES = 100 << 20
READ_BYTES = 4 << 20


def safetensors_fault(file: Path) -> str | None:
    """What is wrong with the header of a safetensors file or with the size that it announces."""
    try:
        with file.open("rb") as opened:
            start = opened.read(_LENGTH.size)
            length = _LENGTH.unpack(start)[0] if len(start) == _LENGTH.size else HEADER_BYTES + 1
            if length > HEADER_BYTES:
                return "is not a safetensors file"
            header = json.loads(opened.read(length))
        ends = [tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"]
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    except (ValueError, KeyError, TypeError, IndexError, AttributeError):
        return "has a damaged header"
    expected, size = _LENGTH.size + length + max(ends, default=0), file.stat().st_size
    return None if size == expected else f"has {size} bytes, but its header announces {expected}"


def hash_fault(file: Path) -> str | None:
    """Return how the content differs from what the hub sent; None if it does not, or outside of the hub's cache."""
    name = file.resolve().name
    if file.resolve().parent.name != "blobs" or not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", name):
        return None
    digest = hashlib.sha256() if len(name) == 64 else hashlib.sha1(usedforsecurity=False)
    if digest.name == "sha1":  # small files go by git's name for them
        digest.update(f"blob {file.stat().st_size}\0".encode())
    try:
        with file.open("rb") as opened:
            while part := opened.read(READ_BYTES):
                digest.update(part)
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None if digest.hexdigest() == name else "is not what the hub sent: its hash differs"


def is_known(file: Path) -> bool:
    """Return whether `hash_fault` can decide."""
    return file.resolve().parent.name == "blobs"
