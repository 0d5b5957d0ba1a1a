"""Small changes to a module, each of which changes what it does unless it is equivalent.

Not changed, since nothing depends on it: annotations, docstrings, ``assert``, ``__slots__``, names of type
variables, blocks under ``TYPE_CHECKING``, and the words of error messages (constants in what is raised).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from types import CodeType
from typing import Final

_COMPARISONS: Final[dict[type[ast.cmpop], list[type[ast.cmpop]]]] = {
    ast.Lt: [ast.LtE, ast.GtE],
    ast.LtE: [ast.Lt, ast.Gt],
    ast.Gt: [ast.GtE, ast.LtE],
    ast.GtE: [ast.Gt, ast.Lt],
    ast.Eq: [ast.NotEq],
    ast.NotEq: [ast.Eq],
    ast.Is: [ast.IsNot],
    ast.IsNot: [ast.Is],
    ast.In: [ast.NotIn],
    ast.NotIn: [ast.In],
}
_OPERATORS: Final[dict[type[ast.operator], type[ast.operator]]] = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.FloorDiv,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.Add,
    ast.Pow: ast.Mult,
    ast.BitOr: ast.BitAnd,
    ast.BitAnd: ast.BitOr,
}
_TWINS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}
_QUANTIFIERS: Final = {"+": "*", "*": "+", "?": ""}
_LONGEST: Final = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """One module with one change."""

    number: int
    line: int
    where: str
    """The function or class that it is in, or ``module``."""
    before: str
    after: str
    code: CodeType

    @property
    def change(self) -> str:
        """The change, as the documentation lists it if it survives."""
        return f"``{self.where}``: ``{self.before}`` → ``{self.after}``"


def mutants(source: str, filename: str) -> Iterator[Mutant]:
    """Every mutant of a module, always in the same order."""
    tree = ast.parse(source, filename)
    seen = {ast.dump(tree)}
    number = 0
    for owner, name, index, node, where in list(_walk(tree, "module", words=False)):
        for replacement in _replacements(node, words=where.endswith(_WORDS)):
            shown = _context(owner, node)
            before = _text(shown or node)
            if replacement is not None:
                ast.copy_location(replacement, node)
            _put(owner, name, index, replacement or ast.copy_location(ast.Pass(), node))
            ast.fix_missing_locations(tree)
            dump = ast.dump(tree)
            if dump not in seen:
                seen.add(dump)
                number += 1
                before, after = _differing(before, _text(shown or replacement or ast.Pass()))
                yield Mutant(
                    number=number,
                    line=getattr(node, "lineno", 0),
                    where=where.removesuffix(_WORDS),
                    before=before,
                    after=after,
                    code=compile(tree, filename, "exec"),
                )
            _put(owner, name, index, node)


_WORDS: Final = " (message)"

_Place = tuple[ast.AST, str, "int | None", ast.AST, str]


def _walk(owner: ast.AST, where: str, *, words: bool) -> Iterator[_Place]:
    """Every node that may be replaced, with its place."""
    for name, value in ast.iter_fields(owner):
        if name in ("annotation", "returns", "type_comment", "ctx"):
            continue
        for index, node in enumerate(value) if isinstance(value, list) else [(None, value)]:
            if not isinstance(node, ast.AST) or _is_left_alone(node):
                continue
            inner = where
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                inner = node.name if where == "module" else f"{where}.{node.name}"
            message = words or isinstance(owner, ast.Raise)
            yield owner, name, index, node, inner + _WORDS * message
            yield from _walk(node, inner, words=message)


def _is_left_alone(node: ast.AST) -> bool:
    match node:
        case ast.Assert() | ast.Import() | ast.ImportFrom():
            return True
        case ast.Expr(value=ast.Constant()):
            return True
        case ast.AnnAssign(annotation=ast.Name(id="TypeAlias")):
            return True
        case ast.Assign(targets=[ast.Name(id="__slots__")], value=_):
            return True
        case ast.Call(func=ast.Name(id="TypeVar")):
            return True
        case ast.If(test=ast.Name(id="TYPE_CHECKING")):
            return True
        case ast.Raise(exc=ast.Name(id="NotImplementedError")):
            return True
    return False


def _replacements(node: ast.AST, *, words: bool) -> Iterator[ast.AST | None]:
    """What *node* may become; None where it goes without a replacement."""
    match node:
        case ast.Compare(left, [operator], right):
            for other in _COMPARISONS[type(operator)]:
                yield ast.Compare(left, [other()], right)
        case ast.Compare(left, operators, right):
            for i, operator in enumerate(operators):
                for other in _COMPARISONS[type(operator)]:
                    yield ast.Compare(left, [*operators[:i], other(), *operators[i + 1 :]], right)
        case ast.BinOp(left, operator, right):
            yield ast.BinOp(left, _OPERATORS[type(operator)](), right)
        case ast.AugAssign(target, operator, value):
            yield ast.AugAssign(target, _OPERATORS[type(operator)](), value)
            yield None
        case ast.BoolOp(operator, values):
            yield ast.BoolOp(ast.Or() if isinstance(operator, ast.And) else ast.And(), values)
            for i in range(len(values)):
                rest = values[:i] + values[i + 1 :]
                yield rest[0] if len(rest) == 1 else ast.BoolOp(operator, rest)
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.If(ast.UnaryOp(ast.Not()) | ast.Compare(ops=[_])):
            pass  # turned round where its test is changed
        case ast.If(test, body, orelse):
            yield ast.If(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.Dict(keys, values):
            for i in range(len(keys)):
                yield ast.Dict(keys[:i] + keys[i + 1 :], values[:i] + values[i + 1 :])
                for other in values[i + 1 :] + values[:i]:
                    if ast.dump(other) != ast.dump(values[i]):
                        yield ast.Dict(keys, [*values[:i], other, *values[i + 1 :]])
                        break
        case ast.IfExp(test, body, orelse):
            yield body
            yield orelse
        case ast.While(test, body, orelse):
            yield ast.While(ast.Constant(value=False), body, orelse)
        case ast.comprehension(target, iterable, [_, *_] as tests, is_async):
            for i, test in enumerate(tests):
                others = [*tests[:i], ast.UnaryOp(ast.Not(), test), *tests[i + 1 :]]
                yield ast.comprehension(target, iterable, others, is_async)
        case ast.Return(value) if value is not None and not _is_none(value):
            yield ast.Return(ast.Constant(value=None))
        case ast.Continue():
            yield ast.Break()
        case ast.Break():
            yield ast.Continue()
        case ast.Raise() | ast.Delete() | ast.Expr(ast.Call()):
            yield None
        case ast.Assign(targets=[ast.Attribute() | ast.Subscript(), *_]):
            yield None
        case ast.ExceptHandler(caught, name, body) if caught is not None:
            yield ast.ExceptHandler(ast.Tuple([], ast.Load()), name, body)
            if isinstance(caught, ast.Tuple):
                for element in caught.elts:
                    yield ast.ExceptHandler(element, name, body)
        case ast.Call(function, arguments, keywords):
            yield from _calls(function, arguments, keywords, words=words)
        case ast.Constant(value) if not words or isinstance(value, (bool, int, float)):
            yield from map(ast.Constant, _constants(value))


def _calls(
    function: ast.expr, arguments: list[ast.expr], keywords: list[ast.keyword], *, words: bool
) -> Iterator[ast.expr]:
    match function, arguments:
        case ast.Name(id=name), _ if name in _TWINS:
            yield ast.Call(ast.Name(_TWINS[name], ast.Load()), arguments, keywords)
        case ast.Attribute(value=ast.Name(id="re"), attr="compile"), [ast.Constant(value=pattern), *rest]:
            for other in _patterns(pattern):
                yield ast.Call(function, [ast.Constant(value=other), *rest], keywords)
    if words:
        return
    match function, arguments:
        case ast.Name(), [argument] if not keywords and not isinstance(argument, ast.Starred):
            yield argument
        case ast.Attribute(value=receiver), _ if not isinstance(receiver, ast.Name) or receiver.id not in _MODULES:
            yield receiver


_MODULES: Final = {"re", "orjson", "json", "h11", "base64", "hmac", "hashlib", "math", "ast", "dataclasses", "self"}
"""What ``name.function()`` is called on without being an argument of it."""


def _constants(value: object) -> Iterator[object]:
    match value:
        case bool():
            yield not value
        case int() | float():
            yield value + 1
            yield value - 1
        case str():
            yield "XX" + value if value else "XX"
        case bytes():
            yield b"XX" + value if value else b"XX"


def _patterns(pattern: str) -> Iterator[str]:
    """The regular expression with one quantifier changed, or with a plain character of this kind."""
    for i, character in enumerate(pattern):
        if character in _QUANTIFIERS and pattern[i - 1] != "(":
            other = pattern[:i] + _QUANTIFIERS[character] + pattern[i + 1 :]
            try:
                re.compile(other)
            except re.error:
                continue
            yield other


def _is_none(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and node.value is None


def _put(owner: ast.AST, name: str, index: int | None, node: ast.AST) -> None:
    if index is None:
        setattr(owner, name, node)
    else:
        getattr(owner, name)[index] = node


def _context(owner: ast.AST, node: ast.AST) -> ast.AST | None:
    """What is shown in place of *node*: of a constant what it stands in, since alone it says little."""
    if isinstance(node, ast.Constant) and isinstance(owner, (ast.expr, ast.keyword, ast.Assign, ast.AnnAssign)):
        return owner
    return None


def _differing(before: str, after: str) -> tuple[str, str]:
    """Both in full, or of long ones the part that differs."""
    if max(len(before), len(after)) <= _LONGEST:
        return before, after
    start = max(0, _differ_at(before, after) - _LONGEST // 2)
    return _cut(before, start), _cut(after, start)


def _text(node: ast.AST) -> str:
    """The node in one line: of a statement with a body its first line."""
    if isinstance(node, ast.comprehension):
        return " ".join(f"if {ast.unparse(test)}" for test in node.ifs)
    if isinstance(node, ast.Constant):  # unparsed alone, a string would be a docstring
        return repr(node.value)
    return ast.unparse(node).strip().partition("\n")[0]


def _differ_at(one: str, other: str) -> int:
    return next((i for i, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))


def _cut(text: str, start: int) -> str:
    rest = text[start:]
    return "..." * (start > 0) + (rest if len(rest) <= _LONGEST else f"{rest[:_LONGEST]}...")
