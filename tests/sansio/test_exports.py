"""What each package exports is what it imports, sorted, and documented."""

from __future__ import annotations

import ast
import importlib
import inspect
from pathlib import Path

import pytest

PACKAGES = ["atom_sansio", "atom_sync", "atom_anyio"]


def imported(package: str) -> set[str]:
    path = Path(str(importlib.import_module(package).__file__))
    return {
        alias.asname or alias.name
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }


def isort_order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions."""
    return (0 if name.isupper() else 1 if name[0].isupper() else 2, name)


@pytest.mark.parametrize("package", PACKAGES)
def test_all_is_what_is_imported(package: str) -> None:
    """``__all__`` and the imports of a package name the same."""
    module = importlib.import_module(package)
    assert set(module.__all__) == imported(package)
    assert all(hasattr(module, name) for name in module.__all__)


@pytest.mark.parametrize("package", [*PACKAGES, "atom_sansio.testing"])
def test_all_is_sorted(package: str) -> None:
    """``__all__`` is in the order in which it is looked up, without repetition."""
    exported = importlib.import_module(package).__all__
    assert list(exported) == sorted(set(exported), key=isort_order)


@pytest.mark.parametrize("package", [*PACKAGES, "atom_sansio.testing"])
def test_everything_is_documented(package: str) -> None:
    """Every public class and function says what it does, and so does each public method of its own."""
    module = importlib.import_module(package)
    assert module.__doc__
    for name in module.__all__:
        it = getattr(module, name)
        if not (inspect.isclass(it) or inspect.isfunction(it)):
            continue
        assert it.__doc__, name
        assert not it.__doc__.startswith(f"{name}("), f"{name} has only the docstring that dataclass made"
        for attribute, value in vars(it).items() if inspect.isclass(it) else ():
            function = getattr(value, "__func__", value)
            if not attribute.startswith("_") and (inspect.isfunction(function) or isinstance(value, property)):
                assert value.__doc__, f"{name}.{attribute}"
