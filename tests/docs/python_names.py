"""Whether what a piece of Python names is there: imports, attributes, and the options of calls. Nothing is run."""

import ast
import dataclasses
import importlib
import inspect
import textwrap
import types
import typing
from collections.abc import Iterator
from typing import Any

_UNKNOWN = object()
# Packages that are not installed with this one.
_FOREIGN = {"openvino": "a runtime that docs/export.md shows", "optimum": "another"}


@dataclasses.dataclass(frozen=True)
class _InstanceOf:
    """A value of which the class is known."""

    cls: type


def missing_names(source: str) -> list[str]:
    """Return what a piece of Python names and is not there, a sentence each.

    Followed are imports, attributes of what was imported, of instances of its classes and of what its annotated
    functions return, and the names of options in calls of these.

    Raises:
        SyntaxError: It is not valid Python.
    """
    checker = _Checker()
    checker.visit(ast.parse(source))
    return checker.missing


class _Checker(ast.NodeVisitor):
    def __init__(self) -> None:
        self.missing: list[str] = []
        self._known: dict[str, Any] = {}

    def visit_Import(self, node: ast.Import) -> None:
        for alias in node.names:
            module = self._module(alias.name)
            root = alias.name.partition(".")[0]
            self._known[alias.asname or root] = module if alias.asname else self._module(root)

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        module = self._module(node.module or "")
        for alias in node.names:
            self._known[alias.asname or alias.name] = self._attribute(module, alias.name)

    def visit_Assign(self, node: ast.Assign) -> None:
        self.generic_visit(node)
        value = self._value(node.value)
        for target in node.targets:
            if isinstance(target, ast.Name):
                self._known[target.id] = value

    def visit_Attribute(self, node: ast.Attribute) -> None:
        self._value(node)

    def visit_Call(self, node: ast.Call) -> None:
        self._value(node)
        for child in (*node.args, *(keyword.value for keyword in node.keywords)):
            self.visit(child)

    def _module(self, name: str) -> Any:
        if name.partition(".")[0] in _FOREIGN:
            return _UNKNOWN
        try:
            return importlib.import_module(name)
        except ImportError:
            return self._miss(f"there is no module {name}")

    def _value(self, node: ast.expr) -> Any:
        """Return what an expression stands for as far as it can be known without running it."""
        if isinstance(node, ast.Name):
            return self._known.get(node.id, _UNKNOWN)
        if isinstance(node, ast.Attribute):
            return self._attribute(self._value(node.value), node.attr)
        if isinstance(node, ast.Call):
            return self._returned(node)
        return _UNKNOWN

    def _attribute(self, owner: Any, name: str) -> Any:
        if owner is _UNKNOWN:
            return _UNKNOWN
        cls = owner.cls if isinstance(owner, _InstanceOf) else None
        holder = owner if cls is None else cls
        if hasattr(holder, name):
            # Modules may make a name when it is asked for.
            found = inspect.getattr_static(holder, name, None)
            if isinstance(found, property):
                return _of_annotation(found.fget, "return")
            return getattr(holder, name)
        if cls is not None and name in _declared(cls):
            return _UNKNOWN
        if isinstance(owner, types.ModuleType) and (submodule := _submodule(owner, name)):
            return submodule
        return self._miss(f"{getattr(holder, '__name__', holder)} has no {name}")

    def _returned(self, node: ast.Call) -> Any:
        callee = self._value(node.func)
        if callee is _UNKNOWN or isinstance(callee, _InstanceOf) or not callable(callee):
            return _UNKNOWN
        self._check_options(node, callee)
        return _InstanceOf(callee) if isinstance(callee, type) else _of_annotation(callee, "return")

    def _check_options(self, node: ast.Call, callee: Any) -> None:
        try:
            parameters = inspect.signature(callee).parameters.values()
        except (TypeError, ValueError):  # of builtins that tell nothing
            return
        if any(parameter.kind is inspect.Parameter.VAR_KEYWORD for parameter in parameters):
            return
        names = {parameter.name for parameter in parameters}
        for keyword in node.keywords:
            if keyword.arg is not None and keyword.arg not in names:
                self._miss(f"{callee.__name__} has no option {keyword.arg}")

    def _miss(self, sentence: str) -> Any:
        # A call within a call is looked at from both.
        if sentence not in self.missing:
            self.missing.append(sentence)
        return _UNKNOWN


def _declared(cls: type) -> set[str]:
    """Return the names that instances get by annotations, or in `__init__` by assignment."""
    names: set[str] = set()
    for base in cls.__mro__:
        names |= set(getattr(base, "__annotations__", {}))
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(base)))
        except (OSError, TypeError, SyntaxError):
            continue
        names |= set(_assigned_to_self(tree))
    return names


def _assigned_to_self(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store) and isinstance(node.value, ast.Name):
            yield node.attr


def _submodule(module: types.ModuleType, name: str) -> Any:
    try:
        return importlib.import_module(f"{module.__name__}.{name}")
    except ImportError:
        return None


def _of_annotation(function: Any, name: str) -> Any:
    """Return an instance of the class that an annotation names, where it is one class."""
    try:
        annotation = typing.get_type_hints(function).get(name)
    except (NameError, TypeError, AttributeError):
        return _UNKNOWN
    return _InstanceOf(annotation) if isinstance(annotation, type) else _UNKNOWN
