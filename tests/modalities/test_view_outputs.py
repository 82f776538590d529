"""Outputs that compare, against values done by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from raysearch.modalities import view_outputs as outputs
from raysearch.modalities.batch import Targets, TaskBatch
from raysearch.modalities.guessing import draw_label_pairs


class Head(nn.Module):
    """The first two numbers of the state at position 0 are the logits, and all of them the vector."""

    def forward(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is None
        return hidden[:, 0, :2]

    def vectors(self, hidden: Tensor, real: Tensor | None = None) -> Tensor:
        assert real is None
        return hidden[:, 0]


def targets(rows: int, **fields: Tensor) -> Targets:
    nothing = torch.zeros(rows, 1, dtype=torch.bool)
    labels = fields.pop("labels", torch.empty(0, dtype=torch.long))
    return Targets(nothing, nothing, labels, 0, rows, **fields)


def test_pseudo_label_counts_trusted_guesses_only() -> None:
    hidden = torch.tensor([[[math.log(3.0), 0.0]], [[0.0, 5.0]]])
    guesses = torch.tensor([[0.9, 0.1], [1.0, 0.0]])
    loss = outputs.pseudo_label(hidden, targets(2, guesses=guesses, trust=torch.tensor([1.0, 0.0])), Head())
    assert loss.item() == pytest.approx(-math.log(0.75) / 2)


def test_soft_label_is_zero_where_network_is_teacher() -> None:
    hidden = torch.randn(5, 1, 2, generator=torch.Generator().manual_seed(0))
    same = targets(5, guesses=hidden[:, 0].softmax(dim=1), trust=torch.ones(5))
    assert outputs.soft_label(hidden, same, Head()).item() == pytest.approx(0, abs=1e-6)
    sure = targets(1, guesses=torch.tensor([[1.0, 0.0]]), trust=torch.ones(1))
    assert outputs.soft_label(torch.zeros(1, 1, 2), sure, Head()).item() == pytest.approx(math.log(2))


def test_agree_is_symmetric_divergence_of_pairs() -> None:
    p, q = torch.tensor([0.8, 0.2]), torch.tensor([0.5, 0.5])
    hidden = torch.stack([p.log(), q.log()])[:, None]
    expected = ((p * (p / q).log()).sum() + (q * (q / p).log()).sum()) / 2
    one = Targets(*(torch.zeros(2, 1, dtype=torch.bool),) * 2, torch.empty(0), 0, 1)
    assert outputs.agree(hidden, one, Head()).item() == pytest.approx(expected.item(), rel=1e-5)
    assert outputs.agree(hidden.flip(0), one, Head()).item() == pytest.approx(expected.item(), rel=1e-5)


def test_same_text_of_equal_vectors_is_log_of_batch() -> None:
    hidden = torch.ones(8, 1, 3)
    four = Targets(*(torch.zeros(8, 1, dtype=torch.bool),) * 2, torch.empty(0), 0, 4)
    assert outputs.same_text(hidden, four, Head()).item() == pytest.approx(math.log(4))


def test_same_label_of_separate_labels_is_near_zero() -> None:
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])[:, None]
    right = outputs.same_label(vectors, targets(4, labels=torch.tensor([0, 0, 1, 1])), Head())
    wrong = outputs.same_label(vectors, targets(4, labels=torch.tensor([0, 1, 0, 1])), Head())
    assert right.item() == pytest.approx(math.log(1 + 2 * math.exp(-10)), rel=1e-3)
    assert wrong.item() == pytest.approx(10 + math.log(1 + 2 * math.exp(-10)), rel=1e-3)


def test_same_label_without_partners_is_zero_with_gradient() -> None:
    vectors = torch.randn(2, 1, 2, requires_grad=True)
    loss = outputs.same_label(vectors, targets(2, labels=torch.tensor([0, 1])), Head())
    (gradient,) = torch.autograd.grad(loss, vectors)
    assert loss.item() == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_anchor_is_zero_at_the_anchor_whatever_its_length() -> None:
    vectors = torch.tensor([[[3.0, 4.0]], [[1.0, 0.0]]])
    anchored = targets(2, anchors=torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert outputs.anchor(vectors, anchored, Head()).item() == pytest.approx(0.5)


def test_task_batch_slice_keeps_groups_together() -> None:
    rows = torch.arange(12)
    part = TaskBatch((rows,), targets(12, guesses=rows[:, None].float()), group=2).slice(1, 3)
    assert part.inputs[0].tolist() == [2, 3, 8, 9]
    assert part.targets.guesses is not None
    assert part.targets.guesses[:, 0].tolist() == [2, 3, 8, 9]
    whole = TaskBatch((rows,), targets(12), group=12)
    assert [len(whole.slice(rank, 2)) for rank in range(2)] == [12, 0]


def test_draw_label_pairs_pairs_differ_and_share_a_label() -> None:
    labels = torch.tensor([0, 0, 0, 1, 1, 2])
    rows = draw_label_pairs(labels, 6, torch.Generator().manual_seed(0)).view(-1, 2)
    assert (labels[rows[:, 0]] == labels[rows[:, 1]]).all()
    assert sorted(labels[rows[:, 0]].tolist()) == [0, 1, 2]
    assert all(a != b for a, b in rows.tolist() if labels[a] != 2)
