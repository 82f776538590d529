"""The model card of an exported trial: what it is, what it was chosen from, how good it is and how to make it again."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from statistics import mean, stdev
from typing import Any

import yaml

from raysearch.data.prepared import PreparedData, load_metadata
from raysearch.formatting import format_count
from raysearch.methods import FAMILIES, METHODS
from raysearch.modalities import modality_of
from raysearch.modalities.base import CardFacts
from raysearch.plan import TrialPlan
from raysearch.storage.run import Run
from raysearch.storage.states import MAIN_ARM, TrialRole


def card(run: Run, row: Mapping[str, Any], plan: TrialPlan, data: PreparedData, result: Mapping[str, Any]) -> str:
    """The Markdown text; `row` is the trial's, `result` what result.json holds."""
    facts = modality_of(load_metadata(data.folder)).card_facts(plan)
    head: dict[str, Any] = {"library_name": facts.library, "pipeline_tag": facts.pipeline, "tags": ["raysearch"]}
    head |= {"base_model": plan.model["path"]} if plan.model.get("path") else {}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {data.task}: {row['trial_id']} of run {run.name}\n",
        f"{_first_sentence(plan, data, facts)}\n",
        f"```python\n{facts.usage}```\n",
        f"## Scores\n\n{_scores(row, result)}\n",
        f"## The search behind it\n\n{_search(run, row, result)}\n",
        f"## How it was trained\n\n{_training(plan)}\n",
        f"## Data\n\n{_data(data, result)}\n",
        f"## Make it again\n\n{_again(row, result)}\n",
        f"## Versions\n\n{_versions(run)}\n",
    ]
    return "\n".join(parts)


def _first_sentence(plan: TrialPlan, data: PreparedData, facts: CardFacts) -> str:
    labels = ", ".join(f"`{label}`" for label in data.labels)
    loaded = f"begun from `{facts.loaded_from}`"
    begun = loaded if facts.loaded_from else f"a {facts.encoder} encoder begun from random weights"
    kept = f", its first {plan.model['layers']} layers" if plan.model.get("layers") else ""
    return f"{facts.task} over {len(data.labels)} labels ({labels}), {begun}{kept}."


def _scores(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    rows: list[Sequence[Any]] = []
    tried = format_count(result["configurations"], "configuration")
    chosen = f"chosen by this score from {tried}, so rather too high than too low"
    rows.append(("select-dev", f"{result['select_dev']:.4f}", chosen))
    if again := result["confirmed"]:
        spread = f" (sd {stdev(again):.4f})" if len(again) > 1 else ""
        rows.append(
            ("select-dev, fresh seeds", f"{mean(again):.4f}{spread}", f"{format_count(len(again), 'more training')}")
        )
    if result["test"] is not None:
        opened = format_count(result["openings"], "opening")
        rows.append(
            ("test", f"{result['test']:.4f}", f"scored once for this model; {opened} of test in this run so far")
        )
    else:
        rows.append(("test", "-", "not scored"))
    table = _table((result["metric"], "score", "how it came about"), rows)
    notes = "".join(f"\n- {note}" for note in result["notes"])
    return f"{table}\nThe weights are those of step {row['best_step']}, the best on select-dev.\n{notes}"


def _search(run: Run, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    search = run.search
    states = [state for arm, state in _columns(run, "arm", "state") if arm == row["arm"]]
    counted = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    dimensions = ", ".join(f"`{name}`" for name in search.get("dimensions", {})) or "none"
    text = (
        f"Sampler {search.get('sampler')} (seed {search.get('sampler_seed')}), scheduler "
        f"{json.dumps(search.get('scheduler'))}; dimensions: {dimensions}.\n"
        f"Arm `{row['arm']}`: {format_count(result['configurations'], 'configuration')} with a score; "
        f"trials, further seeds among them: {counted}.\n"
    )
    arms = [(arm, *_arm(run, arm)) for arm in (MAIN_ARM, *search.get("baselines", {}))]
    header = ("arm", "configurations", "best select-dev", "fresh seeds")
    return f"{text}\n{_table(header, arms)}"


def _arm(run: Run, arm: str) -> tuple[str, str, str]:
    """How many configurations an arm tried, its best score, and the mean on fresh seeds of what it chose."""
    trials = list(_columns(run, "arm", "role", "number", "score"))
    chosen = [
        (score, number)
        for a, role, number, score in trials
        if (a, role) == (arm, TrialRole.SEARCH) and score is not None
    ]
    fresh = [score for a, role, _, score in trials if (a, role) == (arm, TrialRole.CONFIRM) and score is not None]
    best = f"{max(chosen)[0]:.4f}" if chosen else "-"
    return str(len({number for _, number in chosen})), best, f"{mean(fresh):.4f} ({len(fresh)})" if fresh else "-"


def _columns(run: Run, *names: str) -> Iterable[tuple[Any, ...]]:
    table = run.trials()
    return zip(*(table[name].to_pylist() for name in names), strict=True)


def _training(plan: TrialPlan) -> str:
    methods = [
        (family, f"`{(name := getattr(plan, family))}`", METHODS[name].meaning, METHODS[name].paper)
        for family in FAMILIES
    ]
    settings = [
        (f"`{name}`", value, "yes" if name in plan.params else "") for name, value in sorted(plan.settings.items())
    ]
    objectives = "".join(f"\n- `{objective.name}`" for objective in plan.objectives) or "\n- none"
    return (
        f"{_table(('family', 'method', 'meaning', 'source'), methods)}\n"
        f"{_table(('setting', 'value', 'drawn'), settings)}\n"
        f"Auxiliary objectives ({len(plan.objectives)}):\n{objectives}\n"
    )


def _data(data: PreparedData, result: Mapping[str, Any]) -> str:
    sizes = _table(("split", "rows"), list(data.sizes.items()))
    return f"{sizes}\nFingerprint `{result['data']}`.\n"


def _again(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    text = "`raysearch launch search.yaml` trains this configuration once more, from the same seed"
    text += f" ({row['seed']}); `plan.json` has every setting.\n"
    verified = result["verified"]
    if verified is None:
        return f"{text}\nIt has not been trained a second time for this export (`--verify` does).\n"
    same = (
        "the same weights bit for bit"
        if verified["same_weights"]
        else (f"weights that differ by at most {verified['largest_difference']:.2g}")
    )
    first, second = (f"{found['score']:.4f} at step {found['best_step']}" for found in (row, verified))
    return f"{text}\nTrained a second time for this export: {same}, {result['metric']} {second} (the trial: {first}).\n"


def _versions(run: Run) -> str:
    stored = run.searches()["versions"].to_pylist()
    versions: dict[str, str] = json.loads(stored[-1]) if stored and stored[-1] else {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)
