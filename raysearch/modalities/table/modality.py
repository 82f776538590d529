"""The modality of tables of numbers, as one object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, cast

from raysearch.modalities.base import Modality, ModelConfig, TaskConfig
from raysearch.modalities.table.taxonomy import TAXONOMY

if TYPE_CHECKING:
    from raysearch.data.pipeline import Preparation
    from raysearch.modalities.batch import BatchBuilder, OpenSplit
    from raysearch.modalities.drafting import Draft, DraftRequest
    from raysearch.modalities.table.config import TableTask
    from raysearch.models.network import Network
    from raysearch.objectives.space import Space
    from raysearch.plan import TrialPlan


class TableModality(Modality):
    """The modality of tables of numbers."""

    name = "table"
    noun = "tables"
    taxonomy = TAXONOMY
    model_example = "{mlp: [64, 16]}"
    unused_settings: ClassVar[tuple[str, ...]] = ("max_length", "lm_head", "lm_rank")

    @property
    def task_config(self) -> type[TaskConfig]:
        """The class of its tasks' declarations."""
        from raysearch.modalities.table.config import TableTask

        return TableTask

    @property
    def model_configs(self) -> tuple[type[ModelConfig], ...]:
        """The classes of its models' declarations."""
        from raysearch.modalities.table.config import TableModel

        return (TableModel,)

    @property
    def task_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of tasks by name."""
        from raysearch.modalities.table.config import TABLE_TASKS

        return TABLE_TASKS

    @property
    def model_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of models by name."""
        from raysearch.modalities.table.config import TABLE_MODELS

        return TABLE_MODELS

    def space_problem(self, task: TaskConfig, space: Space) -> str:
        """Returns why the task cannot have the objectives of the space; empty if it can."""
        table = cast("TableTask", task)
        for data in space.stages["data"]:
            if key := table.missing_key(data):
                return f"has objectives on {data} rows, and the task has no `{key}`"
        for data in sorted({objective.data for objective in space.objectives if objective.output == "above_mean"}):
            if table.label_type(data) == "class":
                return f"predicts whether the labels of {data} are above their mean, and they are classes"
        return ""

    @property
    def preparation(self) -> Preparation[Any, Any]:
        """How its data are read, split, written and opened."""
        from raysearch.modalities.table.dataset import TablePreparation

        return TablePreparation()

    def draft(self, request: DraftRequest) -> Draft | str:
        """Returns a search for a user's file, or why the file is none of this modality."""
        from raysearch.modalities.table.drafting import draft_table

        return draft_table(request)

    def label_names(self, task: TaskConfig, splits: Mapping[str, Any]) -> list[str]:
        """Returns the classes of train, or the label's name. Raises SpecError for a held-out row of another class."""
        from raysearch.modalities.table.dataset import label_metadata

        return list(label_metadata(cast("TableTask", task).label, splits, "train")["labels"])

    def batch_builder(self, plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> BatchBuilder:
        """Returns the builder of a trial's batches."""
        from raysearch.modalities.table.batches import TableBatchBuilder

        mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
        return TableBatchBuilder(open_split, mean, std, plan.training.select_probability)

    def network(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> Network:
        """Returns the plan's network, randomly initialised."""
        from raysearch.modalities.table.network import TableNetwork

        return TableNetwork(plan, metadata)


TABLE = TableModality()
