"""Laws of every modality in the registry."""

import pytest

from raysearch.modalities import MODALITIES, load_modality, modality_of
from raysearch.modalities.base import HuggingFaceModel
from raysearch.modalities.loading import accepts_model, model_presets, read_model, task_presets
from raysearch.objectives.primitive import STAGES, load_target
from raysearch.schema.node import Node


@pytest.mark.parametrize("name", MODALITIES)
def test_every_primitive_loads_a_function(name: str) -> None:
    taxonomy = load_modality(name).taxonomy
    for primitive in taxonomy.primitives:
        assert primitive.stage in STAGES
        assert callable(primitive.load())
        assert not primitive.labels or callable(load_target(primitive.labels))
        assert bool(primitive.head) == (primitive.stage == "output")


@pytest.mark.parametrize("name", MODALITIES)
def test_primitive_names_are_unique_in_their_stage(name: str) -> None:
    primitives = load_modality(name).taxonomy.primitives
    assert len({(primitive.stage, primitive.name) for primitive in primitives}) == len(primitives)


@pytest.mark.parametrize("name", MODALITIES)
def test_modality_accepts_its_own_presets(name: str) -> None:
    modality = load_modality(name)
    assert modality.name == modality.taxonomy.modality == modality.task_config.modality == name
    for preset in modality.model_presets:
        assert accepts_model(modality, read_model(Node(preset)))


def test_presets_have_unique_names() -> None:
    modalities = [load_modality(name) for name in MODALITIES]
    assert len(task_presets()) == sum(len(modality.task_presets) for modality in modalities)
    assert len(model_presets()) == sum(len(modality.model_presets) for modality in modalities)


def test_hugging_face_model_of_unknown_type_fits_text_and_images() -> None:
    model = HuggingFaceModel(path="somewhere")
    assert [name for name in MODALITIES if accepts_model(load_modality(name), model)] == ["text", "image"]


def test_modality_of_data_without_kind_is_text() -> None:
    assert modality_of({}).name == "text"
    with pytest.raises(ValueError, match="unknown modality 'tabel'; did you mean 'table'"):
        load_modality("tabel")
