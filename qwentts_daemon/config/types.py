"""What every section of the configuration is made of."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Seconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]
Silence = Annotated[float, Field(ge=0, le=10)]  # seconds


class Section(BaseModel):
    """Immutable; refuses keys it does not know and values of another kind."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)
