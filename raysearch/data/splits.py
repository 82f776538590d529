"""The names of the splits of a task, and how examples are split.

    train                      trains the end task
    meta_dev                   gives meta-gradients
    select_dev                 is used by early stopping, the scheduler and the search
    test                       is scored once, by export; nothing else opens it
    domain                     unlabelled text of the same kind
    out_of_domain, neural_lm   unlabelled text of another kind, and text written by a language model
    extra_NAME                 a further labelled data set, with labels of its own
    auxiliary                  images with labels of their own

Only train and select_dev are in every task. Examples are split by the sha256 of their content, never by their order.
The same examples are therefore split in the same way on every machine, and equal examples stay together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Protocol, Self, TypeVar

from raysearch.errors import SpecError

SPLITS = ("train", "meta_dev", "select_dev", "test", "domain", "out_of_domain", "neural_lm", "auxiliary")
UNLABELLED = ("domain", "out_of_domain", "neural_lm")
UNSCORED = (*UNLABELLED, "auxiliary")  # splits that only auxiliary objectives use; so do those called extra_NAME
EXTRA_PREFIX = "extra_"
FRACTIONS = {"dev": 0.1, "test": 0.1}  # of the distinct training examples, unless the task declares others


class Examples(Protocol):
    """Examples of one source, in its order."""

    @property
    def source(self) -> str:
        """The file, folder or data set that they are from."""

    @property
    def keys(self) -> Sequence[str]:
        """The content of each example, or a hash of it; equal keys are never split."""

    def __len__(self) -> int: ...

    def take(self, rows: Sequence[int]) -> Self:
        """Returns the examples with these indices, in this order."""


E = TypeVar("E", bound=Examples)


def declared_fractions(split: Mapping[str, float] | None) -> dict[str, float]:
    """Returns the fractions for dev and test: those that a task declares, or else the defaults."""
    return {part: float((split or {}).get(part, default)) for part, default in FRACTIONS.items()}


def order_by_hash(contents: Iterable[str], salt: str) -> list[str]:
    """Returns the distinct contents, in the order of the sha256 of salt and content."""
    return sorted(set(contents), key=lambda content: hashlib.sha256(f"{salt}\0{content}".encode()).digest())


def split_by_hash(
    contents: Iterable[str], fractions: Mapping[str, float], salt: str, *, remainder: int = 0
) -> dict[str, str]:
    """Returns the split of every distinct content, which is "" for those that no fraction takes.

    The contents are ordered by the sha256 of salt and content, and each fraction takes the next of them. A fraction
    above 0 takes at least one, as long as `remainder` contents are left.

    Raises SpecError if the fractions sum to 1 or more.
    """
    if sum(fractions.values()) >= 1:
        raise SpecError("the fractions leave nothing to train on", key="task.split")
    order = order_by_hash(contents, salt)
    split_of: dict[str, str] = dict.fromkeys(order, "")
    start = 0
    for name, fraction in fractions.items():
        count = max(1, round(fraction * len(order))) if fraction > 0 else 0
        stop = start + max(0, min(count, len(order) - start - remainder))
        split_of.update(dict.fromkeys(order[start:stop], name))
        start = stop
    return split_of


def split_keeping_classes(
    keys: Sequence[str], classes: Sequence[str], fractions: Mapping[str, float], salt: str, *, rest_has_all: bool
) -> dict[str, str]:
    """Returns the split of every distinct key as `split_by_hash` does, or class by class if that loses a class.

    With few examples of a class, chance may leave none for train, which would be refused, or none for a held-out split,
    whose score then says nothing of it. A class is lost if it has more distinct keys than there are fractions above 0,
    and none in one of the splits or in the rest; with `rest_has_all` also if it has none in the rest, however few it
    has. `classes` is parallel to `keys`.
    """
    split_of = split_by_hash(keys, fractions, salt)
    keys_of: dict[str, list[str]] = {}
    for name, key in dict.fromkeys(zip(classes, keys, strict=True)):
        keys_of.setdefault(name, []).append(key)
    parts = [name for name, fraction in fractions.items() if fraction > 0]
    if all(_is_kept(class_keys, split_of, parts, rest_has_all) for class_keys in keys_of.values()):
        return split_of
    stratified: dict[str, str] = {}
    for class_keys in keys_of.values():
        is_rare = len(class_keys) <= len(parts)
        if is_rare and not rest_has_all:
            stratified |= {key: split_of[key] for key in class_keys if key not in stratified}
            continue
        for key, name in split_by_hash(class_keys, fractions, salt, remainder=1).items():
            stratified.setdefault(key, name)
    for class_keys in keys_of.values() if rest_has_all else ():
        if all(stratified[key] for key in class_keys):  # its last key is also of a class that was split before
            stratified[order_by_hash(class_keys, salt)[-1]] = ""
    return stratified


def _is_kept(keys: Sequence[str], split_of: Mapping[str, str], parts: Sequence[str], rest_has_all: bool) -> bool:
    """Says whether a class with these distinct keys is in every split that it has to be in."""
    present = {split_of[key] for key in keys}
    if len(keys) > len(parts):
        return present >= {"", *parts}
    return "" in present or not rest_has_all


def split_examples(
    examples: E, fractions: Mapping[str, float], salt: str, rest: str, classes: Sequence[str] = ()
) -> dict[str, E]:
    """Returns the examples of each fraction's split, and what remains as the split `rest`.

    With `classes`, one for each example, no class is lost if there are enough examples (see `split_keeping_classes`).
    """
    keys = examples.keys
    if classes:
        split_of = split_keeping_classes(keys, classes, fractions, salt, rest_has_all=rest == "train")
    else:
        split_of = split_by_hash(keys, fractions, salt)
    names = {name: name for name in fractions} | {rest: ""}
    return {
        name: examples.take([i for i, key in enumerate(keys) if split_of[key] == stored])
        for name, stored in names.items()
    }


def split_parts(
    parts: Mapping[str, E],
    split: Mapping[str, float] | None,
    meta_dev: float,
    classes: Callable[[E], Sequence[str]] | None = None,
) -> dict[str, E]:
    """Returns the splits of a task, in the order of SPLITS, from the parts that its files hold.

    Args:
        parts: `train`, perhaps `dev` and `test`, and any other splits, which are passed through.
        split: the fractions of train for dev and test if they are not among the parts.
        meta_dev: the fraction of dev for meta_dev; the rest is select_dev.
        classes: returns the class of each example, none of which a split is to lose; nothing if there are none.

    Raises SpecError if nothing is left for train or select_dev.
    """
    splits = dict(parts)
    fractions = {part: share for part, share in declared_fractions(split).items() if part not in parts}
    train = splits["train"]
    splits |= split_examples(train, fractions, "split", rest="train", classes=classes(train) if classes else ())
    dev = splits.pop("dev")
    splits |= split_examples(
        dev, {"meta_dev": meta_dev}, "meta_dev", rest="select_dev", classes=classes(dev) if classes else ()
    )
    for name, source in (("train", train.source), ("select_dev", dev.source)):
        if not len(splits[name]):
            content = train if name == "train" or "dev" in fractions else dev
            counts = f"{len(content)} rows, {len(set(content.keys))} distinct"
            if classes and (labels := len(set(classes(content)))):
                counts += f", with {labels} labels"
            problem = f"no rows are left for {name} ({counts}); give more rows or other fractions"
            raise SpecError(problem, file=source)
    extra = [name for name in splits if name.startswith(EXTRA_PREFIX)]
    return {name: splits[name] for name in (*SPLITS, *extra) if name in splits}


def count_leaks(keys: Mapping[str, Sequence[str]]) -> dict[str, int]:
    """Returns how many examples of a held-out split are also in another split, such as {"test in train": 3}."""
    distinct = {name: set(split_keys) for name, split_keys in keys.items()}
    extra = [name for name in keys if name.startswith(EXTRA_PREFIX)]
    leaks = {}
    for name in ("meta_dev", "select_dev", "test"):
        for other in ("train", *UNSCORED, *extra, *(("meta_dev", "select_dev") if name == "test" else ())):
            if name in keys and other in keys:
                leaks[f"{name} in {other}"] = sum(key in distinct[other] for key in keys[name])
    return leaks


def leak_notes(leaks: Mapping[str, int], sizes: Mapping[str, int], what: str) -> list[str]:
    """Returns a sentence for each leak into a split that is scored or trained on for the end task.

    `what` names the examples, such as "images also stand".
    """
    notes = []
    for pair, count in leaks.items():
        name, _, other = pair.partition(" in ")
        if count and other not in UNSCORED:
            notes.append(f"{count} of {sizes[name]} {name} {what} in {other}")
    return notes


def sort_labels(names: Iterable[str]) -> list[str]:
    """Returns the distinct labels in order: whole numbers by value, then words."""

    def order(name: str) -> tuple[int, int, str, str]:
        digits = name.lstrip("0")  # compared by their number and then as text: int() refuses thousands of them
        return (0, len(digits), digits, name) if _is_number(name) else (1, 0, name, name)

    return sorted(set(names), key=order)


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit()
