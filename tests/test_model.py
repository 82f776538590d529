from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import OBJECTIVES, tiny_plan
from torch import Generator
from transformers import AutoModelForSequenceClassification

from raysearch.modalities.text.attention_masks import REPRESENTATIONS
from raysearch.modalities.text.network import TextNetwork
from raysearch.plan import TrialPlan

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ROBERTA = SIZES | {"max_position_embeddings": 66, "pad_token_id": 0}
ENCODERS = {
    "bert": SIZES,
    "roberta": ROBERTA,
    "electra": SIZES | {"embedding_size": 32},
    "mpnet": ROBERTA,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": SIZES | dict.fromkeys(("pad_token_id", "bos_token_id", "eos_token_id", "cls_token_id"), 0),
}


def plan(model_type: str = "bert", **fields: object) -> TrialPlan:
    config = {"model_type": model_type, **ENCODERS.get(model_type, SIZES), **fields}
    return replace(tiny_plan(Path()), model={"config": config})


def network(model_type: str = "bert") -> TextNetwork:
    torch.manual_seed(0)
    return TextNetwork(plan(model_type), classes=3, vocabulary_size=50).eval()


@pytest.mark.parametrize("model_type", ENCODERS)
def test_body_and_head_apart_give_the_logits_of_the_exported_model(model_type: str, tmp_path: Path) -> None:
    parted = network(model_type)
    tokens = torch.randint(4, 50, (2, 8), generator=Generator().manual_seed(0))
    real = torch.ones(2, 8, dtype=torch.bool)
    real[1, 5:] = False
    visible = REPRESENTATIONS["bidirectional"](real, Generator())
    logits = parted.end_task(parted.hidden(tokens, visible))
    parted.classifier().save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(input_ids=tokens, attention_mask=real.long()).logits, logits)


@pytest.mark.parametrize("model_type", ["albert", "deberta-v2"])
def test_an_encoder_that_would_be_trained_wrongly_is_refused(model_type: str) -> None:
    with pytest.raises(ValueError, match=f"model_type '{model_type}'.* cannot be used"):
        TextNetwork(plan(model_type, embedding_size=32), classes=3, vocabulary_size=50)


def test_a_position_under_left_to_right_does_not_depend_on_what_follows() -> None:
    body = network()
    tokens = torch.randint(4, 50, (1, 8), generator=Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5:] = 7
    visible = REPRESENTATIONS["left_to_right"](torch.ones(1, 8, dtype=torch.bool), Generator())
    before, after = body.hidden(tokens, visible), body.hidden(changed, visible)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


def test_one_forward_for_many_masks_is_each_of_them_alone() -> None:
    body = network()
    tokens = torch.randint(4, 50, (3, 8), generator=Generator().manual_seed(0))
    real = torch.ones(1, 8, dtype=torch.bool)
    masks = [REPRESENTATIONS[n](real, Generator()) for n in ("bidirectional", "left_to_right", "right_to_left")]
    together = body.hidden(tokens, torch.cat(masks))
    for i, visible in enumerate(masks):
        torch.testing.assert_close(together[i : i + 1], body.hidden(tokens[i : i + 1], visible))


def test_noise_is_on_the_embeddings_that_are_named_and_a_rows_own_however_rows_are_put_together() -> None:
    body = network()
    tokens = torch.randint(4, 50, (3, 8), generator=Generator().manual_seed(0))
    visible = torch.eye(8, dtype=torch.bool).expand(3, 8, 8)  # each position sees itself alone
    noise = torch.zeros(3, 8, dtype=torch.long)
    noise[0, 2], noise[2, 5] = 11, 12
    plain, noised = body.hidden(tokens, visible), body.hidden(tokens, visible, noise)
    assert torch.equal((plain != noised).any(-1), noise != 0)
    for rows in (slice(0, 1), slice(1, 3)):
        alone = body.hidden(tokens[rows], visible[rows], noise[rows])
        torch.testing.assert_close(alone, noised[rows])
    torch.testing.assert_close(body.hidden(tokens, visible), plain)


def test_denoising_heads_share_the_embeddings_and_nothing_else() -> None:
    parted = network()
    embedding = parted.body.get_input_embeddings().weight
    first, second = parted.heads[0], parted.heads[1]
    for head in (first, second):
        assert head.head.model.get_output_embeddings().weight is embedding
    own = [{id(p) for p in head.parameters()} - {id(embedding)} for head in (first, second)]
    assert own[0]
    assert not own[0] & own[1]


def test_body_and_heads_part_the_parameters() -> None:
    parted = network()
    body, heads = parted.body_parameters(), parted.head_parameters()
    assert len({id(p) for p in body + heads}) == len(body) + len(heads) == len(list(parted.parameters()))
    assert len(parted.heads) == len(OBJECTIVES)


def test_a_pretrained_model_is_read_and_cut_to_its_first_layers(tmp_path: Path) -> None:
    whole = network()
    whole.classifier().save_pretrained(tmp_path)
    loaded = TextNetwork(replace(plan(), model={"path": str(tmp_path), "layers": 1}), classes=3, vocabulary_size=50)
    assert loaded.config.num_hidden_layers == 1
    kept = dict(loaded.body.named_parameters())
    for name, parameter in whole.body.named_parameters():
        assert name not in kept or torch.equal(kept[name], parameter)
    assert len(kept) < len(list(whole.body.parameters()))
