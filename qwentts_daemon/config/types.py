"""Base class and common types of the configuration's sections."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Silence = Annotated[float, Field(ge=0, le=10)]  # seconds


class Section(BaseModel):
    """An immutable section that rejects unknown keys and values of another type."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
