import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Generator

from raysearch.modalities.batch import Targets, TaskBatch
from raysearch.modalities.text.batches import TextBatchBuilder
from raysearch.modalities.text.dataset import TextSplit
from raysearch.modalities.text.primitives.attention_masks import KEEP
from raysearch.modalities.text.primitives.outputs import following, real_synthetic, tf
from raysearch.modalities.text.primitives.token_statistics import token_statistics
from raysearch.modalities.text.primitives.transforms import GONE, Vocabulary, make_view, select
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES

TRANSFORMS, REPRESENTATIONS = TAXONOMY.functions("transform"), TAXONOMY.functions("representation")
VOCABULARY = Vocabulary(size=1000, pad=0, cls=1, sep=2, mask=3)
EXPECTED_MASKS = {  # three tokens and a pad; rows are queries
    "bidirectional": [[1, 1, 1, 0]] * 4,
    "left_to_right": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]],
    "right_to_left": [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


def random_tokens(rows: int = 200, length: int = 60) -> torch.Tensor:
    tokens = torch.randint(4, VOCABULARY.size, (rows, length), generator=Generator().manual_seed(1))
    tokens[:, 0], tokens[:, -10], tokens[:, -9:] = VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.pad
    return tokens


@pytest.mark.parametrize("name", EXPECTED_MASKS)
def test_attention_masks_match_the_paper_and_hide_padding(name: str) -> None:
    real = torch.tensor([[True, True, True, False]])
    visible = REPRESENTATIONS[name](real, Generator())
    assert visible[0].int().tolist() == EXPECTED_MASKS[name]


def test_random_factorized_keeps_60_percent_in_every_example() -> None:
    real = torch.ones(3, 100, dtype=torch.bool)
    visible = REPRESENTATIONS["random_factorized"](real, Generator().manual_seed(0))
    off_diagonal = ~torch.eye(100, dtype=torch.bool)
    assert (visible[0] == visible[1]).all()
    assert (visible[0] == visible[2]).all()
    assert not visible[0].diagonal().any()
    assert visible[0][off_diagonal].float().mean().item() == pytest.approx(KEEP, abs=0.02)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_attention_mask_leaves_no_position_fully_masked(name: str) -> None:
    real = torch.tensor([[True, False, False], [True, True, False]])
    assert REPRESENTATIONS[name](real, Generator().manual_seed(0)).any(-1).all()


def test_token_selection_has_its_share_and_no_special_token() -> None:
    tokens = random_tokens()
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))
    ordinary = tokens > 3
    assert not selected[~ordinary].any()
    assert selected[ordinary].float().mean().item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transform_changes_only_selected_tokens_of_a_copy(name: str) -> None:
    tokens = random_tokens()
    before = tokens.clone()
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))
    changed = TRANSFORMS[name](tokens, selected, VOCABULARY, Generator().manual_seed(3))
    assert (tokens == before).all()
    assert (changed[~selected] == tokens[~selected]).all()


def test_transform_rates_of_mask_random_keep_match_the_paper() -> None:
    tokens = random_tokens(rows=2000)
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))

    def shares(name: str) -> tuple[float, float]:
        changed = TRANSFORMS[name](tokens, selected, VOCABULARY, Generator().manual_seed(3))[selected]
        unchanged = (changed == tokens[selected]).float().mean().item()
        return (changed == VOCABULARY.mask).float().mean().item(), unchanged

    assert shares("none") == (0.0, 1.0)
    assert shares("mask") == (1.0, 0.0)
    assert shares("replace") == pytest.approx((0.001, 0.001), abs=0.003)
    assert shares("bert") == pytest.approx((0.8, 0.1), abs=0.01)


# ---- what an objective asks for ----

TEXTS = [[1, 10, 11, 10, 2], [1, 20, 11, 2]]
TAGS = [[-1, 0, 1, -1, -1], [-1, 1, 0, -1]]
SPLIT_WITH_TAGS = TextSplit(
    offsets=np.array([0, 5, 9]),
    tokens=np.concatenate([np.array(text, dtype=np.int32) for text in TEXTS]),
    labels=np.array([0, 1], dtype=np.int32),
    tags=np.concatenate([np.array(tags, dtype=np.int32) for tags in TAGS]),
)
SPLIT_WITHOUT_TAGS = replace(SPLIT_WITH_TAGS, tags=None)


def task_batch(
    name: str, split: TextSplit = SPLIT_WITHOUT_TAGS, probability: float = 0.5, count: int = 20
) -> TaskBatch:
    objective = Objective(**dict(zip(STAGES, name.split("/"), strict=True)))
    batches = TextBatchBuilder(lambda _: split, VOCABULARY, 8, probability)
    return batches.objective_batch(objective, count, Generator().manual_seed(0))


def test_permutation_mask_shows_earlier_tokens_in_random_order() -> None:
    real = torch.ones(50, 6, dtype=torch.bool)
    real[:, 5] = False
    visible = REPRESENTATIONS["permutation"](real, Generator().manual_seed(0))
    counts = visible[:, :5, :5].sum(-1)
    assert (counts.sort(dim=1).values == torch.arange(1, 6)).all()  # one sees itself alone, one sees all
    assert visible[:, range(6), range(6)].all()
    assert not visible[:, :5, 5].any()
    assert len({tuple(row.flatten().tolist()) for row in visible}) > 40
    transitive = (visible.float() @ visible.float()) > 0
    assert (transitive == visible).all()  # what one sees has seen nothing that one does not see


def test_delete_closes_gaps_and_predicts_at_the_token_before() -> None:
    tokens = torch.tensor([[1, 10, 11, 12, 13, 2, 0], [1, 20, 21, 2, 0, 0, 0]])
    selected = torch.tensor([[0, 0, 1, 1, 0, 0, 0], [0, 1, 0, 0, 0, 0, 0]]).bool()
    changed = TRANSFORMS["delete"](tokens, selected, VOCABULARY, Generator())
    assert (changed[selected] == GONE).all()
    view = make_view(tokens, selected, changed, VOCABULARY)
    assert view.tokens.tolist() == [[1, 10, 13, 2, 0, 0, 0], [1, 21, 2, 0, 0, 0, 0]]
    assert view.selected.tolist() == view.changed.tolist()
    assert view.selected.int().tolist() == [[0, 1, 0, 0, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert view.at_targets(tokens)[view.selected].tolist() == [11, 20]
    assert (view.real == (view.tokens != VOCABULARY.pad)).all()


def test_transform_view_without_deletions_is_unchanged() -> None:
    tokens = random_tokens()
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))
    changed = TRANSFORMS["replace"](tokens, selected, VOCABULARY, Generator().manual_seed(3))
    view = make_view(tokens, selected, changed, VOCABULARY)
    assert torch.equal(view.tokens, changed)
    assert torch.equal(view.at_targets(tokens), tokens)
    assert torch.equal(view.selected, selected)
    assert torch.equal(view.changed, changed != tokens)


def test_noisy_embeds_marks_selected_tokens_and_keeps_them() -> None:
    made = task_batch("end_task/noisy_embeds/bidirectional/denoise")
    tokens, _, noise = made.inputs
    assert torch.equal(tokens, made.targets.original)
    assert torch.equal(noise != 0, made.targets.selected)
    assert all(len(set(row[row != 0].tolist())) <= 1 for row in noise)
    plain, *_ = task_batch("end_task/none/bidirectional/denoise").inputs, None
    assert len(plain) == 2


def test_next_token_targets_follow_direction_and_skip_padding() -> None:
    right = task_batch("end_task/none/left_to_right/next_token")
    left = task_batch("end_task/none/right_to_left/next_token")
    for row, text in enumerate(right.inputs[0].tolist()):
        length = len([token for token in text if token])
        assert right.targets.original[row, : length - 1].tolist() == text[1:length]
        assert right.targets.selected[row].tolist() == [i < length - 1 for i in range(len(text))]
    for row, text in enumerate(left.inputs[0].tolist()):
        length = len([token for token in text if token])
        assert left.targets.original[row, 1:length].tolist() == text[: length - 1]
        assert left.targets.selected[row].tolist() == [0 < i < length for i in range(len(text))]
    assert right.targets.selected_total == int(right.targets.selected.sum())


@pytest.mark.parametrize("representation", ["left_to_right", "permutation", "bidirectional"])
def test_next_token_targets_are_never_visible(representation: str) -> None:
    tokens = random_tokens(rows=8, length=30)
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    view = make_view(tokens, nothing, tokens, VOCABULARY)
    visible = REPRESENTATIONS[representation](view.real, Generator().manual_seed(0))
    _, positions = following(view, visible, VOCABULARY, 1)
    assert not (positions[:, :-1] & visible.diagonal(1, 1, 2)).any()
    shares = {"left_to_right": 1.0, "permutation": 0.5, "bidirectional": 0.0}
    assert positions.sum().item() / (8 * 20) == pytest.approx(shares[representation], abs=0.1)


def test_token_statistics_match_tf_and_tfidf_by_hand() -> None:
    statistics = token_statistics(SPLIT_WITHOUT_TAGS, VOCABULARY)
    tf = np.array([2 / 3, 1 / 3, 2 / 3, 1 / 2, 1 / 2])  # 10 11 10 | 20 11
    once, both = math.log(3 / 2) + 1, math.log(3 / 3) + 1  # in one of the two texts, in both
    tfidf = tf * np.array([once, both, once, once, both])
    ordinary = [1, 2, 3, 6, 7]
    for name, values in (("tf", tf), ("tfidf", tfidf)):
        assert statistics[name][ordinary] == pytest.approx((values - values.mean()) / values.std(), abs=1e-6)
        assert statistics[name][[0, 4, 5, 8]].tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize("transform", ["mask", "delete"])
def test_tfidf_targets_are_at_the_selected_tokens(transform: str) -> None:
    whole = task_batch(f"end_task/{transform}/bidirectional/tfidf")
    denoise = task_batch(f"end_task/{transform}/bidirectional/denoise").targets
    assert torch.equal(whole.targets.selected, denoise.selected)
    values = {}
    for text, begin in ((0, 0), (1, 5)):
        for i, token in enumerate(TEXTS[text]):
            values[text, token] = token_statistics(SPLIT_WITHOUT_TAGS, VOCABULARY)["tfidf"][begin + i]
    for row, at in denoise.selected.nonzero().tolist():
        token, value = int(denoise.original[row, at]), float(whole.targets.original[row, at])
        assert value in {values.get((0, token)), values.get((1, token))}


def test_real_synthetic_targets_mark_the_replaced_tokens() -> None:
    made = task_batch("end_task/replace/bidirectional/real_synthetic")
    plain = task_batch("end_task/replace/bidirectional/denoise")
    tokens = plain.inputs[0]
    assert torch.equal(made.inputs[0], tokens)
    assert torch.equal(made.targets.original.bool(), tokens != plain.targets.original)
    assert torch.equal(made.targets.selected, plain.targets.original != VOCABULARY.pad)


@pytest.mark.parametrize("transform", ["none", "delete"])
def test_extra_label_targets_are_at_the_tagged_tokens(transform: str) -> None:
    made = task_batch(f"extra_ner/{transform}/bidirectional/extra_label", replace(SPLIT_WITH_TAGS, labels=None))
    known = {(1, 10): 0, (1, 20): 1}
    tokens, targets = made.inputs[0], made.targets
    assert len(targets.labels) == 0
    for row, at in targets.selected.nonzero().tolist():
        before = (1, int(tokens[row, at])) if at == 1 else None
        assert int(targets.original[row, at]) == known.get(before, int(targets.original[row, at]))
    assert not targets.selected[:, 0].any()
    if transform == "none":
        assert targets.selected[:, 1:3].all()
        assert not targets.selected[:, 3:].any()


def constant_head(values: list[float]) -> torch.nn.Module:
    """A head that says these numbers, whatever it is given."""

    class ConstantHead(torch.nn.Module):
        def forward(self, hidden: torch.Tensor) -> torch.Tensor:
            return torch.tensor(values)[: len(hidden), None]

    return ConstantHead()


def test_number_losses_match_values_by_hand() -> None:
    hidden = torch.zeros(1, 3, 4)
    selected = torch.tensor([[True, True, False]])
    targets = Targets(torch.tensor([[1.0, -1.0, 9.0]]), selected, torch.empty(0), 2, 1)
    assert tf(hidden, targets, constant_head([0.0, 2.0])).item() == pytest.approx((1 + 9) / 2)
    detection = replace(targets, original=torch.tensor([[1, 0, 1]]))
    expected = (math.log(1 + math.exp(-1.5)) + math.log(1 + math.exp(-0.5))) / 2
    assert real_synthetic(hidden, detection, constant_head([1.5, -0.5])).item() == pytest.approx(expected)


def test_label_output_without_labels_raises() -> None:
    with pytest.raises(ValueError, match="end_task/none/bidirectional/end_task: its data has no labels"):
        task_batch("end_task/none/bidirectional/end_task", replace(SPLIT_WITHOUT_TAGS, labels=None))
