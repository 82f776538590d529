import pytest
import torch
from torch import Generator

from raysearch.primitives.data import DATA
from raysearch.primitives.output import OUTPUTS
from raysearch.primitives.representation import KEEP, REPRESENTATIONS
from raysearch.primitives.transform import TRANSFORMS, Vocabulary, select
from raysearch.space import KINDS, STAGES

VOCABULARY = Vocabulary(size=1000, pad=0, cls=1, sep=2, mask=3)
MASK_TABLES = {  # three tokens and a pad; rows are queries
    "bidirectional": [[1, 1, 1, 0]] * 4,
    "left_to_right": [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 0]],
    "right_to_left": [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0], [0, 0, 0, 1]],
}


def many_tokens(rows: int = 200, length: int = 60) -> torch.Tensor:
    tokens = torch.randint(4, VOCABULARY.size, (rows, length), generator=Generator().manual_seed(1))
    tokens[:, 0], tokens[:, -10], tokens[:, -9:] = VOCABULARY.cls, VOCABULARY.sep, VOCABULARY.pad
    return tokens


def test_every_declared_primitive_is_implemented_and_no_other() -> None:
    built = {"data": DATA, "transform": TRANSFORMS, "representation": REPRESENTATIONS}
    assert {stage: set(STAGES[stage]) for stage in built} == {stage: set(names) for stage, names in built.items()}
    assert set().union(*(stages["output"] for stages in KINDS.values())) == set(OUTPUTS)


@pytest.mark.parametrize("name", MASK_TABLES)
def test_masks_are_the_tables_of_the_paper_and_never_show_padding(name: str) -> None:
    real = torch.tensor([[True, True, True, False]])
    visible = REPRESENTATIONS[name](real, Generator())
    assert visible[0].int().tolist() == MASK_TABLES[name]


def test_random_factorized_keeps_six_tenths_of_the_others_alike_in_all_rows_of_a_batch() -> None:
    real = torch.ones(3, 100, dtype=torch.bool)
    visible = REPRESENTATIONS["random_factorized"](real, Generator().manual_seed(0))
    off_diagonal = ~torch.eye(100, dtype=torch.bool)
    assert (visible[0] == visible[1]).all()
    assert (visible[0] == visible[2]).all()
    assert not visible[0].diagonal().any()
    assert visible[0][off_diagonal].float().mean().item() == pytest.approx(KEEP, abs=0.02)


@pytest.mark.parametrize("name", REPRESENTATIONS)
def test_every_position_sees_something_even_in_the_shortest_text(name: str) -> None:
    real = torch.tensor([[True, False, False], [True, True, False]])
    assert REPRESENTATIONS[name](real, Generator().manual_seed(0)).any(-1).all()


def test_selection_takes_its_share_of_ordinary_tokens_and_no_special_one() -> None:
    tokens = many_tokens()
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))
    ordinary = tokens > 3
    assert not selected[~ordinary].any()
    assert selected[ordinary].float().mean().item() == pytest.approx(0.15, abs=0.01)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_transform_changes_selected_positions_alone_and_leaves_its_input(name: str) -> None:
    tokens = many_tokens()
    before = tokens.clone()
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))
    changed = TRANSFORMS[name](tokens, selected, VOCABULARY, Generator().manual_seed(3))
    assert (tokens == before).all()
    assert (changed[~selected] == tokens[~selected]).all()


def test_shares_of_mask_random_and_kept_are_the_papers() -> None:
    tokens = many_tokens(rows=2000)
    selected = select(tokens, 0.15, VOCABULARY, Generator().manual_seed(2))

    def shares(name: str) -> tuple[float, float]:
        changed = TRANSFORMS[name](tokens, selected, VOCABULARY, Generator().manual_seed(3))[selected]
        kept = (changed == tokens[selected]).float().mean().item()
        return (changed == VOCABULARY.mask).float().mean().item(), kept

    assert shares("none") == (0.0, 1.0)
    assert shares("mask") == (1.0, 0.0)
    assert shares("replace") == pytest.approx((0.001, 0.001), abs=0.003)
    assert shares("bert") == pytest.approx((0.8, 0.1), abs=0.01)
