from collections.abc import Callable

import pytest
import torch
from torch import nn
from transformers import AutoConfig, AutoModel

from raysearch.models.layers import distances_from_top, layer_list, reinitialise_top

SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "intermediate_size": 64,
    "vocab_size": 60,
    "pad_token_id": 0,
}


def encoder(model_type: str = "bert") -> nn.Module:
    torch.manual_seed(0)
    model: nn.Module = AutoModel.from_config(AutoConfig.for_model(model_type, **SIZES))
    return model


@pytest.mark.parametrize("model_type", ["bert", "roberta", "electra", "mpnet", "modernbert"])
def test_distances_grow_from_the_top_layer_to_the_embeddings(model_type: str) -> None:
    body = encoder(model_type)
    distances = distances_from_top(body, "layer_decay")
    layers = layer_list(body, "layer_decay")[2]
    for i, layer in enumerate(layers):
        assert {distances[id(p)] for p in layer.parameters()} == {2 - i}
    assert {distances[id(p)] for p in body.get_input_embeddings().parameters()} == {3}  # type: ignore[operator]
    assert distances.keys() == {id(p) for p in body.parameters()}


def test_final_norm_has_the_rate_of_the_top_layer() -> None:
    body = encoder("modernbert")
    distances = distances_from_top(body, "layer_decay")
    assert {distances[id(p)] for p in body.final_norm.parameters()} == {0}


def test_top_layers_and_head_are_drawn_as_the_architecture_does() -> None:
    body, head = encoder(), nn.Linear(32, 3)
    with torch.no_grad():
        for p in (*body.parameters(), *head.parameters()):
            p.fill_(7.0)
    torch.manual_seed(1)
    reinitialise_top(body, head, 2)
    first, *top = layer_list(body, "reinit_layers")[2]
    assert all(bool((p == 7).all()) for p in (*first.parameters(), *body.get_input_embeddings().parameters()))  # type: ignore[operator]
    for layer in top:
        for name, p in layer.named_parameters():
            if name.endswith("bias"):
                assert not p.any()
            elif "LayerNorm" in name:
                assert bool((p == 1).all())
            else:
                assert p.std().item() == pytest.approx(body.config.initializer_range, rel=0.2)  # type: ignore[union-attr]
    assert head.weight.std().item() == pytest.approx(0.02, rel=0.4)
    again, head = encoder(), nn.Linear(32, 3)
    torch.manual_seed(1)
    reinitialise_top(again, head, 2)
    expected = dict(layer_list(again, "")[2][2].named_parameters())
    for name, p in top[1].named_parameters():
        assert torch.equal(p, expected[name])


def frozen_encoder() -> nn.Module:
    return encoder().requires_grad_(False)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("make", "count", "message"),
    [
        (encoder, 4, "reinit_layers 4: the encoder has 3 layers"),
        (frozen_encoder, 1, "some of these layers are frozen"),
        (perceptron, 1, "is no Hugging Face model"),
    ],
)
def test_layers_that_cannot_be_drawn_are_refused(make: Callable[[], nn.Module], count: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        reinitialise_top(make(), nn.Linear(2, 2), count)


def test_body_without_layers_names_the_setting() -> None:
    with pytest.raises(ValueError, match="layer_decay: Sequential has no list of layers"):
        distances_from_top(perceptron(), "layer_decay")
