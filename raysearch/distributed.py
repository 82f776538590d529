"""Ranks: the data-parallel workers of one trial, and the few things they do together.

All ranks draw the same global batch and take their own slice of it; sums over ranks then equal the sums that a
single rank would have had.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """One worker alone; `from_torch` gives the members of a torch process group."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_torch(cls, device: torch.device) -> ProcessGroup:
        """This process's place in the default torch process group."""
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), device=device)

    def seed(self, number: int) -> None:
        """Begin what layers draw, as dropout does, from `number`.

        Without the devices that are not in use: `torch.manual_seed` queues a call with its traceback for each of them.
        """
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(number)

    def sum(self, value: Tensor) -> Tensor:
        """The sum of `value` over all ranks, on every rank."""
        if self.world > 1:
            value = value.contiguous()
            dist.all_reduce(value)
        return value

    def gather_rows(self, rows: Tensor) -> Tensor:
        """The rows (n_r, ...) of all ranks, one after another, on every rank; counts may differ."""
        if self.world == 1:
            return rows
        counts: list[int] = [0] * self.world
        dist.all_gather_object(counts, len(rows))
        longest = max(counts)
        padded = rows.new_zeros((longest, *rows.shape[1:]))
        padded[: len(rows)] = rows
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    def broadcast(self, value: Any) -> Any:
        """Rank 0's picklable `value`, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share(self, value: Tensor, owner: int) -> Tensor:
        """The tensor of rank `owner`, on every rank; theirs has its shape and type."""
        if self.world == 1:
            return value
        sent = value.to(self.device).contiguous()
        dist.broadcast(sent.reshape(-1).view(torch.uint8), src=owner)
        return sent.to(value.device)

    def gather(self, value: Any) -> list[Any]:
        """The picklable values of all ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Wait for all ranks."""
        if self.world > 1:
            dist.barrier()
