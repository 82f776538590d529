"""`raysearch init`: a commented search for a user's file, which launches as it is written.

The modality drafts task, model, space and settings; budget, confirmation and resources are added for all of them. The
draft is read and its data are checked before the file gets its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from raysearch.config.arm import Arm
from raysearch.config.environment import local_resources
from raysearch.config.incumbents import incumbents
from raysearch.config.loading import ParsedSearch, load_file
from raysearch.config.search_config import Search
from raysearch.config.validation import UNAVERAGED_METRICS
from raysearch.data.columns import read_columns
from raysearch.errors import MissingFileError, SpecError
from raysearch.methods import METHODS
from raysearch.modalities import all_modalities, load_modality
from raysearch.modalities.drafting import Draft, DraftRequest, find_siblings, relative_path, render
from raysearch.search.preflight import Findings, examine
from raysearch.storage.names import valid_name

CONFIRM_SEEDS = (101, 102, 103, 104, 105)
FEW_SEEDS = 3  # of them, where each is trained on five folds
SEARCHING = 0.6  # share of the time in which configurations are tried; the rest confirms the best of each arm
TRAININGS = {False: 10, True: 25}  # of an arm that this time is to suffice for, without and with folds
STEPS = (20, 400)  # of a trial, at least and at most
EVALUATIONS = 8  # of a trial

HEADER = """\
# Which auxiliary objectives help on $file_name, and is the result better than what one would use instead?
# Written by `raysearch init` for $hardware and $minutes. Every value may be changed, and
# `raysearch show KEY` explains a key. Next: raysearch check $output; raysearch launch $output
"""
BASELINES = "baselines:  # what one would use instead, each in the same time\n"
ALL_BASELINES = "baselines: incumbents\n"
FINE_TUNE = "fine_tune"  # the shipped baseline that the same model has without auxiliary objectives
FOOTER = """\
selection: auto  # with fewer than 200 dev rows, configurations are scored on folds of all labelled rows
budget: {compute: $compute}  # seconds of training in which each arm tries configurations; then come the confirmations
confirm: {seeds: $seeds}  # the best of each arm is trained again on these seeds, and compared on them
ensemble: $ensemble  # the models of all arms, averaged by weights that held-out rows give, are an arm too
resources: {cpus: 1, gpus: $gpus}  # of a trial; $why_resources
"""


@dataclass(frozen=True)
class DraftedSearch:
    """A search that was written, and what was found in its data."""

    file: Path
    summary: str
    parsed: ParsedSearch
    findings: Findings


def init_search(
    file: Path,
    *,
    output: Path | None = None,
    unlabelled: Path | None = None,
    minutes: float = 30,
    text: str | None = None,
    label: str | None = None,
) -> DraftedSearch:
    """Writes a search for a file, or a folder of images; `minutes` is about how long it takes.

    Raises SpecError if the file cannot be used, and if there is a file of the output's name.
    """
    output = output or Path(f"{valid_name(file.resolve().stem)}.yaml")
    _check_paths(file, output, unlabelled, minutes)
    columns = {} if file.is_dir() else read_columns(file)
    cores, gpus = local_resources()
    request = DraftRequest(
        file=file,
        folder=output.parent,
        columns=columns,
        siblings=find_siblings(file),
        text=text,
        label=label,
        unlabelled=unlabelled,
        gpus=gpus,
    )
    draft = _ask_modalities(request)
    values = dict(draft.values) | _shared_values(request, output, minutes, cores)
    parsed, findings = _write(output, draft, values, minutes=minutes, at_once=max(1, gpus or cores))
    return DraftedSearch(output, draft.summary, parsed, findings)


def _check_paths(file: Path, output: Path, unlabelled: Path | None, minutes: float) -> None:
    for path in (file, *([unlabelled] if unlabelled is not None else [])):
        if not path.exists():
            raise MissingFileError("no such file", file=str(path))
    if output.exists():
        raise SpecError("exists already; name another file by --output, or remove it", file=str(output))
    if output.suffix not in (".yaml", ".yml"):
        raise SpecError("a search is a .yaml file", file=str(output), key="--output")
    if not output.parent.is_dir():
        raise SpecError(f"no folder {output.parent}", file=str(output), key="--output")
    if not minutes > 0:
        raise SpecError(f"must be above 0, got {minutes:g}", key="--minutes")


def _ask_modalities(request: DraftRequest) -> Draft:
    """Returns the draft of the first modality that can use the file. Raises SpecError with every modality's reason."""
    reasons = {}
    for modality in all_modalities():
        draft = modality.draft(request)
        if isinstance(draft, Draft):
            return draft
        reasons[modality.noun] = draft
    named = "; ".join(f"no {noun}: {reason}" for noun, reason in reasons.items())
    shown = f" (columns: {', '.join(request.columns)})" if request.columns else ""
    raise SpecError(f"{named}{shown}", file=str(request.file))


def _shared_values(request: DraftRequest, output: Path, minutes: float, cores: int) -> dict[str, str | None]:
    gpus = request.gpus
    hardware = f"{cores} CPU cores" + (f" and {gpus} GPU{'s' if gpus > 1 else ''}" if gpus else " without a GPU")
    return {
        "ensemble": None,
        "name": valid_name(output.stem),
        "file_name": request.file.resolve().name,
        "output": relative_path(output, Path()),
        "hardware": hardware,
        "minutes": f"{minutes:g} minutes",
        "gpus": str(min(gpus, 1)),
        "why_resources": "one trial on each GPU" if gpus else "as many trials run at a time as there are cores",
    }


def _write(
    output: Path, draft: Draft, values: Mapping[str, str | None], *, minutes: float, at_once: int
) -> tuple[ParsedSearch, Findings]:
    """Writes the search once its arms are known, among which the time is divided.

    Raises SpecError and leaves no file if it cannot be used.
    """
    unfinished = output.with_name(f".{output.stem}.draft.yaml")
    template = HEADER + draft.template.read_text(encoding="utf-8")

    def write(baselines: str, budget: Mapping[str, str]) -> ParsedSearch:
        text = render(f"{template}{baselines}{FOOTER}", {**values, **budget})
        unfinished.write_text(text, encoding="utf-8")
        return load_file(unfinished)

    try:
        first = write(ALL_BASELINES, _budget(minutes, 1, 1, draft.step_seconds, has_folds=False))
        task = first.search.task
        if load_modality(task.modality).averages_models and task.metric not in UNAVERAGED_METRICS:
            values = {**values, "ensemble": "true"}
        baselines = _list_baselines(first.search)
        parsed = write(baselines, _budget(minutes, 1, 1, draft.step_seconds, has_folds=False))
        findings = examine(parsed, None)
        trained = sum(takes_steps(arm) for arm in parsed.search.arms.values())
        budget = _budget(minutes, trained, at_once, draft.step_seconds, has_folds=findings.has_folds)
        write(baselines, budget)
        unfinished.replace(output)
    except SpecError as error:
        if error.file == str(unfinished):
            raise SpecError(error.problem, file=values["file_name"] or "", key=error.key) from error
        raise
    finally:
        unfinished.unlink(missing_ok=True)
    return load_file(output), findings


def _list_baselines(search: Search) -> str:
    """Returns the shipped baselines that the search can have, as lines of a template.

    Without a GPU those that train an encoder are left out, but for fine-tuning.
    """
    is_slow = not search.resources.gpus
    names = [name for name in search.baselines if name == FINE_TUNE or not (is_slow and takes_steps(search.arms[name]))]
    lines = [f"  {name}: {{}}  # {incumbents()[name].meaning}" for name in names]
    if absent := [name for name in search.baselines if name not in names]:
        lines.append(f"  # with more time: {', '.join(absent)}; `baselines: incumbents` is all of them")
    return BASELINES + "".join(line.replace("$", "$$") + "\n" for line in lines)


def takes_steps(arm: Arm) -> bool:
    """Returns whether the trials of an arm take optimizer steps, and so use up the time that it has."""
    return any(METHODS[methods["schedule"]].takes_steps for methods in arm.method_combinations())


def _budget(minutes: float, arms: int, at_once: int, step_seconds: float, *, has_folds: bool) -> dict[str, str]:
    """Returns the time that each arm gets, and the steps of a trial with which it trains about TRAININGS times."""
    compute = SEARCHING * 60 * minutes * at_once / arms
    low, high = STEPS
    steps = min(high, max(low, round(compute / TRAININGS[has_folds] / step_seconds / 10) * 10))
    return {
        "compute": f"{compute:.0f}" if compute >= 1 else f"{compute:.2g}",
        "steps": str(steps),
        "seeds": f"[{', '.join(map(str, CONFIRM_SEEDS[:FEW_SEEDS] if has_folds else CONFIRM_SEEDS))}]",
        "eval_every": str(min(steps, max(5, steps // EVALUATIONS))),
    }
