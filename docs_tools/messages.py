"""Every message that the package raises on purpose, with its remedy, collected from the source."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from docs_tools.source import Package, arguments
from docs_tools.wording import Scope, Wording, is_field, parameters, says

_FARTHEST = 4


@dataclass(frozen=True)
class ErrorClass:
    """A class of errors.py.

    Attributes:
        name: Of the class.
        meaning: Its docstring's first paragraph.
        parents: Its bases among the errors, then the builtins that it also is.
    """

    name: str
    meaning: str
    parents: tuple[str, ...]
    builtins: tuple[str, ...]


@dataclass(frozen=True)
class Message:
    """A message as a user may see it.

    Attributes:
        error: The name of its class.
        text: What is said, `<field>` standing for what differs.
        remedies: What is said in brackets behind it: one of these.
        module: The module that says it.
    """

    error: str
    text: str
    remedies: tuple[str, ...]
    module: str


def error_classes(package: Package) -> dict[str, ErrorClass]:
    """Return the classes of the package's errors.py, in its order."""
    found: dict[str, ErrorClass] = {}
    for node in _errors_module(package).body:
        if isinstance(node, ast.ClassDef):
            bases = [ast.unparse(base) for base in node.bases]
            inherited = [name for base in bases if base in found for name in found[base].builtins]
            own = [base for base in bases if base not in found and base != "Exception"]
            meaning = " ".join((ast.get_docstring(node) or "").split("\n\n")[0].split())
            found[node.name] = ErrorClass(
                node.name, meaning, tuple(base for base in bases if base in found), tuple(own + inherited)
            )
    return found


def messages(package: Package) -> list[Message]:
    """Return all messages, in the order of modules and lines; each once for a module.

    What a helper builds from its parameters is told once for each text that its callers hand over.

    Raises:
        ValueError: An error is built without a message or a remedy, or a class has neither messages nor children.
    """
    classes = error_classes(package)
    wording = Wording(package)
    found: dict[tuple[str, str, str], Message] = {}
    for name, module in package.modules.items():
        kinds = {
            local: original
            for local, (origin, original) in module.imports.items()
            if origin.endswith(".errors") and original in classes
        }
        calls = [call for local in kinds for call in module.calls.get(local, [])]
        for node in sorted(calls, key=lambda call: call.lineno):
            kind = kinds[ast.unparse(node.func)]
            remedy = next((keyword.value for keyword in node.keywords if keyword.arg == "remedy"), None)
            if not node.args or remedy is None:
                raise ValueError(f"{name}:{node.lineno} builds {kind} without a message or a remedy")
            for scope in _scopes(node, Scope(module, node), package, wording):
                for text in wording.of(node.args[0], scope):
                    key = (kind, text, name)
                    remedies = wording.of(remedy, scope)
                    known = found[key].remedies if key in found else ()
                    found[key] = Message(*key[:2], tuple(dict.fromkeys((*known, *remedies))), name)
    silent = {kind for kind in classes if not any(message.error == kind for message in found.values())}
    childless = silent - {parent for each in classes.values() for parent in each.parents}
    if childless:
        raise ValueError(f"nothing raises {', '.join(sorted(childless))}: remove the class, or raise it")
    return list(found.values())


def _scopes(node: ast.Call, scope: Scope, package: Package, wording: Wording, depth: int = 0) -> Iterator[Scope]:
    """Give the scopes in which to read an error: one for each call of the helper that builds it from its parameters."""
    function = scope.function
    read = {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
    if function is None or depth == _FARTHEST or not read & parameters(function):
        yield scope
        return
    plain = True
    for module, call in package.calls_of(function, scope.module):
        given = {name: value for name, value in arguments(call, function).items() if name in read}
        for outer in _scopes(call, Scope(module, call), package, wording, depth + 1):
            said = {name: wording.of(value, outer) for name, value in given.items()}
            # A path or a number that a caller names otherwise adds nothing; text does.
            texts = {name: value for name, value in said.items() if any(map(says, value))}
            if texts:
                plain = False
                places = {
                    name: value for name, value in said.items() if name not in texts and not all(map(is_field, value))
                }
                yield Scope(scope.module, scope.node, texts | places)
    if plain:
        yield scope


def _errors_module(package: Package) -> ast.Module:
    (name,) = (name for name in package.modules if name.endswith(".errors") and name.count(".") == 1)
    return package.modules[name].tree


def read_messages(root: Path) -> list[Message]:
    """Return all messages of the package whose folder is `root`."""
    return messages(Package.read(root))
