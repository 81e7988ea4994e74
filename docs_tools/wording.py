"""What an expression in the source says when it is printed: text, with `<field>` for what is not known before."""

import ast
import itertools
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from docs_tools.source import Function, Module, Package, arguments, assignments

_DEEPEST = 12
_MOST = 40
# Calls that show their argument; others are shown by their own name.
_TRANSPARENT = {
    "get_args",
    "str",
    "repr",
    "sorted",
    "list",
    "tuple",
    "set",
    "_shown",
    "format",
    "min",
    "max",
    "round",
    "relative",
}
_ARITHMETIC: Mapping[type[ast.operator], Callable[[int, int], int]] = {
    ast.Add: lambda one, other: one + other,
    ast.Sub: lambda one, other: one - other,
    ast.Mult: lambda one, other: one * other,
    ast.FloorDiv: lambda one, other: one // other,
    ast.Pow: lambda one, other: int(one**other),
}


@dataclass(frozen=True)
class Scope:
    """Where an expression stands.

    Attributes:
        module: Its module.
        node: The expression or the call around it, to find the function and the `except` that it is in.
        bound: What the function's parameters say, where one call of it is looked at.
    """

    module: Module
    node: ast.AST
    bound: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    @property
    def function(self) -> Function | None:
        """The innermost function around."""
        return self.module.function_of(self.node)


def is_field(text: str) -> bool:
    """Return whether a text is nothing but a field.

    Examples:
        >>> is_field("<path>"), is_field("no <path>")
        (True, False)
    """
    return re.fullmatch(r"<[^<>]*>", text) is not None


def says(text: str) -> bool:
    """Return whether a text has words of its own beside its fields.

    Examples:
        >>> says("no <path>"), says("<folder>/config.json"), says("<first path>")
        (True, False, False)
    """
    return re.search(r"[a-z] | [a-z]", re.sub(r"<[^<>]*>", "", text)) is not None


class Wording:
    """Reads expressions of one package.

    Args:
        package: Its syntax trees.
    """

    def __init__(self, package: Package) -> None:
        self._package = package
        self._open: set[ast.AST] = set()
        self._assignments: dict[ast.AST, dict[str, list[ast.expr]]] = {}

    def of(self, node: ast.expr, scope: Scope) -> tuple[str, ...]:
        """Return all that an expression may say, in the order of the source.

        An optional part (`'...' if x else ''`) is said.
        """
        if node in self._open or len(self._open) > _DEEPEST:
            return (_as_field(node),)
        self._open.add(node)
        try:
            found = tuple(dict.fromkeys(self._of(node, scope)))
        finally:
            self._open.remove(node)
        spoken = tuple(text for text in found if text.strip()) or found
        if len(spoken) > _MOST:
            raise ValueError(f"{scope.module.name}:{node.lineno} has {len(spoken)} wordings, more than a page can bear")
        return spoken

    def _of(self, node: ast.expr, scope: Scope) -> Iterator[str]:
        number = self._number(node, scope)
        if number is not None:
            yield str(number)
            return
        match node:
            case ast.Constant(value=value):
                yield "" if value is None else str(value)
            case ast.JoinedStr(values=parts):
                yield from map("".join, itertools.product(*(self.of(part, scope) for part in parts)))
            case ast.FormattedValue(value=value, conversion=conversion):
                for text in self.of(value, scope):
                    # A quoted field stands for text that comes with its quotes.
                    yield repr(text) if conversion == ord("r") and "<" not in text else text
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                yield from map("".join, itertools.product(self.of(left, scope), self.of(right, scope)))
            case ast.BinOp(left=left, op=ast.Div(), right=ast.Constant(value=str(right))):
                yield from (f"{text}/{right}" for text in self.of(left, scope))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                yield from (f"-{text}" for text in self.of(operand, scope))
            case ast.IfExp(body=body, orelse=orelse):
                yield from self._either((body, orelse), scope)
            case ast.BoolOp(values=values):
                yield from self._either(values, scope)
            case ast.Call(func=ast.Name(id="str"), args=[shown]):
                yield from self.of(shown, scope)
            case ast.Call(func=ast.Name(id=name)) if name not in _TRANSPARENT:
                yield from self._returned(node, name, scope)
            case ast.Name(id=name):
                yield from self._named(node, name, scope)
            case ast.Attribute(value=ast.Name(id="self")):
                yield from self._assigned(node, scope, within=scope.module.tree)
            case ast.Attribute(value=ast.Name(id=name), attr=("message" | "remedy") as part):
                caught = " or ".join(_caught(name, scope)) or "the error before"
                yield f"<{part} of {caught}>"
            case _:
                yield _as_field(node, scope)

    def _either(self, nodes: Sequence[ast.expr], scope: Scope) -> Iterator[str]:
        texts = [text for node in nodes for text in self.of(node, scope)]
        # Of two values that are not known, the name of one is enough.
        yield from texts[:1] if all(map(is_field, texts)) else texts

    def _named(self, node: ast.expr, name: str, scope: Scope) -> Iterator[str]:
        if name in scope.bound:
            yield from scope.bound[name]
            return
        caught = _caught(name, scope)
        if caught:
            yield from [text for kind in caught for text in self._said_by_raises(kind, scope.module)] or ["<reason>"]
            return
        function = scope.function
        if function is not None and name not in parameters(function):
            said = list(self._assigned(node, scope, within=function))
            if said != [_as_field(node)]:
                yield from said
                return
        constant = self._package.constant(scope.module, name)
        if constant is not None and (function is None or name not in parameters(function)):
            home, value = constant
            yield from self.of(value, Scope(home, value))
        else:
            yield _as_field(node)

    def _assigned(self, node: ast.expr, scope: Scope, *, within: ast.AST) -> Iterator[str]:
        """Give the texts that are assigned to a variable or to an attribute of `self`; its name if there are none."""
        if within not in self._assignments:
            known = self._assignments[within] = {}
            for target, value in assignments(within):
                known.setdefault(ast.unparse(target), []).append(value)
        said: list[str] = []
        for value in self._assignments[within].get(ast.unparse(node), []):
            texts = self.of(value, Scope(scope.module, value, scope.bound))
            # Parts of a longer text, and numbers, say less than the name does.
            if any(re.search(r"[a-z]{2} |[a-z]{3}", text) and not is_field(text) for text in texts):
                said += texts
        yield from said or [_as_field(node)]

    def _returned(self, node: ast.Call, name: str, scope: Scope) -> Iterator[str]:
        """Give what a function of the package returns, where that is text; else the call's name."""
        found = self._package.function(scope.module, name)
        returns = [part.value for part in ast.walk(found[1]) if isinstance(part, ast.Return)] if found else []
        said: tuple[str, ...] = ()
        if found is not None and len(returns) == 1 and isinstance(returns[0], ast.JoinedStr | ast.IfExp):
            home, function = found
            bound = {key: self.of(value, scope) for key, value in arguments(node, function).items()}
            said = self.of(returns[0], Scope(home, returns[0], bound))
        yield from [text for text in said if says(text)] or [_as_field(node)]

    def _said_by_raises(self, kind: str, module: Module) -> Iterator[str]:
        """Give what a module's own exception says wherever the module raises it."""
        if not kind.startswith("_"):
            return
        for call in module.calls.get(kind, []):
            if len(call.args) == 1:
                yield from self.of(call.args[0], Scope(module, call))

    def _number(self, node: ast.expr, scope: Scope) -> int | None:
        """Return the value of an expression of whole numbers and constants that are such."""
        match node:
            case ast.Constant(value=value) if type(value) is int:
                return value
            case ast.BinOp(left=left, op=operator, right=right) if type(operator) in _ARITHMETIC:
                one, other = self._number(left, scope), self._number(right, scope)
                if one is not None and other is not None:
                    return _ARITHMETIC[type(operator)](one, other)
            case ast.Name(id=name):
                constant = self._package.constant(scope.module, name)
                return self._number(constant[1], Scope(constant[0], constant[1])) if constant else None
        return None


def parameters(function: Function) -> set[str]:
    """Return the names of a function's parameters."""
    given = function.args
    return {argument.arg for argument in (*given.posonlyargs, *given.args, *given.kwonlyargs)}


def _caught(name: str, scope: Scope) -> list[str]:
    """Return the exceptions that an `except ... as name` around catches."""
    for outer in scope.module.around(scope.node):
        if isinstance(outer, ast.ExceptHandler) and outer.name == name and outer.type is not None:
            kinds = outer.type.elts if isinstance(outer.type, ast.Tuple) else [outer.type]
            return [ast.unparse(kind) for kind in kinds]
    return []


def _as_field(node: ast.expr, scope: Scope | None = None) -> str:
    """Return what stands for an expression whose value is not known: its name in words, in angle brackets."""
    if scope is not None and isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
        if _caught(node.value.id, scope):
            return "<reason>"
    return f"<{_words(node)}>"


def _words(node: ast.expr) -> str:
    match node:
        case ast.Name(id="self"):
            return "settings"
        case ast.Name(id=name):
            return _spaced(name)
        case ast.Attribute(value=ast.Call(func=ast.Name(id="type"), args=[shown]), attr="__name__"):
            return f"type of {_words(shown)}"
        case ast.Attribute(value=ast.Name(id="self" | "cls"), attr=name):
            return _spaced(name)
        case ast.Attribute(value=ast.Attribute(attr=owner) | ast.Name(id=owner), attr=name):
            return _spaced(name if owner == name else f"{owner}_{name}")
        case ast.Attribute(attr=name):
            return _spaced(name)
        case ast.Call(func=ast.Name(id="len"), args=[shown]):
            return f"number of {_words(shown)}"
        case ast.Call(func=ast.Name(id=name), args=[shown, *_]) if name in _TRANSPARENT:
            return _words(shown)
        case ast.Call(func=ast.Name(id=name)):
            return _spaced(name)
        case ast.Call(func=ast.Attribute(attr="join"), args=[shown]):
            return _words(shown)
        case ast.Call(func=ast.Attribute(value=ast.Name(id=name), attr="get"), args=[ast.Constant(value=str(key)), *_]):
            return f"{_spaced(name)} {key}"
        case ast.Call(func=ast.Attribute(attr=name), args=[]) if name.startswith("get_"):
            return _spaced(name.removeprefix("get_"))
        case ast.Call(func=ast.Attribute(value=owner)):
            return _words(owner)
        case ast.Subscript(value=owner, slice=ast.Constant(value=str(key))):
            return f"{_words(owner)} {key}"
        case ast.Subscript(value=owner):
            return _words(owner)
        case ast.GeneratorExp(elt=shown) | ast.ListComp(elt=shown) | ast.SetComp(elt=shown):
            return _words(shown)
        case ast.BinOp(left=ast.Constant(), right=shown) | ast.BinOp(left=shown):
            return _words(shown)
        case ast.BoolOp(values=[shown, *_]) | ast.IfExp(body=shown) | ast.UnaryOp(operand=shown):
            return _words(shown)
        case ast.FormattedValue(value=shown) | ast.Starred(value=shown) | ast.NamedExpr(target=shown):
            return _words(shown)
        case ast.JoinedStr(values=parts):
            fields = [part for part in parts if isinstance(part, ast.FormattedValue)]
            return _words(fields[0]) if fields else "text"
    return "value"


def _spaced(name: str) -> str:
    words = [
        "reason" if word == "error" else word for word in name.lower().split("_") if word not in ("strerror", "args")
    ]
    return " ".join(word for word in words if word)
