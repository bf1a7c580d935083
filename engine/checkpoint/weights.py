"""Moves a checkpoint's tensors into a model built on the meta device, packing them on the way.

A packed parameter is allocated once and its parts are copied into place from the memory-mapped file, so the peak is
one copy of the weights plus one small tensor.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Protocol

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..model.config import CheckpointError
from .weight_map import Recipe, Shape, WeightMap

Place = Callable[[str], tuple[torch.device, torch.dtype]]
"""Parameter name to its device and type."""


class WeightsError(CheckpointError):
    """A weights file is unreadable, or its tensors are not those that its config asks for."""


class TensorSource(Protocol):
    """Where tensors come from."""

    name: str
    shapes: Mapping[str, Shape]

    def get(self, tensor: str) -> Tensor:
        """One tensor, on any device and of any floating type."""


class SafetensorsSource:
    """A memory-mapped safetensors file, with or without a metadata entry in its header."""

    def __init__(self, file: Path) -> None:
        self.name = str(file)
        try:
            self._file = safe_open(file, framework="pt", device="cpu")
            names = self._file.keys()
            shapes = {name: tuple(self._file.get_slice(name).get_shape()) for name in names}
        except OSError as error:
            raise WeightsError(f"{file}: cannot be read ({error})") from error
        except SafetensorError as error:
            # In the hub's cache the name is a link, and only without the file behind it is it fetched anew.
            advice = f"delete {file.resolve()} and load again to download it anew"
            raise WeightsError(f"{file}: is truncated or corrupt ({error}); {advice}") from error
        self.shapes: Mapping[str, Shape] = MappingProxyType(shapes)

    def get(self, tensor: str) -> Tensor:
        return self._file.get_tensor(tensor)


def check_tensors(source: TensorSource, weights: WeightMap) -> None:
    """Compare names and shapes with what the config asks for. Raises one WeightsError that names every difference."""
    expected = weights.tensors()
    missing = sorted(expected.keys() - source.shapes.keys())
    extra = sorted(source.shapes.keys() - expected.keys())
    wrong = [
        f"{name} is {list(source.shapes[name])}, not {list(shape)}"
        for name, shape in sorted(expected.items())
        if name in source.shapes and source.shapes[name] != shape
    ]
    found = (("missing", missing), ("unknown", extra), ("of the wrong shape", wrong))
    faults = [f"{len(names)} {kind}: {', '.join(names)}" for kind, names in found if names]
    if faults:
        raise WeightsError(f"{source.name}: its tensors do not fit its config. " + "; ".join(faults))


@torch.no_grad()
def fill(model: nn.Module, weights: WeightMap, source: TensorSource, place: Place) -> None:
    """Load every parameter of `model` that is in `weights` from `source`. Raises WeightsError."""
    check_tensors(source, weights)
    for name, parameter in list(model.named_parameters()):
        recipe = weights.recipes.get(name)
        if recipe is not None:
            value = _make(recipe, tuple(parameter.shape), source, *place(name))
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, nn.Parameter(value, requires_grad=False))


def move_buffers(model: nn.Module, place: Place) -> None:
    """Bring the small index tables, which no checkpoint holds, to the device of their part."""
    for name, buffer in list(model.named_buffers()):
        owner, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(owner), leaf, buffer.to(place(name)[0]))


def _make(recipe: Recipe, shape: Shape, source: TensorSource, device: torch.device, dtype: torch.dtype) -> Tensor:
    if recipe.combine is not None:
        value = recipe.combine([source.get(name).float() for name, _ in recipe.parts])
        assert tuple(value.shape) == shape, (recipe.parts, value.shape, shape)
        return value.to(device=device, dtype=dtype, copy=True)
    value = torch.empty(shape, device=device, dtype=dtype)
    flat, start = value.view(-1), 0
    for name, _ in recipe.parts:
        part = source.get(name)
        flat[start : start + part.numel()].copy_(part.reshape(-1))
        start += part.numel()
    assert start == flat.numel(), (recipe.parts, shape)
    return value
