"""The API reference names what is there, and its docstrings have sections that the site knows."""

import ast
import re
from pathlib import Path

import pytest

from docs_tools.source import Package
from no_time_to_train import errors

PAGES = sorted((Path(__file__).parents[2] / "docs/api").glob("*.md"))
NAMED = [name for page in PAGES for name in re.findall(r"^::: (\S+)$", page.read_text(), re.MULTILINE)]


@pytest.fixture(scope="module")
def package() -> Package:
    return Package.read(Path(errors.__file__).parent)


def test_each_object_has_one_place() -> None:
    assert len(NAMED) > 40
    assert len(set(NAMED)) == len(NAMED)


@pytest.mark.parametrize("name", NAMED)
def test_what_is_named_is_there_and_documented(name: str, package: Package) -> None:
    if name in package.modules:
        assert package.modules[name].summary
        return
    module, _, member = name.rpartition(".")
    if member in package.modules[module].constants:
        return
    (found,) = (node for node in package.modules[module].tree.body if getattr(node, "name", None) == member)
    assert isinstance(found, ast.ClassDef | ast.FunctionDef)
    assert ast.get_docstring(found)
    # `Example:` is not a section of Google's style: its doctest would show as a quotation.
    assert not re.search(r"^\s*Example:$", ast.unparse(found), re.MULTILINE)
