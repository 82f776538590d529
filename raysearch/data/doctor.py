"""The data doctor: what is known of a task's splits before anything is trained, as facts and as sentences.

Facts are counts and are stored with prepared data. `describe` says what there is; `warn` says what will mislead. Texts
are compared without regard to case and spaces. Nothing is read here, and no torch is needed.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from raysearch.data.splits import EXTRA_PREFIX, UNSCORED, Examples
from raysearch.formatting import format_count

CHOOSING = "select_dev"
SMALL_DEV = 200  # rows of select_dev; with so many, the standard error of an accuracy is at most 0.035
FEW_ROWS = 5  # of a class that cannot be learned from
SHOWN_CLASSES = 6
CUT_SHARE = 0.05  # of the texts; a larger share that is cut is worth a warning
LENGTHS = (32, 64, 96, 128, 192, 256, 384, 512)  # that are proposed for max_length
TYPICAL_SCORE = 0.75  # at which the standard error is stated


@dataclass(frozen=True, kw_only=True)
class DataFacts:
    """What was counted in a task's splits."""

    rows: dict[str, int]  # of each split
    classes: dict[str, dict[str, int]] = field(default_factory=dict)  # rows by split and class; empty if none has one
    duplicates: dict[str, int] = field(default_factory=dict)  # rows that repeat another one of their split
    leaks: dict[str, int] = field(default_factory=dict)  # rows of a scored split in another: {"test in train": 3}
    exact_leaks: dict[str, int] = field(default_factory=dict)  # those of `leaks` with the same case and spaces
    conflicts: int = 0  # texts of train that carry more than one label
    exact_conflicts: int = 0  # those of `conflicts` with the same case and spaces
    lengths: tuple[int, ...] = ()  # percentiles 0 to 100 of train's lengths in tokens; empty where there are none
    is_estimated: bool = False  # the lengths are estimated from words

    @classmethod
    def from_plain(cls, stored: Mapping[str, Any]) -> DataFacts:
        """Returns the facts that `to_plain` wrote."""
        return cls(**{**stored, "lengths": tuple(stored.get("lengths", ()))})

    def to_plain(self) -> dict[str, Any]:
        """Returns the facts in values that JSON can hold."""
        return asdict(self)

    @property
    def labelled(self) -> int:
        """The labelled rows from which configurations may be trained and chosen: all but test."""
        return sum(self.rows.get(name, 0) for name in ("train", "meta_dev", CHOOSING))

    def share_cut(self, max_length: int) -> float:
        """Returns the share of texts with more than `max_length` tokens, to 0.01."""
        return sum(length > max_length for length in self.lengths) / max(len(self.lengths), 1)

    @property
    def sufficient_length(self) -> int:
        """The smallest of LENGTHS that cuts at most CUT_SHARE of the texts; the largest if none does."""
        return next((length for length in LENGTHS if self.share_cut(length) <= CUT_SHARE), LENGTHS[-1])


def gather_facts(
    splits: Mapping[str, Examples], lengths: Sequence[int] = (), *, is_estimated: bool = False
) -> DataFacts:
    """Counts what there is in the splits; `lengths` are those of train's texts in tokens, or of a sample of them."""
    keys = {name: [_normalise(key) for key in examples.keys] for name, examples in splits.items()}
    exact = {name: set(examples.keys) for name, examples in splits.items() if name not in UNSCORED}
    classes = {name: dict(counts) for name, examples in splits.items() if (counts := _class_counts(name, examples))}
    leaks, exact_leaks = {}, {}
    for name, other in _leaky_pairs(splits):
        distinct = set(keys[other])
        leaks[f"{name} in {other}"] = sum(key in distinct for key in keys[name])
        exact_leaks[f"{name} in {other}"] = sum(key in exact[other] for key in splits[name].keys)
    return DataFacts(
        rows={name: len(examples) for name, examples in splits.items()},
        classes=classes,
        duplicates={name: len(content) - len(set(content)) for name, content in keys.items()},
        leaks=leaks,
        exact_leaks=exact_leaks,
        conflicts=_count_conflicts(keys["train"], splits["train"]) if "train" in classes else 0,
        exact_conflicts=_count_conflicts(splits["train"].keys, splits["train"]) if "train" in classes else 0,
        lengths=_percentiles(lengths) if any(lengths) else (),
        is_estimated=is_estimated,
    )


def _normalise(key: str) -> str:
    return " ".join(key.casefold().split())


def _labels(examples: Examples) -> Sequence[Any]:
    return getattr(examples, "labels", ())


def _class_counts(name: str, examples: Examples) -> Mapping[str, int]:
    """Returns the rows of each class, the largest first; empty for numbers, several labels and unlabelled rows."""
    labels = _labels(examples)
    if name in UNSCORED or name.startswith(EXTRA_PREFIX) or not labels or not isinstance(labels[0], str):
        return {}
    return dict(sorted(Counter(labels).items(), key=lambda item: (-item[1], item[0])))


def _leaky_pairs(splits: Mapping[str, Examples]) -> list[tuple[str, str]]:
    held_out = [name for name in ("meta_dev", CHOOSING, "test") if name in splits]
    pairs = [(name, "train") for name in held_out]
    return pairs + [("test", other) for other in held_out if "test" in splits and other != "test"]


def _count_conflicts(keys: Sequence[str], examples: Examples) -> int:
    pairs = set(zip(keys, _labels(examples), strict=True))
    return sum(count > 1 for count in Counter(key for key, _ in pairs).values())


def _percentiles(lengths: Sequence[int]) -> tuple[int, ...]:
    ordered = sorted(int(length) for length in lengths)
    return tuple(ordered[round(percent / 100 * (len(ordered) - 1))] for percent in range(101))


# ---- numbers that follow from the facts ----


def majority_score(facts: DataFacts, metric: str) -> float | None:
    """Returns what always predicting train's largest class scores on select-dev; None where that is not defined."""
    train, dev = facts.classes.get("train"), facts.classes.get(CHOOSING)
    if not train or not dev:
        return None
    share = dev.get(next(iter(train)), 0) / sum(dev.values())
    scores = {"accuracy": share, "micro_f1": share, "mean_auc": 0.5}
    return scores.get(metric, 2 * share / (1 + share) / len(train) if metric == "macro_f1" else None)


def standard_error(facts: DataFacts, metric: str, *, is_cross_validated: bool = False) -> float | None:
    """Returns about the standard error of a score of TYPICAL_SCORE on the rows that choose; None without classes.

    Binomial for accuracy and micro-F1. Macro-F1 is taken as the mean of the classes' recalls, each binomial: this is an
    estimate. For r2, 2 sqrt(R^2) (1 - R^2) / sqrt(n) (Olkin & Finn 1995, https://doi.org/10.1037/0033-2909.118.1.155).
    """
    names = ("train", "meta_dev", CHOOSING) if is_cross_validated else (CHOOSING,)
    rows = sum(facts.rows.get(name, 0) for name in names)
    variance = TYPICAL_SCORE * (1 - TYPICAL_SCORE)
    if not rows:
        return None
    if metric == "r2":
        return 2 * math.sqrt(TYPICAL_SCORE) * (1 - TYPICAL_SCORE) / math.sqrt(rows)
    if metric in ("accuracy", "micro_f1"):
        return math.sqrt(variance / rows)
    counts: Counter[str] = Counter()
    for name in names:
        counts.update(facts.classes.get(name, {}))
    if metric != "macro_f1" or not counts:
        return None
    return math.sqrt(sum(variance / count for count in counts.values())) / len(counts)


def choosing_rows(facts: DataFacts, *, is_cross_validated: bool = False) -> int:
    """Returns how many rows a configuration's score rests on."""
    return facts.labelled if is_cross_validated else facts.rows.get(CHOOSING, 0)


# ---- sentences ----


def describe(facts: DataFacts, metric: str, *, is_cross_validated: bool = False) -> dict[str, str]:
    """Returns what there is: rows, classes, lengths, the majority's score and what chance does to a score."""
    sizes = ", ".join(f"{name.replace('_', '-')} {count}" for name, count in facts.rows.items() if count)
    described = {"rows": sizes}
    if train := facts.classes.get("train"):
        total = sum(train.values())
        shown = [f"{name} {count / total:.0%}" for name, count in list(train.items())[:SHOWN_CLASSES]]
        hidden = len(train) - len(shown)
        described["classes"] = f"{len(train)}: {', '.join(shown)}{f' and {hidden} smaller ones' if hidden else ''}"
    if facts.lengths:
        origin = "about, from the words: " if facts.is_estimated else ""
        half, long = facts.lengths[50], facts.lengths[95]
        described["tokens"] = f"{origin}half of the texts have {half} or more, one in 20 has {long} or more"
    if (score := majority_score(facts, metric)) is not None:
        largest = next(iter(facts.classes["train"]))
        described["majority"] = f"always predicting {largest} scores {score:.3f} {metric}"
    error = standard_error(facts, metric, is_cross_validated=is_cross_validated)
    if error is not None:
        rows = choosing_rows(facts, is_cross_validated=is_cross_validated)
        rests = "by cross-validation" if is_cross_validated else "of select-dev"
        described["chance"] = (
            f"{format_count(rows, 'row')} {rests} choose: {TYPICAL_SCORE} {metric} has a standard error of about "
            f"{error:.3f}"
        )
    return described


def warn(
    facts: DataFacts, metric: str, *, max_length: int | None = None, is_cross_validated: bool = False
) -> list[str]:
    """Returns a sentence with a remedy for everything that misleads a search, beside what the modality's notes say.

    `max_length` is the setting, None where it has no effect.
    """
    notes = [*_repetitions(facts), *_rare_classes(facts, metric, is_cross_validated=is_cross_validated)]
    if max_length is not None and facts.lengths and facts.share_cut(max_length) > CUT_SHARE:
        notes.append(_cut_texts(facts, max_length))
    rows = facts.rows.get(CHOOSING, 0)
    if 0 < rows < SMALL_DEV and not is_cross_validated:
        notes.append(
            f"only {format_count(rows, 'row')} of select-dev choose configurations; `selection: auto` scores them "
            "on folds of all labelled rows"
        )
    return notes


def _repetitions(facts: DataFacts) -> list[str]:
    notes = []
    for pair, count in facts.leaks.items():
        name, _, other = pair.partition(" in ")
        if (near := count - facts.exact_leaks[pair]) > 0:
            rows = f"{near} {name} {'row stands' if near == 1 else 'rows stand'}"
            notes.append(f"{rows} in {other} with another case or other spaces: scores on {name} are too high")
    if (near := facts.conflicts - facts.exact_conflicts) > 0:
        texts = f"{near} train {'text carries' if near == 1 else 'texts carry'}"
        notes.append(f"{texts} another label where case or spaces differ")
    if repeated := facts.duplicates.get("train", 0):
        share = repeated / facts.rows["train"]
        if share >= 0.01:
            notes.append(f"{repeated} train rows ({share:.0%}) repeat another one, apart from case and spaces")
    return notes


def _rare_classes(facts: DataFacts, metric: str, *, is_cross_validated: bool) -> list[str]:
    train, dev = facts.classes.get("train", {}), facts.classes.get(CHOOSING, {})
    notes = []
    if rare := [name for name, count in train.items() if count < FEW_ROWS]:
        notes.append(f"{_name(rare)} {'has' if len(rare) == 1 else 'have'} fewer than {FEW_ROWS} train rows")
    scarce = [name for name in train if 0 < dev.get(name, 0) < FEW_ROWS]
    if metric == "macro_f1" and scarce and not is_cross_validated:
        one = dev[scarce[-1]]
        notes.append(
            f"{_name(scarce)} {'has' if len(scarce) == 1 else 'have'} fewer than {FEW_ROWS} select-dev rows: there one "
            f"prediction moves macro_f1 by about {1 / len(train) / one:.2f}"
        )
    return notes


def _name(classes: Sequence[str]) -> str:
    shown = ", ".join(classes[:SHOWN_CLASSES])
    hidden = len(classes) - SHOWN_CLASSES
    return f"{'class' if len(classes) == 1 else 'classes'} {shown}{f' and {hidden} more' if hidden > 0 else ''}"


def _cut_texts(facts: DataFacts, max_length: int) -> str:
    cut, longer = facts.share_cut(max_length), facts.sufficient_length
    cuts = f"cuts {'about ' if facts.is_estimated else ''}{cut:.0%} of the train texts"
    problem = f"max_length {max_length} {cuts} (half have {facts.lengths[50]} tokens or more)"
    if longer <= max_length:
        return problem
    return f"{problem}; --set settings.max_length={longer} cuts {facts.share_cut(longer):.0%}"
