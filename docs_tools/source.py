"""The package's modules as syntax trees, with what is needed to look names up in them; nothing is imported."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

PACKAGE = "no_time_to_train"
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A source file.

    Attributes:
        name: As it is imported.
        tree: Its syntax tree.
    """

    name: str
    tree: ast.Module

    @cached_property
    def summary(self) -> str:
        """The first sentence of its docstring, without the full stop."""
        return " ".join((ast.get_docstring(self.tree) or "").split("\n\n")[0].split()).rstrip(".")

    @cached_property
    def imports(self) -> dict[str, tuple[str, str]]:
        """Module and name of whatever it imports by `from ... import`, by the name that it has here."""
        return {
            alias.asname or alias.name: (node.module or "", alias.name)
            for node in self.nodes
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
        }

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """All its nodes."""
        return list(ast.walk(self.tree))

    @cached_property
    def calls(self) -> dict[str, list[ast.Call]]:
        """Its calls of functions, and of methods of `self` and `cls`, by their name, in the order of lines."""
        found: dict[str, list[ast.Call]] = {}
        for node in self.nodes:
            if isinstance(node, ast.Call) and (name := _called(node)) is not None:
                found.setdefault(name, []).append(node)
        return {name: sorted(calls, key=lambda call: call.lineno) for name, calls in found.items()}

    @cached_property
    def functions(self) -> dict[str, list[Function]]:
        """Its functions and methods by their name."""
        found: dict[str, list[Function]] = {}
        for node in self.nodes:
            if isinstance(node, Function):
                found.setdefault(node.name, []).append(node)
        return found

    @cached_property
    def constants(self) -> dict[str, ast.expr]:
        """What it assigns to names at its top level."""
        return {
            target.id: value
            for node in self.tree.body
            if isinstance(node, ast.Assign | ast.AnnAssign)
            for target, value in assignments(node)
            if isinstance(target, ast.Name)
        }

    @cached_property
    def parents(self) -> dict[ast.AST, ast.AST]:
        """The node around each node."""
        return {child: node for node in self.nodes for child in ast.iter_child_nodes(node)}

    def around(self, node: ast.AST) -> Iterator[ast.AST]:
        """Give the nodes around a node, from the inside out."""
        while (outer := self.parents.get(node)) is not None:
            yield outer
            node = outer

    def function_of(self, node: ast.AST) -> Function | None:
        """Return the innermost function that a node stands in."""
        return next((outer for outer in self.around(node) if isinstance(outer, Function)), None)


@dataclass
class Package:
    """All modules of a package.

    Attributes:
        modules: By name.
    """

    modules: dict[str, Module] = field(default_factory=dict)

    @classmethod
    def read(cls, root: Path) -> "Package":
        """Read the package whose folder is `root`."""
        found = {}
        for path in sorted(root.rglob("*.py")):
            parts = path.relative_to(root.parent).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            found[name] = Module(name, ast.parse(path.read_text(encoding="utf-8")))
        return cls(found)

    def calls_of(self, function: Function, home: Module) -> Iterator[tuple[Module, ast.Call]]:
        """Give all calls of a function or method, by its name in its own module and where it is imported."""
        for module in self.modules.values():
            here = (home.name, function.name)
            local = [name for name, origin in module.imports.items() if origin == here]
            for name in [function.name] if module is home else local:
                for call in module.calls.get(name, []):
                    yield module, call

    def constant(self, module: Module, name: str) -> tuple[Module, ast.expr] | None:
        """Return what a module assigns to a name at its top level, also where it imports the name."""
        origin, original = module.imports.get(name, (module.name, name))
        home = self.modules.get(origin)
        return (home, home.constants[original]) if home is not None and original in home.constants else None

    def function(self, module: Module, name: str) -> tuple[Module, Function] | None:
        """Return the function that a name stands for in a module, if there is one alone of that name."""
        origin, original = module.imports.get(name, (module.name, name))
        home = self.modules.get(origin)
        found = home.functions.get(original, []) if home is not None else []
        return (home, found[0]) if home is not None and len(found) == 1 else None


def assignments(within: ast.AST) -> Iterator[tuple[ast.expr, ast.expr]]:
    """Give target and value of all assignments within a node."""
    for node in ast.walk(within):
        if isinstance(node, ast.Assign):
            for target in node.targets:
                if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                    yield from zip(target.elts, node.value.elts, strict=False)
                else:
                    yield target, node.value
        elif isinstance(node, ast.NamedExpr | ast.AnnAssign) and node.value is not None:
            yield node.target, node.value


def _called(call: ast.Call) -> str | None:
    """Return the name of what is called, if it is a plain name or a method of `self` or `cls`."""
    if isinstance(call.func, ast.Name):
        return call.func.id
    if isinstance(call.func, ast.Attribute) and isinstance(call.func.value, ast.Name):
        return call.func.attr if call.func.value.id in ("self", "cls") else None
    return None


def arguments(call: ast.Call, function: Function) -> dict[str, ast.expr]:
    """Return what a call gives for each of a function's parameters."""
    names = [argument.arg for argument in (*function.args.posonlyargs, *function.args.args)]
    if isinstance(call.func, ast.Attribute) and names[:1] in (["self"], ["cls"]):
        del names[0]
    given = dict(zip(names, call.args, strict=False))
    return given | {keyword.arg: keyword.value for keyword in call.keywords if keyword.arg}
