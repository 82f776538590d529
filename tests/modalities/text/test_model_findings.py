"""What the files of a text encoder say of it, compared with what the encoder does."""

from pathlib import Path

import pytest
import torch
from helpers import broken_models
from transformers import AutoConfig, AutoModel

from raysearch.modalities.text.model_findings import (
    LONGEST_TEXT,
    declared_config_findings,
    encoder_findings,
    token_ids,
    usable_positions,
)
from raysearch.modalities.text.tokenizer import MAX_TOKENS

KINDS = ["bert", "distilbert", "electra", "albert", "roberta", "xlm-roberta", "camembert", "mpnet", "mobilebert"]


def test_longest_text_is_that_of_the_tokenizer() -> None:
    assert LONGEST_TEXT == MAX_TOKENS


@pytest.mark.parametrize("kind", KINDS)
def test_usable_positions_are_those_that_the_encoder_reads(kind: str) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    sizes |= {"embedding_size": 16} if kind in ("electra", "albert") else {}
    config = AutoConfig.for_model(kind, **sizes, vocab_size=32, max_position_embeddings=12)
    model = AutoModel.from_config(config).eval()
    usable = usable_positions(config.to_dict())
    assert usable is not None
    with torch.no_grad():
        model(input_ids=torch.full((1, usable), 7))
        with pytest.raises((IndexError, RuntimeError)):
            model(input_ids=torch.full((1, usable + 1), 7))


def test_usable_positions_of_a_relative_encoder_are_unknown() -> None:
    assert usable_positions({"model_type": "modernbert", "max_position_embeddings": 8192}) is None
    assert usable_positions({"model_type": "bert"}) is None


@pytest.mark.parametrize("broken", broken_models.IN_FILES, ids=lambda make: make.__name__)
def test_encoder_findings_refuse_a_broken_folder(tmp_path: Path, broken: broken_models.Maker) -> None:
    folder = broken_models.fresh(broken, tmp_path / "model")
    refusals = [finding for finding in encoder_findings(folder, 32, "path") if finding.is_refusal]
    assert broken_models.IN_FILES[broken] in refusals[0].text
    assert "\n" not in refusals[0].text
    assert refusals[0].keys == ("path",)


@pytest.mark.parametrize("kind", ["bert", "roberta"])
def test_encoder_findings_of_a_whole_folder_are_none(tmp_path: Path, kind: str) -> None:
    broken_models.save_encoder(tmp_path / "model", kind)
    assert list(encoder_findings(tmp_path / "model", 32, "path")) == []


def test_encoder_findings_remark_on_a_pickle(tmp_path: Path) -> None:
    broken_models.pickled(tmp_path / "model")
    (finding,) = encoder_findings(tmp_path / "model", 32, "path")
    assert not finding.is_refusal
    assert "runs no code of the file" in finding.text


def test_declared_config_findings_refuse_positions_and_pad() -> None:
    config = {"model_type": "roberta", "max_position_embeddings": 32}
    (finding,) = declared_config_findings(config, 32)
    assert finding.text == "the encoder can read 31 tokens, and max_length is 32; set max_length: 31"
    assert list(declared_config_findings(config, 31)) == []
    (finding,) = declared_config_findings({"model_type": "bert", "pad_token_id": 1}, 32)
    assert finding.keys == ("config", "pad_token_id")


def test_token_ids_reads_words_and_unigrams() -> None:
    words = {"model": {"vocab": {"a": 0, "b": 1}}, "added_tokens": [{"content": "<m>", "id": 7}]}
    assert token_ids(words) == {"a": 0, "b": 1, "<m>": 7}
    assert token_ids({"model": {"vocab": [["<s>", 0.0], ["x", -1.5]]}}) == {"<s>": 0, "x": 1}
    assert token_ids({"model": {}}) is None
