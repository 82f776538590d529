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
    assert take_all(race, 1, [0.49, 1.0, 1.0]) == 1
    assert take_all(race, 2, [0.5, 1.0, 1.0]) == 1, "a tie is no better"
    assert take_all(race, 3, [0.7, 0.6, 1.0]) == 2
    assert take_all(race, 4, [0.6, 0.85, 0.6]) == 3
    drop = race.dropped[3]
    assert (drop.leader, drop.cells, round(drop.difference, 9)) == (0, 2, -0.05)


def test_race_compares_with_the_highest_mean_of_the_furthest() -> None:
    race = Race("search", 2, drops=True)
    take_all(race, 0, [0.5, 0.5])
    take_all(race, 1, [0.6, 0.8])
    assert race.take(2, 0.55) is not None
    assert race.dropped[2].leader == 1
    take_all(race, 3, [0.61, 0.1])
    assert race.take(4, 0.605) is None, "configuration 1 leads still, although 3 is better on the first fold"


def test_race_before_any_is_complete_compares_with_the_furthest() -> None:
    race = Race("search", 3, drops=True)
    assert race.take(0, 0.5) is None
    assert race.take(1, 0.4) is not None
    assert race.take(2, 0.6) is None
    assert race.take(0, 0.9) is None, "nobody else has two folds"
    assert race.take(2, 0.7) is not None


def test_race_forgets_a_configuration_that_failed() -> None:
    race = Race("search", 3, drops=True)
    race.take(0, 0.9)
    race.take(0, None)
    assert race.take(1, 0.1) is None


def test_race_without_drops_decides_nothing() -> None:
    race = Race("search", 2, drops=False)
    assert take_all(race, 0, [0.5, 0.5]) == take_all(race, 1, [0.1, 0.1]) == 2
    assert not race.dropped
