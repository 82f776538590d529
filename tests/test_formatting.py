from __future__ import annotations

import pytest

from raysearch import formatting


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        (True, "true"),
        (0.123456, "0.1235"),
        (1e-05, "1e-05"),
        (12, "12"),
        ({"a": 0.5, "b": "x"}, "a=0.5  b=x"),
        ({}, "none"),
        (["a", 1], "a, 1"),
        ([], "none"),
    ],
)
def test_format_value_is_short(value: object, text: str) -> None:
    assert formatting.format_value(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "nothing"), (False, "false"), ([1], "a list"), ({}, "a mapping"), ("x", "'x'"), (2, "2"), (0.5, "0.5")],
)
def test_describe_value_names_what_a_file_holds(value: object, text: str) -> None:
    assert formatting.describe_value(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "unknown"),
        (0, "0 s"),
        (0.5, "0.5 s"),
        (9.97, "10 s"),
        (44.6, "45 s"),
        (59.7, "1 min 0 s"),
        (245, "4 min 5 s"),
        (7800, "2 h 10 min"),
        (90_000, "25 h 0 min"),
    ],
)
def test_format_duration_has_at_most_two_units(seconds: float | None, text: str) -> None:
    assert formatting.format_duration(seconds) == text


def test_format_count_has_the_plural() -> None:
    assert [formatting.format_count(n, "seed") for n in (0, 1, 2)] == ["0 seeds", "1 seed", "2 seeds"]


@pytest.mark.parametrize(
    ("low", "high", "open_low", "text"),
    [
        (0, 1, False, "[0, 1]"),
        (0, 1, True, "(0, 1]"),
        (None, 2.5, False, "(-inf, 2.5]"),
        (1e-6, None, False, "[1e-06, inf)"),
    ],
)
def test_format_interval_shows_which_ends_count(low: float, high: float, open_low: bool, text: str) -> None:
    assert formatting.format_interval(low, high, open_low=open_low) == text


def test_format_difference_has_a_sign() -> None:
    assert formatting.format_difference(0.012) == "+0.0120"
    assert formatting.format_differences(-0.01, 0.5) == "[\N{MINUS SIGN}0.0100, +0.5000]"
