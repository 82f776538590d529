"""The modality of sequences, as one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from helpers.sequence_modality.taxonomy import TAXONOMY

from raysearch.modalities.base import Modality, ModelConfig, TaskConfig

if TYPE_CHECKING:
    from raysearch.data.pipeline import Preparation
    from raysearch.modalities.batch import BatchBuilder, OpenSplit
    from raysearch.models.network import Network
    from raysearch.plan import TrialPlan


class SequenceModality(Modality):
    """The modality of fixed-length numeric sequences."""

    name = "sequence"
    noun = "sequences"
    taxonomy = TAXONOMY
    model_example = "{gru: 8}"

    @property
    def task_config(self) -> type[TaskConfig]:
        """The class of its tasks' declarations."""
        from helpers.sequence_modality.config import SequenceTask

        return SequenceTask

    @property
    def model_configs(self) -> tuple[type[ModelConfig], ...]:
        """The classes of its models' declarations."""
        from helpers.sequence_modality.config import SequenceModel

        return (SequenceModel,)

    @property
    def task_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """No task has a name."""
        return {}

    @property
    def model_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of models by name."""
        from helpers.sequence_modality.config import SEQUENCE_MODELS

        return SEQUENCE_MODELS

    @property
    def preparation(self) -> Preparation[Any, Any]:
        """How its data are read, split, written and opened."""
        from helpers.sequence_modality.dataset import SequencePreparation

        return SequencePreparation()

    def batch_builder(self, plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> BatchBuilder:
        """Returns the builder of a trial's batches."""
        from helpers.sequence_modality.batches import SequenceBatchBuilder

        del plan
        return SequenceBatchBuilder(open_split, metadata["mean"], metadata["std"])

    def network(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> Network:
        """Returns the plan's network, randomly initialised."""
        from helpers.sequence_modality.network import SequenceNetwork

        return SequenceNetwork(plan, metadata)


SEQUENCE = SequenceModality()
