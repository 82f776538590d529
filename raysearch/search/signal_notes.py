"""Where a declared search cannot learn which objectives help: sentences that `check` and `launch` say. Torch-free."""

from __future__ import annotations

from collections.abc import Mapping

from raysearch.config.parameters import DEFAULTS
from raysearch.config.search_config import Search
from raysearch.formatting import format_count
from raysearch.methods import METHODS

MIN_META_DEV = 32  # rows; a dev head and its loss share them
MIN_ROWS = 2.0  # auxiliary examples an objective has in a step, on average


def signal_notes(search: Search, rows: Mapping[str, int]) -> list[str]:
    """Returns a sentence for each reason why the search's weighting will learn little but noise.

    Only for a weighting that follows gradients of meta-dev; `rows` are the rows of each split. Both limits are rules of
    thumb: the gradient of one example, or of a head fitted to a dozen, says nearly nothing of what helps.
    """
    weighting = METHODS.get(str(search.method.weighting))
    if weighting is None or not weighting.needs_meta_dev or weighting.merges_branches or search.space is None:
        return []
    notes, settings = [], {**DEFAULTS, **search.settings}
    count = rows.get("meta_dev", 0)
    if 0 < count < MIN_META_DEV:
        notes.append(
            f"{weighting} learns from {format_count(count, 'row')} of meta-dev: its weights will be mostly noise; "
            "give meta_dev more rows, or compare with weighting: static"
        )
    is_folded = settings.get("dev_head") == "closed_form" or "dev_head" not in weighting.setting_names
    folds = int(settings["dev_folds"])
    if "dev_folds" in weighting.setting_names and is_folded and 0 < count < folds:
        notes.append(
            f"dev_folds {folds} are more than the {format_count(count, 'row')} of meta-dev: each row is a fold"
        )
    objectives = len(search.spaces[search.space].objectives)
    if "objectives_per_step" in weighting.setting_names:
        objectives = min(objectives, int(settings["objectives_per_step"]) or objectives)
    rows_each = int(settings["aux_batch_size"]) / max(objectives, 1)
    if rows_each < MIN_ROWS:
        notes.append(
            f"{format_count(objectives, 'objective')} share {settings['aux_batch_size']} auxiliary examples in a step: "
            f"{weighting} compares gradients of about one example each, mostly noise; raise aux_batch_size, or sample "
            "fewer objectives in a step"
        )
    return notes
