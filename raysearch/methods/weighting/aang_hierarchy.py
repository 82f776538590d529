"""Shares along a hierarchy of stages, as the authors' code of AANG divides a batch.

Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), https://arxiv.org/abs/2205.14082

The code goes from representations over data to transforms; a primitive's share is a softmax of its stage's factor among
those that the sampled objectives have under the same primitives so far:

    share_k = softmax_R(W^R)_r  softmax_{D | r}(W^D)_d  softmax_{T | r, d}(W^T)_t

Objectives that differ in their output alone have one share, in full. Of b rows r gets b_r = ceil(b softmax(W^R)_r),
of these d gets ceil(b_r softmax(W^D)_d), and so on; in the code the outputs of a group read the same rows, here each
draws its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

STAGE_ORDER = ("representation", "data", "transform")


def conditional_shares(primitives: Mapping[str, Tensor], factors: Mapping[str, Tensor]) -> list[Tensor]:
    """For each stage of STAGE_ORDER the share of each objective's primitive among its siblings, (n,) each.

    `primitives` has the n objectives' primitives of a stage by number, `factors` the factor of each.
    """
    shares = []
    parent = torch.zeros_like(primitives[STAGE_ORDER[0]])
    for stage in STAGE_ORDER:
        count = len(factors[stage])
        groups, own = (parent * count + primitives[stage]).unique(return_inverse=True)
        above, score = groups // count, factors[stage][groups % count]
        zeros = score.new_zeros(int(above.max()) + 1)
        largest = zeros.scatter_reduce(0, above, score.detach(), "amax", include_self=False)
        power = (score - largest[above]).exp()
        shares.append((power / zeros.index_add(0, above, power)[above])[own])
        parent = own
    return shares


def split_batch(shares: list[Tensor], total: float) -> list[int]:
    """How many of `total` rows each objective gets, rounded up at each stage."""
    counts = []
    for parts in torch.stack(shares, dim=1).tolist():
        left = total
        for part in parts:
            left = math.ceil(left * part - 1e-9)
        counts.append(int(left))
    return counts
