"""Settings of evidence, and what a dev head in closed form cannot have. Imports no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from raysearch.methods.weighting.settings import CrossFitSettings, SimilaritySettings, StaticSettings
from raysearch.schema.fields import Value, setting


@dataclass(frozen=True, kw_only=True)
class EvidenceSettings(StaticSettings, CrossFitSettings, SimilaritySettings):
    """Evidence, raysearch's own: weights move as far as the similarities so far are told from their noise."""

    evidence_every: int = setting(4, "steps between looks at the dev gradient", low=1, unit="step")
    evidence_start: str = setting(
        "equal",
        "weights while nothing is known: equal (as in static), or zero (the end task alone)",
        choices=("equal", "zero"),
    )
    evidence_margin: float = setting(
        1.0, "standard deviations above 0 from which an effect opens the auxiliaries' part; fully from one more"
    )


def why_not_closed_form(settings: Mapping[str, Value]) -> str | None:
    """Returns why a dev head in closed form cannot have these settings; None if it can."""
    if settings.get("dev_head", "descent") != "closed_form":
        return None
    for name, value in (("dev_head_split", "meta_dev"), ("dev_head_rows", "fixed"), ("dev_dropout", False)):
        if settings.get(name, value) != value:
            text = str(settings[name]).lower()
            return f"dev_head 'closed_form' is fitted on folds of meta-dev without dropout: {name} cannot be {text}"
    return None
