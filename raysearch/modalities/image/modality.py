"""The modality of images, as one object."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from raysearch.modalities.base import CardFacts, HuggingFaceModel, Modality, ModelConfig, TaskConfig
from raysearch.modalities.image.taxonomy import TAXONOMY
from raysearch.models.findings import Finding
from raysearch.models.model_folder import folder_findings

if TYPE_CHECKING:
    from torch import Tensor

    from raysearch.data.pipeline import Preparation
    from raysearch.data.prepared import Split
    from raysearch.modalities.batch import BatchBuilder, OpenSplit
    from raysearch.modalities.drafting import Draft, DraftRequest
    from raysearch.modalities.image.config import ImageTask
    from raysearch.modalities.image.network import ImageNetwork
    from raysearch.models.network import Network
    from raysearch.objectives.space import Space
    from raysearch.plan import TrialPlan


class ImageModality(Modality):
    """The modality of images."""

    name = "image"
    noun = "images"
    taxonomy = TAXONOMY
    hugging_face_types: ClassVar[frozenset[str]] = frozenset(
        {"resnet", "vit", "convnext", "convnextv2", "swin", "deit", "beit", "regnet", "mobilenet_v2", "dinov2"}
    )
    unused_settings: ClassVar[tuple[str, ...]] = ("max_length", "lm_head", "lm_rank", "cache_states")
    no_export = ""

    @property
    def task_config(self) -> type[TaskConfig]:
        """The class of its tasks' declarations."""
        from raysearch.modalities.image.config import ImageTask

        return ImageTask

    @property
    def model_configs(self) -> tuple[type[ModelConfig], ...]:
        """The classes of its models' declarations."""
        from raysearch.modalities.image.config import ImageModel

        return ImageModel, HuggingFaceModel

    @property
    def task_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of tasks by name."""
        from raysearch.modalities.image.config import IMAGE_TASKS

        return IMAGE_TASKS

    @property
    def model_presets(self) -> Mapping[str, Mapping[str, Any]]:
        """Declarations of models by name."""
        from raysearch.modalities.image.config import IMAGE_MODELS

        return IMAGE_MODELS

    def model_findings(self, model: ModelConfig, max_length: int, classes: int | None = None) -> Iterator[Finding]:
        """Yields what the folder that holds a model says."""
        del classes
        yield from super().model_findings(model, max_length)
        if not isinstance(model, HuggingFaceModel) or not model.path or not Path(model.path).is_absolute():
            return
        for finding in folder_findings(Path(model.path)):
            yield Finding(finding.text, ("path",), finding.is_refusal)

    def network_findings(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any]) -> Iterator[Finding]:
        """Yields whether a part of a loaded network has no weights in the folder."""
        from raysearch.models.huggingface import missing_weight_findings

        del metadata
        yield from missing_weight_findings(network, plan.model)

    def space_problem(self, task: TaskConfig, space: Space) -> str:
        """Returns why the task cannot have the objectives of the space; empty if it can."""
        if "auxiliary" in space.stages["data"] and not cast("ImageTask", task).has_auxiliary:
            return "has objectives on auxiliary images, and the task has no `auxiliary:`"
        return ""

    @property
    def preparation(self) -> Preparation[Any, Any]:
        """How its data are read, split, written and opened."""
        from raysearch.modalities.image.dataset import ImagePreparation

        return ImagePreparation()

    def draft(self, request: DraftRequest) -> Draft | str:
        """Returns a search for a user's file, or why the file is none of this modality."""
        from raysearch.modalities.image.drafting import draft_images

        return draft_images(request)

    def label_names(self, task: TaskConfig, splits: Mapping[str, Any]) -> list[str]:
        """Returns the names of the end task's labels. Raises SpecError for a held-out label that train lacks."""
        from raysearch.modalities.image.dataset import end_task_labels

        return end_task_labels(cast("ImageTask", task), splits)

    def batch_builder(self, plan: TrialPlan, metadata: Mapping[str, Any], open_split: OpenSplit) -> BatchBuilder:
        """Returns the builder of a trial's batches."""
        from raysearch.modalities.image.batches import ImageBatchBuilder

        mean, std = tuple(metadata["mean"]), tuple(metadata["std"])
        return ImageBatchBuilder(open_split, mean, std, plan.training.select_probability)

    def network(self, plan: TrialPlan, metadata: Mapping[str, Any]) -> Network:
        """Returns the plan's network, randomly initialised or loaded."""
        from raysearch.modalities.image.network import ImageNetwork

        return ImageNetwork(plan, metadata)

    def export(self, network: Network, plan: TrialPlan, metadata: Mapping[str, Any], data: Path, folder: Path) -> None:
        """Writes body and end-task head of `network` to `folder`."""
        from raysearch.modalities.image.export import save_image_model

        del data
        save_image_model(cast("ImageNetwork", network), plan, metadata, folder)

    def predict(
        self, folder: Path, split: Split, plan: TrialPlan, metadata: Mapping[str, Any]
    ) -> tuple[Tensor, Tensor]:
        """Returns logits and labels of a split, by the model that `folder` holds."""
        from raysearch.modalities.image.export import predict_images

        del plan, metadata
        return predict_images(folder, split)

    def card_facts(self, plan: TrialPlan) -> CardFacts:
        """Returns the facts that a model card states of the plan's model."""
        model = plan.model
        if model.get("image") == "wide_resnet":
            encoder = f"WRN-{model['depth']}-{model['widen']}"
        else:
            encoder = str(model.get("image") or model.get("timm") or (model.get("config") or {}).get("model_type", ""))
        of_raysearch = bool(model.get("image") or model.get("timm"))
        timm = f"timm/{model['timm']}" if model.get("pretrained") else None
        usage = (
            "import raysearch\n\n"
            'model = raysearch.load_image_model("PATH OF THIS FOLDER")\n'
            'print(model.predict(["an image.png"]))\n'
            if of_raysearch
            else "from transformers import pipeline\n\n"
            'classify = pipeline("image-classification", model="PATH OF THIS FOLDER")\n'
            'print(classify("an image.png"))\n'
        )
        return CardFacts(
            library="raysearch" if of_raysearch else "transformers",
            pipeline="image-classification",
            task="Image classification",
            encoder=encoder,
            loaded_from=model.get("path") or timm,
            usage=usage,
        )


IMAGE = ImageModality()
