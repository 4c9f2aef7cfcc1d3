"""The filters that prunes share: moments, ages and labels."""

from __future__ import annotations

import pytest

from sampan.engine.container import now
from sampan.engine.pruning import is_labelled, read_until
from sampan.errors import InvalidArgument

SECOND = 1_000_000_000


@pytest.mark.parametrize(
    ("text", "age"),
    [("10m", 600), ("1h30m", 5400), ("1.5h", 5400), ("90s", 90), ("500ms", 0.5), ("24h", 86400)],
)
def test_ages_count_from_now(text: str, age: float) -> None:
    assert abs(now() - age * SECOND - read_until({"until": [text]})) < 5 * SECOND


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("1700000000", 1_700_000_000 * SECOND),
        ("1700000000.5", 1_700_000_000 * SECOND + SECOND // 2),
        ("2023-11-14T22:13:20Z", 1_700_000_000 * SECOND),
        ("2023-11-14T22:13:20", 1_700_000_000 * SECOND),
        ("2023-11-15T00:13:20+02:00", 1_700_000_000 * SECOND),
        ("2023-11-14T22:13", 1_699_999_980 * SECOND),
        ("2023-11-14", 1_699_920_000 * SECOND),
    ],
)
def test_moments_are_read(text: str, moment: int) -> None:
    assert read_until({"until": [text]}) == moment


@pytest.mark.parametrize("text", ["soon", "", "10x", "-5m", "2023-14-44"])
def test_what_is_no_moment_is_refused(text: str) -> None:
    if text:
        with pytest.raises(InvalidArgument):
            read_until({"until": [text]})
    else:
        assert read_until({"until": [text]}) == 0


@pytest.mark.parametrize(
    ("filters", "good"),
    [
        ({}, True),
        ({"label": ["a"]}, True),
        ({"label": ["a=1", "b"]}, True),
        ({"label": ["a=2"]}, False),
        ({"label!": ["c"]}, True),
        ({"label!": ["a"]}, False),
        ({"label!": ["a=2"]}, True),
        ({"label!": ["c", "b"]}, False),
        ({"label": ["a"], "label!": ["b=x"]}, True),
    ],
    ids=str,
)
def test_labels_are_asked_for_and_refused(filters: dict[str, list[str]], good: bool) -> None:
    assert is_labelled(filters, {"a": "1", "b": ""}) is good
