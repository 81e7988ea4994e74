"""Mutations of Python source: one comparison, operator, constant or `not` changed."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_COMPARED = {
    ast.Lt: ast.LtE,
    ast.LtE: ast.Lt,
    ast.Gt: ast.GtE,
    ast.GtE: ast.Gt,
    ast.Eq: ast.NotEq,
    ast.NotEq: ast.Eq,
    ast.Is: ast.IsNot,
    ast.IsNot: ast.Is,
    ast.In: ast.NotIn,
    ast.NotIn: ast.In,
}
_COMPUTED = {
    ast.Add: ast.Sub,
    ast.Sub: ast.Add,
    ast.Mult: ast.Div,
    ast.Div: ast.Mult,
    ast.FloorDiv: ast.Mult,
    ast.Mod: ast.FloorDiv,
    ast.Pow: ast.Mult,
    ast.BitAnd: ast.BitOr,
    ast.BitOr: ast.BitAnd,
    ast.BitXor: ast.BitOr,
}
_JOINED = {ast.And: ast.Or, ast.Or: ast.And}
# Where a mutation changes no behavior, or only the text of a message.
_LEFT_OUT = {"annotation", "returns", "exc", "cause", "msg", "decorator_list", "bases", "type_params"}


@dataclass(frozen=True)
class Mutation:
    """One change of a file: the bytes from `start` to `end` become `text`.

    Attributes:
        path: The file.
        line: Its first line that changes, from 1.
    """

    path: Path
    line: int
    start: int
    end: int
    text: str

    def apply(self) -> str:
        """Return the file's text with the change."""
        source = self.path.read_bytes()
        return (source[: self.start] + self.text.encode() + source[self.end :]).decode()

    def diff(self) -> str:
        """Return what was there and what comes instead, in one line."""
        source = self.path.read_bytes()[self.start : self.end].decode()
        return f"{' '.join(source.split())}  ->  {self.text}"


def mutations_of(path: Path) -> list[Mutation]:
    """Return all mutations of a file, in the order of its lines."""
    source = path.read_bytes()
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    found = []
    for node, changed in _changes(ast.parse(source)):
        assert node.end_lineno is not None
        assert node.end_col_offset is not None
        start, end = starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset
        text = f"({ast.unparse(changed)})" if isinstance(node, ast.expr) else ast.unparse(changed)
        found.append(Mutation(path, node.lineno, start, end, text))
    return sorted(found, key=lambda mutation: (mutation.start, mutation.end, mutation.text))


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    """Yield each expression or assignment that may change, and what it becomes."""
    for name, value in ast.iter_fields(tree):
        if name in _LEFT_OUT or isinstance(tree, ast.JoinedStr):
            continue
        for child in value if isinstance(value, list) else [value]:
            if isinstance(child, ast.AST) and not _is_type(child):
                yield from _own_changes(child)
                yield from _changes(child)


def _is_type(node: ast.AST) -> bool:
    """Return whether this assigns an alias of a type."""
    return isinstance(node, ast.AnnAssign) and ast.unparse(node.annotation) == "TypeAlias"


def _own_changes(node: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, ast.AST]]:
    if isinstance(node, ast.Compare):
        for index, operator in enumerate(node.ops):
            ops = [*node.ops[:index], _COMPARED[type(operator)](), *node.ops[index + 1 :]]
            yield node, ast.Compare(node.left, ops, node.comparators)
    elif isinstance(node, ast.BinOp) and type(node.op) in _COMPUTED:
        yield node, ast.BinOp(node.left, _COMPUTED[type(node.op)](), node.right)
    elif isinstance(node, ast.AugAssign) and type(node.op) in _COMPUTED:
        yield node, ast.AugAssign(node.target, _COMPUTED[type(node.op)](), node.value)
    elif isinstance(node, ast.BoolOp):
        yield node, ast.BoolOp(_JOINED[type(node.op)](), node.values)
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node, node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool | int | float):
        value = node.value
        nudged = not value if isinstance(value, bool) else value + 1 if isinstance(value, int) else value * 1.5 + 0.1
        yield node, ast.Constant(nudged)
    if isinstance(node, ast.If | ast.While | ast.IfExp) and not isinstance(node.test, ast.Compare | ast.UnaryOp):
        yield node.test, ast.UnaryOp(ast.Not(), node.test)
