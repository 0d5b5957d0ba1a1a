"""The parts of the benchmarks that need no measuring."""

from __future__ import annotations

from collections.abc import Collection

import pytest

from tests.benchmarks.regressions import Regression, regressions
from tests.benchmarks.report import PAGE, replace_blocks, table
from tests.benchmarks.rows import Row, Sense, number

PAGE_TEXT = """# Title

<!-- generated: table -->

old

<!-- end of table -->

Prose.
"""


def row(value: float, **more: object) -> Row:
    return Row(**({"name": "x", "what": "what", "limit": "1 us", "ours": "2 us", "value": value} | more))  # type: ignore[arg-type]


def test_a_generated_block_is_replaced_and_prose_stays() -> None:
    page = replace_blocks(PAGE_TEXT, {"table": "new\n"})
    assert page == PAGE_TEXT.replace("old", "new")
    assert replace_blocks(page, {"table": "new"}) == page


@pytest.mark.parametrize("page", ["", PAGE_TEXT + PAGE_TEXT, PAGE_TEXT.replace("end of", "and of")])
def test_a_page_without_one_pair_of_markers_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="'table'"):
        replace_blocks(page, {"table": "new"})


def test_the_page_has_the_markers_of_every_block() -> None:
    page = PAGE.read_text()
    assert "kept" in replace_blocks(page, {"table": "kept", "details": "kept", "peers": "kept"})


def test_a_row_is_met_as_far_as_it_is_printed() -> None:
    assert row(2.404, target=2.4).met
    assert not row(2.406, target=2.4).met
    assert row(101_000, target=100_000, sense=Sense.AT_LEAST).met
    assert not row(0.94, target=0.95, sense=Sense.AT_LEAST).met
    assert row(9.0).met is None


def test_the_table_says_figure_target_and_whether_it_is_met() -> None:
    lines = table(
        [
            row(2.5, target=2.4, spread=(2.25, 2.75)),
            row(12.34, unit=" ms"),
            row(96, target=90, unit=" %", sense=Sense.AT_LEAST),
        ]
    )
    assert lines.splitlines()[2:] == [
        "| what | 1 us | 2 us | 2.50x (2.25 to 2.75) | at most 2.4x | **no** |",
        "| what | 1 us | 2 us | 12.3 ms |  |  |",
        "| what | 1 us | 2 us | 96.0 % | at least 90 % | yes |",
    ]


def test_numbers_have_the_digits_that_mean_something() -> None:
    assert [number(value) for value in (0.123, 9.876, 98.76, 123456.7)] == ["0.12", "9.88", "98.8", "123,457"]


def measured(*tries: dict[str, float]) -> tuple[list[Regression], list[list[str]]]:
    """What *tries* give, one after the other, and which rows were asked for each time."""
    asked: list[list[str]] = []

    def measure(names: Collection[str]) -> dict[str, float]:
        asked.append(list(names))
        return tries[len(asked) - 1]

    return regressions({"a": 2.0, "b": 4.0}, measure, say=lambda text: None), asked


def test_ratios_up_to_the_bound_pass_at_once() -> None:
    assert measured({"a": 3.0, "b": 1.0}) == ([], [["a", "b"]])


def test_a_row_that_is_fine_when_repeated_passes() -> None:
    failed, asked = measured({"a": 3.1, "b": 1.0}, {"a": 2.9})
    assert failed == []
    assert asked == [["a", "b"], ["a"]]


def test_a_row_that_is_always_over_its_bound_is_named_with_its_figures() -> None:
    failed, asked = measured({"a": 3.1, "b": 7.0}, {"a": 3.2, "b": 5.0}, {"a": 3.3})
    assert asked == [["a", "b"], ["a", "b"], ["a"]]
    assert [str(each) for each in failed] == ["a: 3.30x, recorded 2.00x, bound 3.00x (1.5 of the recorded)"]
