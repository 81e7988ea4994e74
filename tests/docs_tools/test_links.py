"""Links that hold in the repository and on the site."""

from pathlib import Path

import pytest

from docs_tools.links import linked_files, rewrite
from docs_tools.offline import loaded_from_elsewhere

ROOT = Path(__file__).parents[2]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    pages = {
        "README.md": "[start](docs/start.md) ![](docs/images/a.png) [decisions](docs/adr/) [far](https://a.b/c)",
        "docs/start.md": "[home](../README.md#two) [speed](adr/0001.md) [figures](../benchmarks/README.md 'title')",
        "docs/adr/README.md": "[first](0001.md)",
        "docs/adr/0001.md": "[config](../../configs/a.yaml) [nowhere](../../no.md) [out](../../../x.md)",
        "docs/images/a.png": "",
        "benchmarks/README.md": "[speed](../docs/adr/0001.md) [notes](notes.md)",
        "benchmarks/notes.md": "",
        "configs/a.yaml": "",
        "unlinked.md": "",
    }
    for name, text in pages.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def test_what_is_linked_comes_along(repository: Path) -> None:
    found = linked_files(repository)
    assert sorted(found) == ["README.md", "benchmarks/README.md", "benchmarks/notes.md", "configs/a.yaml"]


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        ("README.md", "[start](start.md) ![](images/a.png) [decisions](adr/README.md) [far](https://a.b/c)"),
        ("docs/start.md", "[home](README.md#two) [speed](adr/0001.md) [figures](benchmarks/README.md 'title')"),
        # What leads nowhere stays, and mkdocs refuses it.
        ("docs/adr/0001.md", "[config](../configs/a.yaml) [nowhere](../../no.md) [out](../../../x.md)"),
        ("benchmarks/README.md", "[speed](../adr/0001.md) [notes](notes.md)"),
    ],
)
def test_links_lead_to_where_the_target_is_on_the_site(repository: Path, page: str, expected: str) -> None:
    assert rewrite((repository / page).read_text(), page, repository) == expected


def test_every_decision_is_listed() -> None:
    listed = (ROOT / "docs/adr/README.md").read_text()
    assert not [path.name for path in (ROOT / "docs/adr").glob("0*.md") if f"({path.name})" not in listed]


def test_what_a_page_would_load_from_elsewhere_is_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text(
        '<link rel="canonical" href="https://a.b/"><link rel="stylesheet" href="own.css"><a href="https://a.b">x</a>'
        '<script src="own.js"></script><img src="data:image/png;base64,AA">'
    )
    assert not loaded_from_elsewhere(tmp_path)
    (tmp_path / "b.html").write_text('<script async src="https://a.b/c.js"></script><img src=//a.b/d.png>')
    (tmp_path / "c.html").write_text('<link href="https://a.b/font.css" rel="stylesheet">')
    (tmp_path / "d.css").write_text("@font-face { src: url(https://a.b/e.woff) }")
    assert [line.partition(":")[0] for line in loaded_from_elsewhere(tmp_path)] == [
        "b.html",
        "b.html",
        "c.html",
        "d.css",
    ]
