"""Shares along a hierarchy of stages, as the authors' code of AANG divides a batch.

Dery, Michel, Khodak, Neubig & Talwalkar (ICLR 2023), https://arxiv.org/abs/2205.14082

The hierarchy is representation, data, transform. A primitive's share is a softmax of its stage's logits over the
primitives of the sampled objectives that agree in all stages above:

    share_k = softmax_R(W^R)_r  softmax_{D | r}(W^D)_d  softmax_{T | r, d}(W^T)_t

Objectives that differ only in their output all get this share in full. In a batch of b examples, r gets
b_r = ceil(b softmax(W^R)_r), of these d gets ceil(b_r softmax(W^D)_d), and so on. In the authors' code the outputs of
a group use the same examples; here each objective draws its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

STAGE_ORDER = ("representation", "data", "transform")


def conditional_shares(primitives: Mapping[str, Tensor], logits: Mapping[str, Tensor]) -> list[Tensor]:
    """Returns for each stage of STAGE_ORDER the share (n,) of each objective's primitive among its siblings.

    `primitives` has the number (n,) of each objective's primitive by stage, `logits` the logit of each primitive.
    """
    shares = []
    parent = torch.zeros_like(primitives[STAGE_ORDER[0]])  # the group of each objective in the stages above
    for stage in STAGE_ORDER:
        count = len(logits[stage])
        groups, group_of_objective = (parent * count + primitives[stage]).unique(return_inverse=True)
        parent_of_group, logit = groups // count, logits[stage][groups % count]
        zeros = logit.new_zeros(int(parent_of_group.max()) + 1)
        largest = zeros.scatter_reduce(0, parent_of_group, logit.detach(), "amax", include_self=False)
        power = (logit - largest[parent_of_group]).exp()
        share = power / zeros.index_add(0, parent_of_group, power)[parent_of_group]
        shares.append(share[group_of_objective])
        parent = group_of_objective
    return shares


def split_batch(shares: list[Tensor], total: float) -> list[int]:
    """Returns how many of `total` examples each objective gets, rounded up at each stage."""
    counts = []
    for objective_shares in torch.stack(shares, dim=1).tolist():
        remaining = total
        for share in objective_shares:
            remaining = math.ceil(remaining * share - 1e-9)
        counts.append(int(remaining))
    return counts
