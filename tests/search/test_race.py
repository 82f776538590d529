"""The race over folds: who is dropped, and that every decision follows from the scores so far."""

from __future__ import annotations

from raysearch.search.race import Race


def take_all(race: Race, number: int, scores: list[float]) -> int:
    """Gives a configuration's scores until it is dropped; returns how many it got."""
    for count, score in enumerate(scores, start=1):
        if race.take(number, score):
            return count
    return len(scores)


def test_race_drops_whoever_is_no_better_on_the_same_folds() -> None:
    race = Race("search", 3, drops=True)
    assert take_all(race, 0, [0.5, 0.9, 0.4]) == 3, "the first has nobody to lose to"
    assert take_all(race, 1, [0.5, 0.9, 1.0]) == 2, "a tie on two folds is no better"
    assert take_all(race, 2, [0.7, 0.6, 1.0]) == 2
    assert take_all(race, 3, [0.6, 0.85, 0.6]) == 3
    drop = race.dropped[2]
    assert (drop.leader, drop.cells, round(drop.difference, 9)) == (0, 2, -0.05)


def test_race_forgives_a_first_fold_within_the_leaders_spread() -> None:
    race = Race("search", 3, drops=True)
    take_all(race, 0, [0.5, 0.6, 0.7])  # a standard deviation of 0.1
    assert race.take(1, 0.401) is None
    assert race.take(2, 0.399) is not None
    assert race.take(1, 0.69) is not None, "the mean over two folds has to be higher"


def test_race_compares_with_the_highest_mean_of_the_furthest() -> None:
    race = Race("search", 2, drops=True)
    take_all(race, 0, [0.5, 0.5])
    take_all(race, 1, [0.6, 0.8])
    take_all(race, 2, [0.61, 0.1])
    assert race.take(3, 0.4) is not None
    assert race.dropped[3].leader == 1, "it leads still, although 2 is better on the first fold"


def test_race_before_any_is_complete_compares_with_the_furthest() -> None:
    race = Race("search", 3, drops=True)
    assert race.take(0, 0.5) is None
    assert race.take(1, 0.4) is None, "one score of the leader has no spread"
    assert race.take(0, 0.6) is None, "nobody else has two folds"
    assert race.take(1, 0.65) is not None
    assert race.take(2, 0.3) is not None


def test_race_forgets_a_configuration_that_failed() -> None:
    race = Race("search", 3, drops=True)
    race.take(0, 0.9)
    race.take(0, None)
    assert race.take(1, 0.1) is None


def test_race_without_drops_decides_nothing() -> None:
    race = Race("search", 2, drops=False)
    assert take_all(race, 0, [0.5, 0.5]) == take_all(race, 1, [0.1, 0.1]) == 2
    assert not race.dropped
