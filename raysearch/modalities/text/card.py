"""What a model card states of a text model."""

from __future__ import annotations

from raysearch.modalities.base import CardFacts
from raysearch.modalities.text.pooling import HEAD
from raysearch.plan import TrialPlan

_PIPELINE = (
    "from transformers import pipeline\n\n"
    'classify = pipeline("text-classification", model="PATH OF THIS FOLDER")\n'
    'print(classify("a text", truncation=True))\n'
)
_LOAD_MODEL = (
    "import raysearch\n\n"
    'model = raysearch.load_model("PATH OF THIS FOLDER")\n'
    'print(model.predict(["a text"]), model.predict_proba(["a text"]))\n'
)


def card_facts(plan: TrialPlan) -> CardFacts:
    """Returns the facts that a model card states of the plan's model."""
    if plan.model.keys() & {"tfidf", "topics"}:
        from raysearch.modalities.text.tfidf import export

        return export.card_facts(has_topics="topics" in plan.model)
    model = plan.model
    pooling = model.get("pooling", HEAD)
    is_stock = pooling == HEAD  # a class of transformers has encoder and head
    source = model.get("path") or model.get("package")
    origin = f"trained from `{source}`" if source else "trained from a randomly initialised encoder"
    vector = "state at the first position" if pooling == "first" else f"{pooling} of the tokens' states"
    return CardFacts(
        library="transformers" if is_stock else "raysearch",
        pipeline="text-classification",
        task="Sequence classification",
        encoder=str((model.get("config") or {}).get("model_type", "")),
        loaded_from=source,
        usage=_PIPELINE if is_stock else _LOAD_MODEL,
        start="" if is_stock else f"a linear classifier on the {vector}, {origin}",
    )
