import numpy as np
import pytest
import torch
from torch import Generator

from raysearch.methods.weighting.settings import DevHeadSettings
from raysearch.modalities.text.batches import TextBatchBuilder, pad_texts
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.primitives.transforms import Vocabulary
from raysearch.objectives.objective import Objective
from raysearch.rng import ShuffledRows
from raysearch.training.step.dev_head import fit, sample_rows, split_dev_rows

VOCABULARY = Vocabulary(size=100, pad=0, cls=1, sep=2, mask=3)
TEXTS = [[1, 10, 11, 12, 13, 2], [1, 20, 2], [1, 30, 31, 2], [1, 40, 41, 42, 2]]
SPLIT = TextSplit(
    offsets=np.cumsum([0] + [len(text) for text in TEXTS]).astype(np.int64),
    tokens=np.concatenate([np.array(text, dtype=np.int32) for text in TEXTS]),
    labels=np.array([0, 1, 0, 1], dtype=np.int32),
)
BATCHES = TextBatchBuilder(lambda _: SPLIT, VOCABULARY, longest=8, probability=0.5)


def test_shuffled_rows_cover_each_epoch_once_from_any_position() -> None:
    order = ShuffledRows(7, seed=3)
    whole = order.rows(0, 21).tolist()
    for start in (0, 7, 14):
        assert sorted(whole[start : start + 7]) == list(range(7))
    assert whole[:7] != whole[7:14]
    assert ShuffledRows(7, seed=3).rows(10, 6).tolist() == whole[10:16]
    assert ShuffledRows(7, seed=4).rows(0, 21).tolist() != whole


def test_padded_texts_are_truncated_before_separator() -> None:
    assert pad_texts(SPLIT, [0, 1], VOCABULARY, 4).tolist() == [[1, 10, 11, 2], [1, 20, 2, 0]]


def test_text_batch_slices_of_all_ranks_form_the_batch() -> None:
    objective = Objective(data="end_task", transform="bert", representation="random_factorized", output="denoise")
    group = BATCHES.objective_batch(objective, 10, Generator().manual_seed(0))
    slices = [group.slice(rank, 3) for rank in range(3)]
    assert sum(len(part) for part in slices) == 10
    assert sum(int(part.targets.selected.sum()) for part in slices) == group.targets.selected_total
    assert all(part.targets.selected_total == group.targets.selected_total for part in slices)
    assert torch.equal(torch.cat([part.inputs[0] for part in slices]).sort(0).values, group.inputs[0].sort(0).values)


def test_collate_keeps_masks_and_padding_attends_only_to_itself() -> None:
    long, short = (BATCHES.end_task_batch(SPLIT, torch.tensor(rows)) for rows in ([0], [1, 2]))
    tokens, visible = BATCHES.collate([short, long])
    assert tokens.shape == (3, 6)
    assert torch.equal(visible[:2, :4, :4], short.inputs[1])
    assert not visible[0, :4, 4:].any()
    assert torch.equal(visible[0, 4:, :], torch.eye(6, dtype=torch.bool)[4:])


def test_dev_head_examples_are_disjoint_from_meta_batches() -> None:
    settings = DevHeadSettings(dev_head_examples=10, meta_batch_size=8)
    fitted_on, rest = split_dev_rows(40, 9, settings)
    assert len(fitted_on) == 10
    assert sorted([*fitted_on.tolist(), *rest.tolist()]) == list(range(40))
    assert set(sample_rows(rest, 8, Generator().manual_seed(0)).tolist()) <= set(rest.tolist())
    halves = split_dev_rows(11, 9, settings)
    assert [len(half) for half in halves] == [5, 6]


def test_dev_head_fits_separable_classes_reproducibly() -> None:
    features = torch.randn(32, 16, generator=Generator().manual_seed(0))
    labels = (features[:, 0] > 0).long()
    settings = DevHeadSettings(dev_head_steps=100, dev_head_tolerance=0.0)
    head = fit(features, labels, 2, settings, Generator().manual_seed(1))
    assert (head(features).argmax(1) == labels).float().mean() > 0.95
    again = fit(features, labels, 2, settings, Generator().manual_seed(1))
    assert torch.equal(head(features), again(features))


@pytest.mark.parametrize("tolerance", [0.0, 1e9])
def test_dev_head_stops_when_loss_stops_improving(tolerance: float) -> None:
    features, labels = torch.ones(4, 3), torch.tensor([0, 1, 0, 1])
    before = fit(
        features, labels, 2, DevHeadSettings(dev_head_steps=1, dev_head_tolerance=0.0), Generator().manual_seed(1)
    )
    settings = DevHeadSettings(dev_head_steps=50, dev_head_tolerance=tolerance)
    after = fit(features, labels, 2, settings, Generator().manual_seed(1))
    assert torch.equal(before(features), after(features)) == (tolerance > 0)
