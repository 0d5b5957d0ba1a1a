"""What is changed in a module, and what is left alone."""

from __future__ import annotations

from textwrap import dedent

import pytest

from tests.mutation.mutants import mutants


def changes(source: str) -> set[str]:
    return {mutant.after for mutant in mutants(dedent(source), "module.py")}


@pytest.mark.parametrize(
    ("source", "after"),
    [
        ("a < b", {"a <= b", "a >= b"}),
        ("a <= b < c", {"a < b < c", "a > b < c", "a <= b <= c", "a <= b >= c"}),
        ("a is b", {"a is not b"}),
        ("a + b", {"a - b"}),
        ("a and b and c", {"a or b or c", "b and c", "a and c", "a and b"}),
        ("not a", {"a"}),
        ("a if b else c", {"a", "c"}),
        ("if a: b()", {"if not a:", "pass"}),
        ("x = 1", {"x = 2", "x = 0"}),
        ("x = 'a' or b''", {"'a' and b''", "b''", "'a'", "'XXa' or b''", "'a' or b'XX'"}),
        ("x = True", {"x = False"}),
        ("x.y = z", {"pass"}),
        ("raise a", {"pass"}),
        ("x = max(a, b)", {"min(a, b)"}),
        ("x = a.strip()", {"a"}),
        ("x = len(a)", {"a"}),
        ("x = {a: b, c: d}", {"{c: d}", "{a: b}", "{a: d, c: d}", "{a: b, c: b}"}),
        ("x = re.compile('a+b')", {"re.compile('a*b')", "re.compile('XXa+b')"}),
        ("def f():\n    return 1", {"return None", "2", "0"}),
        ("for x in y:\n    continue", {"break"}),
        ("while a:\n    b += c", {"while False:", "b -= c", "pass"}),
        ("[a for a in b if c]", {"if not c"}),
        ("try:\n    a\nexcept (B, C):\n    d", {"except ():", "except B:", "except C:"}),
    ],
)
def test_changes(source: str, after: set[str]) -> None:
    """Each kind of expression and statement becomes its neighbours, one at a time."""
    assert changes(source) == after


def test_what_is_left_alone() -> None:
    """Annotations, docstrings, assertions, slots and the words of errors make no mutants."""
    assert (
        changes(
            """
            '''Docstring.'''
            from typing import TYPE_CHECKING, TypeVar
            if TYPE_CHECKING:
                x = 1
            T = TypeVar("T")
            Number: TypeAlias = int | float
            class A:
                __slots__ = ("a",)
                a: int | None
                '''What it is.'''
                def f(self, x: Literal["y"]) -> Literal["z"]:
                    assert x < 1
                    raise NotImplementedError
            """
        )
        == set()
    )
    assert changes("raise E(f'{x:g} is no {y}' + 'z')") == {"pass", "f'{x:g} is no {y}' - 'z'"}


def test_long_ones_are_cut_to_what_differs() -> None:
    """A change within a long line is shown with what is around it."""
    (mutant,) = [it for it in mutants(f"x = [{'a, ' * 99}b < c, {'d, ' * 99}]", "module.py") if "b >= c" in it.after]
    assert mutant.change == "``module``: ``b < c`` → ``b >= c``"
    (mutant,) = [it for it in mutants(f"x = f({'a, ' * 99}'y', {'d, ' * 99})", "module.py") if "XXy" in it.after]
    assert mutant.before.startswith("...")
    assert "a, 'y', d" in mutant.before
    assert "a, 'XXy', d" in mutant.after
    assert mutant.after.endswith("...")


def test_mutants_are_told_apart() -> None:
    """Numbers, places and code belong to one mutant each, and are the same every time."""
    source = "class A:\n    def f(self):\n        return 1 + 1\n\nx = 3"
    found = list(mutants(source, "module.py"))
    assert [mutant.change for mutant in found] == [mutant.change for mutant in mutants(source, "module.py")]
    assert [mutant.number for mutant in found] == list(range(1, len(found) + 1))
    assert {(mutant.where, mutant.line) for mutant in found} == {("A.f", 3), ("module", 5)}
    results = []
    for mutant in found:
        namespace: dict[str, object] = {}
        exec(mutant.code, namespace)
        results.append((namespace["A"]().f(), namespace["x"]))  # type: ignore[operator]
    assert results == [(None, 3), (0, 3), (3, 3), (1, 3), (3, 3), (1, 3), (2, 4), (2, 2)]
