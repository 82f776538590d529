"""Tries every kind of trial of a search before it starts: the network is built, and each kind takes one small step.

What fails here would fail in every trial of that kind. A kind is what decides whether a network can be trained: the
methods, the outputs of the objectives, and all settings that are choices. Of numbers the largest is tried, on batches
of a few examples.
"""

from __future__ import annotations

import itertools
import random
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from raysearch.config.arm import Arm
from raysearch.config.compatibility import why_incompatible
from raysearch.config.dimension import Dimension
from raysearch.config.loading import ParsedSearch
from raysearch.config.model_checks import examine_models, try_configs
from raysearch.config.parameters import SETTINGS
from raysearch.config.search_config import Search
from raysearch.data.prepared import PreparedData, load_metadata
from raysearch.distributed import ProcessGroup
from raysearch.errors import SpecError
from raysearch.methods import FAMILIES, METHODS
from raysearch.modalities import modality_of
from raysearch.modalities.opening import open_splits, prepare
from raysearch.models.network import Network
from raysearch.plan import TrialPlan
from raysearch.schema.fields import Value
from raysearch.training.context import TrainingContext, batches_of, build
from raysearch.training.step.contrast import ContrastStep
from raysearch.training.step.update import Update

SECONDS = 30.0  # after which no further kind of trial begins its step
SIZES = (4, 8, 16, 32)  # examples of a batch, of which the smallest is taken that the methods allow
LONGEST = 32  # tokens of a text in a step; the longest text is tried apart
ATTEMPTS = 100  # random draws among which one is sought that a trial can have
FIRST_STEPS = 500  # among which the first one is tried for which a weighting requests gradients


def rehearse(parsed: ParsedSearch, prepared: PreparedData, folder: Path) -> list[str]:
    """Tries the search's networks and steps on its prepared data in `folder`; returns remarks.

    Raises SpecError, with the key of the model, for the first that does not work.
    """
    search, classes = parsed.search, len(prepared.labels)
    remarks = examine_models(
        search, parsed.node, lambda modality, model, longest: modality.model_findings(model, longest, classes)
    )
    plans = [plan for arm in search.arms.values() for plan in kinds_of_trials(search, arm, str(folder), prepared)]
    remarks = tuple(remark for remark in remarks if remark not in parsed.notes)
    networks: dict[str, Network] = {}
    until = time.monotonic() + SECONDS
    for tried, plan in enumerate(plans):
        if tried and time.monotonic() > until:
            left = f"{len(plans) - tried} of {len(plans)} kinds of trials were not tried beforehand"
            return [*remarks, f"{left}: the others took {SECONDS:.0f} s"]
        key = _model_key(search, plan.arm)
        remark = _try_steps(plan, _network(plan, networks, key), key)
        remarks += (remark,) * (bool(remark) and remark not in remarks)
    return list(remarks)


def try_search(parsed: ParsedSearch, data_root: Path | None = None) -> list[str]:
    """Tries a search before it is launched: its models, its data and a step of every kind of trial; returns remarks.

    The data are prepared in a temporary folder. Raises SpecError as `rehearse` and `prepare`.
    """
    search = parsed.search
    search.trust_named_files()
    try:
        remarks = try_configs(search, parsed.node)
        with tempfile.TemporaryDirectory(prefix="raysearch-") as folder:
            data = Path(folder) / "data"
            prepared = prepare(search.task, search.stored_for.to_plain(), data, data_root)
            return [*parsed.notes, *remarks, *rehearse(parsed, prepared, data)]
    except SpecError as error:
        raise parsed.with_location(error) from None


# ---- the kinds of trials ----


def kinds_of_trials(search: Search, arm: Arm, data: str, prepared: PreparedData) -> Iterator[TrialPlan]:
    """Yields a plan of each kind of trial that an arm can have, with small batches."""
    kinds: set[str] = set()
    for params in _representative_draws(arm):
        plan = search.resolve(arm.name, params, number=0, seed=search.seeds[0], data=data, labels=list(prepared.labels))
        small = _with_small_batches(plan)
        if (kind := _kind(small)) not in kinds:
            kinds.add(kind)
            yield small


def _representative_draws(arm: Arm) -> Iterator[dict[str, Value]]:
    """Yields draws that a trial can have, in which each word of each dimension occurs, in all methods' combinations."""
    families = [name for name in (*FAMILIES, "space") if name in arm.dimensions]
    combinations = itertools.product(*(arm.dimensions[name].choices for name in families))
    for methods in (dict(zip(families, values, strict=True)) for values in combinations):
        fixed: list[dict[str, Value]] = [methods]
        for name, dimension in arm.dimensions.items():
            if name not in families and not _is_number(dimension):
                fixed += [{**methods, name: value} for value in dimension.choices]
        draws = (_possible_draw(arm, each) for each in fixed)
        yield from (draw for draw in draws if draw is not None)


def _possible_draw(arm: Arm, fixed: Mapping[str, Value]) -> dict[str, Value] | None:
    """Returns a draw with the `fixed` values as far as they are drawn; None if none is possible.

    The largest numbers and first choices are tried first, then random values.
    """
    rng = random.Random(0)
    for attempt in range(ATTEMPTS):
        drawn: dict[str, Value] = {}
        for name, dimension in arm.dimensions.items():
            if arm.is_active(dimension, drawn):
                values = _few_values(dimension)
                drawn[name] = fixed.get(name, values[0] if not attempt else rng.choice(values))
        try:
            arm.configure(drawn)
        except ValueError:
            continue
        return drawn
    return None


def _few_values(dimension: Dimension) -> Sequence[Value]:
    """Returns values of a dimension; of numbers the largest first."""
    if dimension.type == "choice":
        return sorted(dimension.choices, reverse=True) if _is_number(dimension) else dimension.choices
    is_whole = dimension.type == "int"
    return [int(value) if is_whole else value for value in (dimension.high, dimension.low)]


def _is_number(dimension: Dimension) -> bool:
    return dimension.type != "choice" or not any(isinstance(value, bool | str) for value in dimension.choices)


def _with_small_batches(plan: TrialPlan) -> TrialPlan:
    """Returns the plan with as few and as short examples as its methods allow."""
    methods: dict[str, str] = {family: getattr(plan, family) for family in FAMILIES}
    units = {name: SETTINGS[name].metadata["unit"] for name in plan.settings}
    sizes = {name: int(v) for name, v in plan.settings.items() if units[name] == "example" and v}
    lengths = {name: min(int(v), LONGEST) for name, v in plan.settings.items() if units[name] == "token"}
    for limit in SIZES:
        small = plan.settings | lengths | {name: min(size, limit) for name, size in sizes.items()}
        if not why_incompatible(methods, small, len(plan.objectives)):
            return replace(plan, settings=small)
    return replace(plan, settings=plan.settings | lengths)


def _kind(plan: TrialPlan) -> str:
    """Returns what decides whether a plan's network can be trained, as text."""
    choices = {name: value for name, value in plan.settings.items() if isinstance(value, bool | str)}
    outputs = sorted({(objective.output, objective.data) for objective in plan.objectives})
    return repr((plan.model, plan.weighting, plan.surgery, plan.schedule, outputs, sorted(choices.items())))


def _structure(plan: TrialPlan) -> str:
    """Returns what a plan's network is made of, as text; plans of the same structure share one network here."""
    settings = {name: value for name, value in plan.settings.items() if name in plan.training.__dataclass_fields__}
    for name in ("lr", "head_lr", "engine", "precision"):
        settings.pop(name, None)
    return repr((plan.model, plan.objectives, plan.primitives, sorted(settings.items())))


# ---- trying one ----


def _model_key(search: Search, arm: str) -> str:
    """Returns where the model of an arm is declared."""
    return next((".".join(map(str, keys)) for keys in search.models if arm in keys), "model")


def _network(plan: TrialPlan, networks: dict[str, Network], key: str) -> Network:
    """Returns the network of a plan, which is built and examined once. Raises SpecError about the model at `key`."""
    structure = _structure(plan)
    if structure not in networks:
        metadata = load_metadata(Path(plan.task["data"]))
        try:
            network = build(plan, metadata)
        except SpecError:
            raise
        except Exception as error:  # each library refuses in its own way
            words = _first_words(error)
            raise SpecError(words if "cannot" in words else f"cannot be used: {words}", key=key) from error
        for finding in modality_of(metadata).network_findings(network, plan, metadata):
            if finding.is_refusal:
                raise SpecError(finding.text, key=key)
        networks.clear()  # one at a time in memory
        networks[structure] = network
    return networks[structure]


def _try_steps(plan: TrialPlan, network: Network, key: str) -> str:
    """Takes a step in each phase of a plan, on a CPU; returns a remark on its surgery, or "".

    Raises SpecError about the model at `key` if a step fails.
    """
    folder = Path(plan.task["data"])
    metadata, splits = load_metadata(folder), open_splits(folder)
    context = TrainingContext(plan, metadata, network, splits, batches_of(plan, metadata, splits), ProcessGroup())
    phases = METHODS[plan.schedule].load()(plan.training, plan.method_settings("schedule"))
    try:
        update = Update(context)
        for phase, number in itertools.product(phases, [1, *_first_request(update)]):
            if phase.contrasts_labels:
                ContrastStep(context)(number)
            elif phase.fits_head:
                assert network.classifier.weight is not None  # its inputs are those of all examples, which take longer
            else:
                update(phase, number)
                update.observe_after_update()
        return update.basis.remark if update.basis else ""
    except ArithmeticError:
        return ""  # of the values of this batch, not of the kind
    except Exception as error:
        methods = " x ".join((plan.weighting, plan.surgery, plan.schedule))
        problem = f"a trial of arm {plan.arm!r} ({methods}) fails with it: {_first_words(error)}"
        raise SpecError(problem, key=key) from error


def _first_request(update: Update) -> list[int]:
    """Returns the first step after step 1 for which the weighting requests gradients, if it requests none at step 1."""
    requested = update.weighting.required_gradients
    first = next((number for number in range(1, FIRST_STEPS) if requested(number)), 1)
    return [first] if first > 1 else []


def _first_words(error: Exception) -> str:
    """Returns an error in one line of at most 300 characters."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:297]}..."
