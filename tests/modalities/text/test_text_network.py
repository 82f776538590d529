from dataclasses import replace
from pathlib import Path

import pytest
import torch
from helpers.plans import OBJECTIVES, tiny_plan
from torch import Generator
from transformers import AutoModelForSequenceClassification

from raysearch.modalities.text.network import TextNetwork
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.plan import TrialPlan

REPRESENTATIONS = TAXONOMY.functions("representation")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
ROBERTA = SIZES | {"max_position_embeddings": 66}
ENCODERS = {
    "bert": SIZES,
    "roberta": ROBERTA,
    "electra": SIZES | {"embedding_size": 32},
    "mpnet": ROBERTA,
    "distilbert": {"dim": 32, "n_layers": 2, "n_heads": 2, "hidden_dim": 64},
    "modernbert": SIZES | dict.fromkeys(("bos_token_id", "eos_token_id", "cls_token_id"), 0),
}


def plan(model_type: str = "bert", **fields: object) -> TrialPlan:
    config = {"model_type": model_type, **ENCODERS.get(model_type, SIZES), **fields}
    return replace(tiny_plan(Path()), model={"config": config})


def network(model_type: str = "bert") -> TextNetwork:
    torch.manual_seed(0)
    return TextNetwork(plan(model_type), classes=3, vocabulary_size=50).eval()


@pytest.mark.parametrize("model_type", ENCODERS)
def test_text_body_and_head_logits_equal_exported_model(model_type: str, tmp_path: Path) -> None:
    text_network = network(model_type)
    tokens = torch.randint(4, 50, (2, 8), generator=Generator().manual_seed(0))
    real = torch.ones(2, 8, dtype=torch.bool)
    real[1, 5:] = False
    visible = REPRESENTATIONS["bidirectional"](real, Generator())
    logits = text_network.end_task(text_network.hidden(tokens, visible))
    text_network.merged().save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(input_ids=tokens, attention_mask=real.long()).logits, logits)


@pytest.mark.parametrize("model_type", ["roberta", "mpnet"])
def test_exported_positions_ignore_the_length_of_padding(model_type: str, tmp_path: Path) -> None:
    text_network = network(model_type)
    assert text_network.config.pad_token_id == 0  # that of the tokenizer which is made of the texts
    tokens, padded = torch.randint(1, 50, (1, 5), generator=Generator().manual_seed(0)), torch.zeros(1, 9).long()
    padded[:, :5] = tokens
    model = text_network.merged()
    model.config.pad_token_id = 0  # as an export sets it
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    visible = torch.ones(1, 5, 5, dtype=torch.bool)
    expected = text_network.end_task(text_network.hidden(tokens, visible))
    logits = loaded(input_ids=padded, attention_mask=(padded != 0).long()).logits
    torch.testing.assert_close(logits, expected)


@pytest.mark.parametrize("model_type", ["albert", "deberta-v2"])
def test_unsupported_encoder_is_rejected(model_type: str) -> None:
    with pytest.raises(ValueError, match=f"model_type '{model_type}'.* cannot be used"):
        TextNetwork(plan(model_type, embedding_size=32), classes=3, vocabulary_size=50)


def test_left_to_right_positions_ignore_later_tokens() -> None:
    body = network()
    tokens = torch.randint(4, 50, (1, 8), generator=Generator().manual_seed(0))
    changed = tokens.clone()
    changed[0, 5:] = 7
    visible = REPRESENTATIONS["left_to_right"](torch.ones(1, 8, dtype=torch.bool), Generator())
    before, after = body.hidden(tokens, visible), body.hidden(changed, visible)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert (before[:, 5:] - after[:, 5:]).abs().max() > 1e-3


def test_joint_forward_of_masks_equals_separate_forwards() -> None:
    body = network()
    tokens = torch.randint(4, 50, (3, 8), generator=Generator().manual_seed(0))
    real = torch.ones(1, 8, dtype=torch.bool)
    masks = [REPRESENTATIONS[n](real, Generator()) for n in ("bidirectional", "left_to_right", "right_to_left")]
    together = body.hidden(tokens, torch.cat(masks))
    for i, visible in enumerate(masks):
        torch.testing.assert_close(together[i : i + 1], body.hidden(tokens[i : i + 1], visible))


def test_embedding_noise_is_local_and_independent_of_batching() -> None:
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


def test_denoising_heads_share_only_the_embeddings() -> None:
    text_network = network()
    embedding = text_network.body.get_input_embeddings().weight
    first, second = text_network.heads[0], text_network.heads[1]
    for head in (first, second):
        assert head.head.model.get_output_embeddings().weight is embedding
    unshared = [{id(p) for p in head.parameters()} - {id(embedding)} for head in (first, second)]
    assert unshared[0]
    assert not unshared[0] & unshared[1]


def test_body_and_heads_partition_the_parameters() -> None:
    text_network = network()
    body, heads = text_network.body_parameters(), text_network.head_parameters()
    assert len({id(p) for p in body + heads}) == len(body) + len(heads) == len(list(text_network.parameters()))
    assert len(text_network.heads) == len(OBJECTIVES)


def with_layers(declared: TrialPlan, count: int) -> TrialPlan:
    return replace(declared, settings={**declared.settings, "encoder_layers": count})


@pytest.mark.parametrize("by", ["model", "setting"])
def test_pretrained_model_is_truncated_to_first_layers(tmp_path: Path, by: str) -> None:
    whole = network()
    whole.merged().save_pretrained(tmp_path)
    declared = with_layers(plan(), 1 if by == "setting" else 0)
    model = {"path": str(tmp_path)} | ({"layers": 1} if by == "model" else {})
    loaded = TextNetwork(replace(declared, model=model), classes=3, vocabulary_size=50)
    assert loaded.config.num_hidden_layers == 1
    loaded_parameters = dict(loaded.body.named_parameters())
    for name, parameter in whole.body.named_parameters():
        assert name not in loaded_parameters or torch.equal(loaded_parameters[name], parameter)
    assert len(loaded_parameters) < len(list(whole.body.parameters()))


def test_encoder_layers_apply_to_random_encoders_and_are_bounded() -> None:
    assert TextNetwork(with_layers(plan(), 1), classes=3, vocabulary_size=50).config.num_hidden_layers == 1
    with pytest.raises(ValueError, match="encoder_layers 99: the encoder has 2 layers"):
        TextNetwork(with_layers(plan(), 99), classes=3, vocabulary_size=50)
