"""The process group of a trial: its data-parallel workers (ranks), and the few operations that they share.

All ranks draw the same global batch, and each takes its slice of it. Sums over ranks therefore equal the sums of a
single rank.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


@dataclass(frozen=True)
class ProcessGroup:
    """A rank's view of its process group. The default is a single rank, for which every operation is local."""

    rank: int = 0
    world: int = 1
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @classmethod
    def from_torch(cls, device: torch.device) -> ProcessGroup:
        """Returns this process's place in the default torch process group."""
        return cls(rank=dist.get_rank(), world=dist.get_world_size(), device=device)

    def seed(self, number: int) -> None:
        """Seeds the generators that layers such as dropout draw from.

        Devices that are not in use are left out: `torch.manual_seed` queues a call with its traceback for each of them.
        """
        torch.default_generator.manual_seed(number)
        if self.device.type != "cpu":
            torch.get_device_module(self.device).manual_seed(number)

    def sum(self, value: Tensor) -> Tensor:
        """Returns the sum of `value` over all ranks, on every rank; it may overwrite `value`."""
        if self.world > 1:
            value = value.contiguous()
            dist.all_reduce(value)
        return value

    def gather_rows(self, rows: Tensor) -> Tensor:
        """Returns the rows (n_r, ...) of all ranks, one after another, on every rank; their counts may differ."""
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
        """Returns rank 0's picklable `value`, on every rank."""
        if self.world == 1:
            return value
        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def share(self, value: Tensor, owner: int) -> Tensor:
        """Returns the tensor of rank `owner`, on every rank; `value` has its shape and type everywhere."""
        if self.world == 1:
            return value
        sent = value.to(self.device).contiguous()
        dist.broadcast(sent.reshape(-1).view(torch.uint8), src=owner)
        return sent.to(value.device)

    def gather(self, value: Any) -> list[Any]:
        """Returns the picklable values of all ranks, on every rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value)
        return values

    def barrier(self) -> None:
        """Waits for all ranks."""
        if self.world > 1:
            dist.barrier()
