"""Residual vector quantization: codes to latents by table lookup, and latents to codes by nearest neighbour."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class ResidualVQDecoder(nn.Module):
    """Decoder half. The output projection is folded into every codebook, so a frame takes 16 gathers and one sum."""

    offsets: Tensor

    def __init__(self, groups: int, codebook_size: int, width: int) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.empty(groups * codebook_size, width))
        offsets = torch.arange(groups, device="cpu").unsqueeze(1) * codebook_size
        self.register_buffer("offsets", offsets, persistent=False)  # [16, 1]

    def forward(self, codes: Tensor) -> Tensor:
        """Map codes [B, 16, T] → latents [B, width, T]."""
        return F.embedding(codes + self.offsets, self.table).sum(1).transpose(1, 2)


class ResidualVQEncoder(nn.Module):
    """Encoder half of one branch: project, then quantize the residual of the previous codebooks."""

    def __init__(self, groups: int, codebook_size: int, codebook_dim: int, width: int) -> None:
        super().__init__()
        self.project = nn.Linear(width, codebook_dim, bias=False)
        self.tables = nn.Parameter(torch.empty(groups, codebook_size, codebook_dim))

    def forward(self, latents: Tensor) -> Tensor:
        """Map latents [B, T, width] → codes [B, groups, T]; distances are computed in float32 whatever the weights'
        dtype.
        """
        rest = self.project(latents).float()
        codes = []
        for table in self.tables.float():
            code = torch.cdist(rest.flatten(0, 1), table).argmin(-1).view(rest.shape[:2])  # [B, T]
            codes.append(code)
            rest = rest - F.embedding(code, table)
        return torch.stack(codes, dim=1)
