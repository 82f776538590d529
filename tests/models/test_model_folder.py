"""What a model's files say of it."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from raysearch.models.model_folder import config_findings, read_header, weight_findings


@pytest.mark.parametrize(
    ("config", "fits"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, "heads that fit: 2, 3, 5"),
        ({"dim": 16, "n_heads": 5}, "dim 16 is not divisible by n_heads 5"),
        ({"hidden_size": 16, "num_attention_heads": 0}, "num_attention_heads 0"),
    ],
)
def test_config_findings_name_heads_that_fit(config: dict[str, int], fits: str) -> None:
    (finding,) = config_findings(config)
    assert finding.is_refusal
    assert fits in finding.text


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"hidden_size": 384, "num_attention_heads": 12},
        {"hidden_size": 30, "num_attention_heads": 4, "head_dim": 8},
        {"hidden_size": [8, 16], "num_attention_heads": [1, 2]},
    ],
)
def test_config_findings_of_a_possible_config_are_none(config: dict[str, object]) -> None:
    assert list(config_findings(config)) == []


def test_read_header_agrees_with_the_writer(tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors"
    tensors = {"a": torch.zeros(3, 2), "b": torch.zeros(5, dtype=torch.float16)}
    save_file(tensors, file, {"format": "pt"})
    header = read_header(file)
    assert header is not None
    size, entries = header
    assert size == 3 * 2 * 4 + 5 * 2
    assert {name: tuple(entry["shape"]) for name, entry in entries.items()} == {"a": (3, 2), "b": (5,)}
    assert list(weight_findings(tmp_path)) == []


@pytest.mark.parametrize(
    "content", [b"", b"1234567", b"\xff" * 64, b"\x02" + b"\0" * 7 + b"[]", b"\x04" + b"\0" * 7 + b'{"a"']
)
def test_read_header_of_other_bytes_is_none(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "model.safetensors"
    file.write_bytes(content)
    assert read_header(file) is None
    (finding,) = weight_findings(tmp_path)
    assert "is damaged" in finding.text


def test_weight_findings_of_shards_follow_the_index(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(2)}, tmp_path / "one.safetensors")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "one.safetensors"}}))
    assert list(weight_findings(tmp_path)) == []
    (tmp_path / "one.safetensors").unlink()
    (finding,) = weight_findings(tmp_path)
    assert finding.text.startswith(f"{tmp_path / 'one.safetensors'} is missing")
