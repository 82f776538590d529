"""The modality of texts, as one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from raysearch.modalities.base import CardFacts, HuggingFaceModel, Modality, ModelConfig, OnnxWriter, TaskConfig
from raysearch.modalities.text.taxonomy import TAXONOMY
from raysearch.models.findings import Finding

if TYPE_CHECKING:
    from torch import Tensor

    from raysearch.data.pipeline import Preparation
    from raysearch.data.prepared import Split
    from raysearch.modalities.batch import BatchBuilder, OpenSplit
    from raysearch.modalities.drafting import Draft, DraftRequest
    from raysearch.modalities.text.config import TextTask
    from raysearch.modalities.text.network import TextNetwork
    from raysearch.modalities.text.tfidf.network import TfidfNetwork
    from raysearch.models.network import Network
    from raysearch.objectives.space import Space
    from raysearch.plan import TrialPlan


class TextModality(Modality):
    """The modality of texts."""

    name = "text"
    noun = "text"
    taxonomy = TAXONOMY
    hugging_face_types: ClassVar[frozenset[str]] = frozenset(
        {"bert", "roberta", "distilbert", "electra", "mpnet", "modernbert", "albert", "deberta-v2", "camembert"}
    )
    no_export = ""
    averages_models = True

    @property
    def task_config(self) -> type[TaskConfig]:
        """The class of its tasks' declarations."""
        from raysearch.modalities.text.config import TextTask

        return TextTask

    @property
    def model_configs(self) -> tuple[type[ModelConfig], ...]:
        """The classes of its models' declarations."""
        from raysearch.modalities.text.config import TextModel
        from raysearch.modalities.text.tfidf.config import TfidfModel, TopicModel

        return TextModel, TfidfModel, TopicModel, HuggingFaceModel

    def complete_model(self, model: ModelConfig) -> ModelConfig:
        """Returns an encoder of a folder or of the hub with its pooling."""
        from raysearch.modalities.text.config import with_pooling

        return with_pooling(model)

    def stored_model(self, declared: Mapping[str, Any]) -> dict[str, Any]:
        """Returns a model of a run with its pooling; runs of version 0.3 and before had the architecture's own head."""
        return {**({"pooling": "head"} if declared.keys() & {"path", "package"} else {}), **declared}

    def plan_model(self, model: ModelConfig) -> dict[str, Any]:
        """Returns what a plan holds of the model, with the pooling that its folder declares."""
        from raysearch.modalities.text.pooling import resolve_pooling

        return resolve_pooling(self.complete_model(model).to_plain(), fetch=True)

    @property
    def task_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of tasks by name."""
        from raysearch.modalities.text.config import TEXT_TASKS

        return TEXT_TASKS

    @property
    def model_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of models by name."""
        from raysearch.modalities.text.config import TEXT_MODELS

        return TEXT_MODELS

    def model_findings(self, model: ModelConfig, max_length: int, classes: int | None = None) -> Iterator[Finding]:
        """Yields what the declaration of an encoder says, and the folder that holds it."""
        from raysearch.modalities.text.model_findings import text_model_findings

        yield from super().model_findings(model, max_length)
        yield from text_model_findings(model, max_length, classes)

    def network_findings(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any]) -> Iterator[Finding]:
        """Yields what is wrong with the encoder and its tokenizer together."""
        from raysearch.modalities.text.network_findings import network_findings

        yield from network_findings(network, plan, metadata)

    def space_problem(self, task: TaskConfig, space: Space) -> str:
        """Returns why the task cannot have the objectives of the space; empty if it can."""
        for data in space.stages["data"]:
            if key := cast("TextTask", task).missing_key(data):
                return f"has objectives on {data} text, and the task has no `{key}` file"
        return ""

    @property
    def preparation(self) -> Preparation[Any, Any]:
        """How its data are read, split, written and opened."""
        from raysearch.modalities.text.dataset import TextPreparation

        return TextPreparation()

    def draft(self, request: DraftRequest) -> Draft | str:
        """Returns a search for a user's file, or why the file is none of this modality."""
        from raysearch.modalities.text.drafting import draft_text

        return draft_text(request)

    def label_names(self, task: TaskConfig, splits: Mapping[str, Any]) -> list[str]:
        """Returns the labels of train, in order. Raises SpecError for a held-out row with another label."""
        from raysearch.modalities.text.dataset import train_labels

        del task
        return train_labels(splits)

    def token_lengths(self, model: ModelConfig, splits: Mapping[str, Any]) -> tuple[list[int], bool]:
        """Returns the lengths of some of train's texts in tokens, and whether they are estimated from words."""
        from raysearch.modalities.text.token_lengths import measure_lengths

        return measure_lengths(model.to_plain(), splits["train"].texts)

    def batch_builder(self, plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> BatchBuilder:
        """Returns the builder of a trial's batches."""
        if _is_bag_of_words(plan):
            from raysearch.modalities.text.tfidf.features import features_of
            from raysearch.modalities.text.tfidf.network import TfidfBatchBuilder

            return TfidfBatchBuilder(features_of(plan))
        from raysearch.modalities.text.batches import text_batches

        return text_batches(plan, metadata, open_split)

    def network(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> Network:
        """Returns the plan's network, randomly initialised or loaded."""
        if _is_bag_of_words(plan):
            from raysearch.modalities.text.tfidf.network import TfidfNetwork

            return TfidfNetwork(plan, metadata)
        from raysearch.modalities.text.network import TextNetwork

        extra = {name: len(data["labels"]) for name, data in metadata.get("extra", {}).items()}
        return TextNetwork(plan, len(metadata["labels"]), metadata["tokens"]["vocab_size"], extra)

    def export(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any], data: Path, folder: Path) -> None:
        """Writes body and end-task head of `network`, and the tokenizer, to `folder`."""
        if _is_bag_of_words(plan):
            from raysearch.modalities.text.tfidf.export import save_tfidf

            save_tfidf(cast("TfidfNetwork", network), plan, metadata, folder)
            return
        from raysearch.modalities.text.export import save_text_model

        save_text_model(cast("TextNetwork", network), plan, metadata, data, folder)

    def predict(
        self, folder: Path, split: Split, plan: TrialPlan, metadata: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Returns logits and labels of a split, by the model that `folder` holds."""
        if _is_bag_of_words(plan):
            from raysearch.modalities.text.tfidf.export import predict_split

            return predict_split(folder, split)
        from raysearch.modalities.text.export import predict_texts

        return predict_texts(folder, split, plan.training.max_length, metadata)

    def onnx_writer(self, plan: TrialPlan) -> OnnxWriter:
        """Returns what writes the exported model of a plan as ONNX too."""
        from raysearch.modalities.text.onnx_export import onnx_writer

        return onnx_writer(plan)

    def card_facts(self, plan: TrialPlan) -> CardFacts:
        """Returns the facts that a model card states of the plan's model."""
        from raysearch.modalities.text.card import card_facts

        return card_facts(plan)


def _is_bag_of_words(plan: TrialPlan) -> bool:
    """Says whether the plan's model counts words, and has no encoder."""
    return bool(plan.model.keys() & {"tfidf", "topics"})


TEXT = TextModality()
