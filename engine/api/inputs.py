"""Arguments of the Python API, checked and converted, by the rules of the reference package and its streaming fork.

Scripts written for either run with only their import changed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.load import LoadOptions
from ..prompt.languages import suggest
from ..prompt.sampling_params import SamplingError, SamplingParams, resolve_sampling
from ..prompt.validation import check_number
from ..runtime.sampler import SamplerLimits

DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}


@dataclass(frozen=True, slots=True, kw_only=True)
class FromPretrained:
    """The keywords of `from_pretrained`."""

    dtype: torch.dtype | str | None = None
    torch_dtype: torch.dtype | str | None = None
    device_map: Any = None
    device: Any = None
    attn_implementation: str | None = None
    revision: str | None = None
    cache_dir: str | Path | None = None
    local_files_only: bool = False
    allow_url: bool = False
    slots: int = 8
    max_positions: int | None = None
    codec_device: Any = None

    @classmethod
    def read(cls, keywords: Mapping[str, Any], without: tuple[str, ...] = ()) -> FromPretrained:
        """Check the keywords of a caller. Raises TypeError for an unknown one, naming the nearest known one."""
        names = [field.name for field in fields(cls) if field.name not in without]
        for name in keywords:
            if name not in names:
                raise TypeError(f"from_pretrained: unknown keyword {name!r}{suggest(name, names)}")
        return cls(**keywords)

    @property
    def where(self) -> dict[str, Any]:
        """The arguments of `find_checkpoint`."""
        cache = None if self.cache_dir is None else Path(self.cache_dir).expanduser()
        return {"revision": self.revision, "offline": self.local_files_only, "cache": cache}

    def load_options(self) -> LoadOptions:
        """Return device and dtype. Raises ValueError."""
        check_number("slots", self.slots, 1, whole=True)
        if self.max_positions is not None:
            check_number("max_positions", self.max_positions, 1, whole=True)
        name = "device" if self.device_map is None else "device_map"
        device = _device(name, getattr(self, name))
        return LoadOptions(device=device, dtype=self._chosen_dtype(device))

    def async_decode_device(self, model: torch.device) -> torch.device:
        """Return the device of `async_decode`, by default the model's. Raises ValueError for an unknown GPU."""
        if self.codec_device is None:
            return model
        wanted = torch.device(_device("codec_device", self.codec_device))
        return torch.device("cuda", wanted.index or 0) if wanted.type == "cuda" else wanted

    def _chosen_dtype(self, device: str) -> torch.dtype:
        wanted = self.torch_dtype if self.dtype is None else self.dtype
        if wanted is None or wanted == "auto":
            return torch.float32 if device == "cpu" else torch.bfloat16
        found = DTYPES.get(str(wanted).removeprefix("torch."))
        if found is None:
            raise ValueError(f"dtype {wanted!r} is not supported. Valid: auto, {', '.join(DTYPES)}")
        return found


def _device(name: str, wanted: Any) -> str:
    """Return the device of a device map of Transformers; None and "auto" prefer a GPU. Raises ValueError."""
    places = set(wanted.values()) if isinstance(wanted, Mapping) else {wanted}
    if len(places) != 1:
        raise ValueError(f"{name}: the model must be on one device, not on {sorted(map(str, places))}")
    (place,) = places
    if place in (None, "auto", "balanced", "sequential"):
        return "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(f"cuda:{place}" if isinstance(place, int) else place)
    except (RuntimeError, TypeError) as error:
        raise ValueError(f"{name} must be auto, cpu, cuda or cuda:N, not {place!r}") from error
    count = torch.cuda.device_count()
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ValueError(f"{name} {device}: torch sees {count} GPUs")
    return str(device)


def texts_of(text: str | list[str]) -> list[str]:
    """Return the texts of a batch. Raises TypeError for anything but a str or a list of str."""
    texts = text if isinstance(text, list) else [text]
    if not all(isinstance(each, str) for each in texts):
        raise TypeError("text must be a str or a list of str; an iterator of pieces can only be streamed")
    return texts


def broadcast(name: str, value: Any, count: int) -> list[Any]:
    """Return a value for each of `count` texts, from a list of as many or from one for all. Raises ValueError."""
    values = value if isinstance(value, list) else [value]
    if len(values) == 1:
        return values * count
    if len(values) != count:
        raise ValueError(f"batch size mismatch: {count} texts, but {len(values)} of {name}")
    return values


def text_or_pieces(text: str | Iterable[str]) -> str | Iterator[str]:
    """Return a whole text, or an iterator of its pieces. Raises TypeError for a batch and for anything but text."""
    if isinstance(text, str):
        return text
    if isinstance(text, list) and len(text) != 1:
        raise TypeError("a stream takes one text: open a stream for each, or pass iter([...]) for the pieces of one")
    if not isinstance(text, Iterable):
        raise TypeError(f"text must be a str or an iterator of its pieces, not {type(text).__name__}")
    return iter(text)


def checked_sampling(explicit: Mapping[str, Any], file: Mapping[str, Any], codec_vocab: int) -> SamplingParams:
    """Return sampling parameters that the sampler and the checkpoint can use. Raises SamplingError."""
    sampling, limits = resolve_sampling(explicit, file), SamplerLimits()
    if max(sampling.end_ids, default=0) >= codec_vocab:
        raise SamplingError(f"eos_token_id must hold codec ids below {codec_vocab}, not {list(sampling.end_ids)}")
    if not sampling.fits(limits.k_limit, limits.nucleus, limits.window):
        raise SamplingError(f"repetition_penalty_window must be at most {limits.window}, not {sampling.penalty_window}")
    return sampling
