"""The model card of an exported trial: what it is, its scores, what it was chosen from and how to repeat it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import yaml

from raysearch.data.prepared import PreparedData, load_metadata
from raysearch.formatting import format_count
from raysearch.methods import FAMILIES, METHODS
from raysearch.modalities import modality_of
from raysearch.modalities.base import CardFacts
from raysearch.plan import TrialPlan
from raysearch.reports.recommendation import recommend
from raysearch.storage.run import Run
from raysearch.storage.states import TrialRole


def model_card(run: Run, row: Mapping[str, Any], plan: TrialPlan, data: PreparedData, result: Mapping[str, Any]) -> str:
    """Returns the card as Markdown; `row` is the trial's row, `result` the content of result.json."""
    facts = modality_of(load_metadata(data.folder)).card_facts(plan)
    head: dict[str, Any] = {"library_name": facts.library, "pipeline_tag": facts.pipeline, "tags": ["raysearch"]}
    base = str(plan.model.get("path") or "")  # a name of the hub, which knows no local folders
    head |= {"base_model": base} if base and not Path(base).is_absolute() else {}
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {data.task}: {row['trial_id']} of run {run.name}\n",
        f"{_first_sentence(plan, data, facts)}\n",
        f"```python\n{facts.usage}```\n",
        *([] if result["onnx_difference"] is None else [f"## ONNX\n\n{_onnx(result)}\n"]),
        f"## Recommendation\n\n{_recommendation(run)}\n",
        f"## Scores\n\n{_scores(row, result)}\n",
        f"## The search it was chosen from\n\n{_search(run, row, result)}\n",
        f"## How it was trained\n\n{_training(plan)}\n",
        f"## Data\n\n{_data(data, result)}\n",
        f"## How to repeat it\n\n{_repetition(row, result)}\n",
        f"## Versions\n\n{_versions(run)}\n",
    ]
    return "\n".join(parts)


def ensemble_card(run: Run, row: Mapping[str, Any], data: PreparedData, result: Mapping[str, Any]) -> str:
    """Returns the card of an ensemble; `row` is one of its rows, whose plan lists the members."""
    head = {"library_name": "raysearch", "pipeline_tag": "text-classification", "tags": ["raysearch", "ensemble"]}
    labels = ", ".join(f"`{label}`" for label in data.labels)
    members = row["plan"]["members"]
    listed = [(f"`members/{each['arm']}`", each["arm"], each["number"], f"{each['weight']:.3f}") for each in members]
    parts = [
        f"---\n{yaml.safe_dump(head, sort_keys=False)}---\n",
        f"# {data.task}: {row['trial_id']} of run {run.name}\n",
        f"The classifiers of {format_count(len(members), 'arm')} as one, over {len(data.labels)} labels ({labels}): "
        "the weighted mean of their log-probabilities, each at least log 1e-6. The weights come from rows on which no "
        "member was trained.\n",
        '```python\nimport raysearch\n\nmodel = raysearch.load_model(".")\n'
        'print(model.predict(["a text"]), model.predict_proba(["a text"]))\n```\n',
        f"{_table(('folder', 'arm', 'configuration', 'weight'), listed)}",
        f"## Recommendation\n\n{_recommendation(run)}\n",
        f"## Scores\n\n{_scores(row, result)}\n",
        f"## The search it was chosen from\n\n{_search(run, row, result)}\n",
        f"## Data\n\n{_data(data, result)}\n",
        "## How to repeat it\n\nEach member's folder has `search.yaml`, which trains it again, and `plan.json`.\n",
        f"## Versions\n\n{_versions(run)}\n",
    ]
    return "\n".join(parts)


def _first_sentence(plan: TrialPlan, data: PreparedData, facts: CardFacts) -> str:
    labels = ", ".join(f"`{label}`" for label in data.labels)
    random = f"trained from a randomly initialised {facts.encoder} encoder"
    start = f"trained from `{facts.loaded_from}`" if facts.loaded_from else random
    start = facts.start or start
    count = plan.training.encoder_layers or plan.model.get("layers")
    layers = f", its first {format_count(count, 'layer')}" if count else ""
    return f"{facts.task} over {len(data.labels)} labels ({labels}), {start}{layers}."


def _onnx(result: Mapping[str, Any]) -> str:
    return (
        "`model.onnx` is the same model: from int64 `input_ids` and `attention_mask`, both (texts, tokens) as the "
        "tokenizer in this folder gives them, to `logits` (texts, labels). On padded texts of this task the largest "
        f"difference between onnxruntime's logits and this model's is {result['onnx_difference']:.2g}."
    )


def _recommendation(run: Run) -> str:
    recommendation = recommend(run)
    steps = "".join(f"\n- {step.purpose}: `{step.command}`" for step in recommendation.open_steps)
    return f"{recommendation.verdict}\n{steps}\n" if steps else f"{recommendation.verdict}\n"


def _scores(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    tried = format_count(result["configurations"], "configuration")
    folds = result["folds"]
    split = f"{folds} folds of the labelled rows" if folds else "select-dev"
    error = f" (standard error {result['select_error']:.4f})" if result["select_error"] is not None else ""
    rows: list[Sequence[Any]] = [
        (
            split,
            f"{result['select_dev']:.4f}{error}",
            f"chosen by this score from {tried}, so expect less on new examples",
        )
    ]
    if fresh := result["confirmed"]:
        spread = f" (sd {stdev(fresh):.4f})" if len(fresh) > 1 else ""
        repetitions = format_count(len(fresh), "fresh partition" if folds else "training")
        split = "the same, fresh partitions" if folds else "select-dev, fresh seeds"
        rows.append((split, f"{mean(fresh):.4f}{spread}", f"mean of {repetitions}"))
    if result["test"] is None:
        rows.append(("test", "-", "not scored"))
    else:
        accesses = f"this run has read the test split {format_count(result['openings'], 'time')} so far"
        rows.append(("test", f"{result['test']:.4f}", f"scored once for this model; {accesses}"))
    table = _table((result["metric"], "score", "how it was obtained"), rows)
    notes = "".join(f"\n- {note}" for note in result["notes"])
    weights = "the last of a training on all labelled rows" if folds else "the best on select-dev"
    return f"{table}\nThe weights are those of step {row['best_step']}, {weights}.\n{notes}"


def _search(run: Run, row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    search, trials = run.search, run.trials()
    states = [
        state
        for arm, state in zip(trials["arm"].to_pylist(), trials["state"].to_pylist(), strict=True)
        if arm == row["arm"]
    ]
    counts = ", ".join(f"{states.count(state)} {state}" for state in sorted(set(states)))
    baseline = search.get("baselines", {}).get(row["arm"], {})
    searched = baseline.get("dimensions") or search.get("dimensions", {})
    dimensions = ", ".join(f"`{name}`" for name in searched) or "none"
    text = (
        f"Sampler {search.get('sampler')} (seed {search.get('sampler_seed')}), scheduler "
        f"{json.dumps(search.get('scheduler'))}; dimensions: {dimensions}.\n"
        f"Arm `{row['arm']}`: {format_count(result['configurations'], 'configuration')} with a score; "
        f"trials on all seeds: {counts}.\n"
    )
    arms = [_arm_row(run, arm) for arm in run.arms]
    header = ("arm", "configurations", "best on select-dev", "its mean on fresh seeds")
    return f"{text}\n{_table(header, arms)}\n{result['reason']}\n"


def _arm_row(run: Run, arm: str) -> tuple[str, str, str, str]:
    """Returns the arm, how many of its configurations have a score, the best score, and the mean on fresh seeds."""
    scores = [
        row["score"] for row in run.configurations().to_pylist() if row["arm"] == arm and row["score"] is not None
    ]
    fresh = [
        (trial["seed"], trial["score"])
        for trial in run.trials().select(["arm", "role", "seed", "score"]).to_pylist()
        if (trial["arm"], trial["role"]) == (arm, TrialRole.CONFIRM) and trial["score"] is not None
    ]
    best = f"{scores[0]:.4f}" if scores else "-"
    seeds = len({seed for seed, _ in fresh})
    return arm, str(len(scores)), best, f"{mean(score for _, score in fresh):.4f} ({seeds})" if fresh else "-"


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
        f"{_table(('setting', 'value', 'drawn by the sampler'), settings)}\n"
        f"Auxiliary objectives ({len(plan.objectives)}):\n{objectives}\n"
    )


def _data(data: PreparedData, result: Mapping[str, Any]) -> str:
    sizes = _table(("split", "examples"), list(data.sizes.items()))
    return f"{sizes}\nFingerprint `{result['data']}`.\n"


def _repetition(row: Mapping[str, Any], result: Mapping[str, Any]) -> str:
    text = (
        f"`raysearch launch search.yaml` trains this configuration again with the same seed ({row['seed']}); "
        "`plan.json` has every setting.\n"
    )
    verified = result["verified"]
    if verified is None:
        return f"{text}\nIt was not trained a second time for this export (`--verify` does that).\n"
    same = (
        "the same weights to the last bit"
        if verified["same_weights"]
        else f"weights that differ by at most {verified['largest_difference']:.2g}"
    )
    first, second = (f"{outcome['score']:.4f} at step {outcome['best_step']}" for outcome in (row, verified))
    return (
        f"{text}\nIt was trained a second time for this export: {same}, {result['metric']} {second} "
        f"(the trial had {first}).\n"
    )


def _versions(run: Run) -> str:
    stored = run.searches()["versions"].to_pylist()
    versions: dict[str, str] = json.loads(stored[-1]) if stored and stored[-1] else {}
    return ", ".join(f"{name} {version}" for name, version in versions.items()) + "\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(str(cell).replace('|', '/') for cell in line)} |\n" for line in lines)
