from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.plans import tiny_plan
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageClassification

from raysearch.modalities.image.backbones import Decoder, SmallCNN, WideResNet
from raysearch.modalities.image.network import ImageNetwork, split_classifier
from raysearch.objectives.objective import Objective
from raysearch.objectives.primitive import STAGES
from raysearch.plan import TrialPlan

RESNET = {"model_type": "resnet", "layer_type": "basic", "depths": [1, 1], "hidden_sizes": [8, 16], "embedding_size": 8}
VIT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 4}
CONVNEXT = {"depths": [1, 1, 1, 1], "hidden_sizes": [4, 4, 8, 8], "patch_size": 2}
MODELS: dict[str, dict[str, Any]] = {
    "small_cnn": {"image": "small_cnn", "widths": [4, 8], "norm": "group"},
    "small_cnn_batch": {"image": "small_cnn", "widths": [4, 8], "norm": "batch"},
    "lenet": {"image": "lenet", "widths": [4, 6, 7]},
    "wide_resnet": {"image": "wide_resnet", "depth": 10, "widen": 1, "norm": "batch"},
    "wide_resnet_group": {"image": "wide_resnet", "depth": 10, "widen": 1, "norm": "group"},
    "resnet": {"config": RESNET},
    "vit": {"config": {"model_type": "vit", **VIT}},
    "convnext": {"config": {"model_type": "convnext", **CONVNEXT}},
    "regnet": {"config": {**RESNET, "model_type": "regnet", "layer_type": "x", "groups_width": 4}},
}
COUPLED = {"small_cnn_batch", "wide_resnet", "resnet", "regnet"}
NAMES = ["end_task/none/full/end_task", "auxiliary/none/full/auxiliary_label", "auxiliary/rotate/full/rotation"]
OBJECTIVES = [*NAMES, "end_task/noise/full/reconstruct"]
METADATA = {"shape": [3, 16, 16], "labels": ["a", "b", "c"], "auxiliary_labels": list("defgh")}


def plan(model: dict[str, Any]) -> TrialPlan:
    objectives = tuple(Objective(**dict(zip(STAGES, name.split("/"), strict=True))) for name in OBJECTIVES)
    return replace(tiny_plan(Path(), dropout=0.0), model=model, objectives=objectives)


def network(name: str, **metadata: Any) -> ImageNetwork:
    torch.manual_seed(0)
    return ImageNetwork(plan(MODELS[name]), {**METADATA, **metadata})


def pixels(b: int = 4) -> Tensor:
    return torch.randn(b, 3, 16, 16, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", MODELS)
def test_image_body_and_head_logits_equal_exported_model(name: str, tmp_path: Path) -> None:
    parted = network(name).eval()
    hidden = parted.hidden(pixels())
    assert hidden.shape == (4, 1, parted.width)
    logits = parted.end_task(hidden)
    assert logits.shape == (4, 3)
    whole = parted.merged()
    if hasattr(whole, "save_pretrained"):
        whole.save_pretrained(tmp_path)
        loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
        torch.testing.assert_close(loaded(pixel_values=pixels()).logits, logits)
    else:
        torch.testing.assert_close(whole(pixels()), logits)


@pytest.mark.parametrize("name", MODELS)
def test_image_heads_have_output_shapes_and_disjoint_parameters(name: str) -> None:
    parted = network(name)
    hidden = parted.hidden(pixels())
    shapes = [tuple(head(hidden[:, 0]).shape) for head in parted.heads]
    assert shapes == [(4, 3), (4, 5), (4, 4), (4, 3, 16, 16)]
    body, heads = parted.body_parameters(), parted.head_parameters()
    assert len({id(p) for p in body + heads}) == len(body) + len(heads) == len(list(parted.parameters()))


@pytest.mark.parametrize("name", MODELS)
def test_couples_examples_flag_matches_the_network(name: str) -> None:
    parted = network(name)
    assert parted.couples_examples == (name in COUPLED)
    alone, together = parted.hidden(pixels()[:2])[0], parted.hidden(torch.cat([pixels()[:1], 3 * pixels()[2:]]))[0]
    assert torch.allclose(alone, together, atol=1e-5) == (name not in COUPLED)


@pytest.mark.parametrize("name", MODELS)
def test_no_layer_modifies_another_output_in_place(name: str) -> None:
    parted = network(name)
    outputs: list[tuple[Tensor, int]] = []
    for module in parted.body.modules():
        if not list(module.children()) and not isinstance(module, nn.Identity):
            module.register_forward_hook(lambda _, __, out: outputs.append((out, out._version)))
    parted.hidden(pixels())
    assert outputs
    assert all(out._version == version for out, version in outputs)


def test_wide_resnet_parameter_count_matches_the_paper() -> None:
    def millions(depth: int, widen: int) -> float:
        body = WideResNet(3, depth, widen, "batch", 0.0)
        return (sum(p.numel() for p in body.parameters()) + 64 * widen * 10 + 10) / 1e6

    assert millions(16, 4) == pytest.approx(2.7, abs=0.1)  # Zagoruyko & Komodakis 2016, Table 5
    assert millions(22, 8) == pytest.approx(17.2, abs=0.1)
    assert millions(28, 10) == pytest.approx(36.5, abs=0.1)


def test_built_in_backbones_accept_any_image_size() -> None:
    for side in (5, 8, 28, 36):
        for body in (SmallCNN(1, [4, 8, 8], "group", 0.0), WideResNet(1, 10, 1, "group", 0.0)):
            assert body(torch.zeros(2, 1, side, side)).ndim == 2
        assert Decoder(6, (3, side, side))(torch.zeros(2, 6)).shape == (2, 3, side, side)


def test_loaded_image_model_keeps_body_with_new_classifier(tmp_path: Path) -> None:
    config = AutoConfig.for_model(**RESNET, num_labels=7)
    torch.manual_seed(1)
    whole = AutoModelForImageClassification.from_config(config)
    whole.save_pretrained(tmp_path)
    loaded = ImageNetwork(plan({"path": str(tmp_path)}), METADATA)
    assert loaded.end_task.linear.out_features == 3
    loaded_parameters = dict(loaded.body.named_parameters())
    for name, parameter in whole.named_parameters():
        assert not name.startswith("resnet.") or torch.equal(loaded_parameters[f"whole.{name}"], parameter)


def test_image_model_of_other_input_size_is_rejected(tmp_path: Path) -> None:
    config = AutoConfig.for_model("vit", **VIT, image_size=32, num_labels=3)
    AutoModelForImageClassification.from_config(config).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"ViTForImageClassification cannot read images of 3 x 16 x 16: .*32"):
        ImageNetwork(plan({"path": str(tmp_path)}), METADATA)


@pytest.mark.parametrize("side", [10, 28, 36])
def test_lenet_accepts_any_image_size(side: int) -> None:
    body, linear, place = split_classifier({"image": "lenet", "widths": [4, 6, 7]}, 3, (1, side, side), 0.0)
    assert place == ""
    assert linear(body(torch.randn(2, 1, side, side))).shape == (2, 3)
    assert linear.in_features == 7


@pytest.mark.parametrize("settings", [{"trained_layers": 1}, {"trained_layers": 0}, {"lora_rank": 2}], ids=str)
def test_upper_layers_or_adapters_alone_are_trained(settings: dict[str, int], tmp_path: Path) -> None:
    if "lora_rank" in settings:
        pytest.importorskip("peft")
    whole = plan({"config": {"model_type": "vit", **VIT, "num_hidden_layers": 2}})
    parted = ImageNetwork(replace(whole, settings=whole.settings | settings), METADATA)
    trained = [name for name, parameter in parted.body.named_parameters() if parameter.requires_grad]
    parts = {"trained_layers": ("layer.1.", "layers.1.", "layernorm."), "lora_rank": ("lora_",)}[next(iter(settings))]
    assert bool(trained) == (settings != {"trained_layers": 0})
    assert all(any(part in name for part in parts) for name in trained)
    with torch.no_grad():
        for parameter in parted.body_parameters():
            parameter += 0.1
    logits = parted.eval().end_task(parted.hidden(pixels()))
    parted.merged().save_pretrained(tmp_path)
    loaded = AutoModelForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(pixel_values=pixels()).logits, logits)
