"""Which builder a name leads to, and what it is given."""

from pathlib import Path
from typing import Any

import pytest

from no_time_to_train.proposers import factory
from no_time_to_train.proposers.factory import PromptingRules, build_promptable
from tests.proposers.toy import ToyPromptable


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, tuple[Any, ...]]]:
    """Record the builder that is called, and its arguments."""
    calls: list[tuple[str, tuple[Any, ...]]] = []

    def builder(kind: str) -> factory.Builder:
        def build(*arguments: Any) -> ToyPromptable:
            calls.append((kind, arguments))
            return ToyPromptable()

        return build

    monkeypatch.setattr(factory, "BUILDERS", {"toy": builder("toy"), "plain": builder("plain")})
    monkeypatch.setattr(factory, "_sam2", builder("sam2"))
    return calls


def test_the_beginning_of_a_name_chooses(built: list[tuple[str, tuple[Any, ...]]]) -> None:
    for name in ("toy:small", "plain", "sam2_hiera_t.yaml", "unknown:small"):
        build_promptable(name)
    # Without a colon a name is of SAM2, as is one of an unknown kind, such as a path with a drive.
    assert [(kind, arguments[0]) for kind, arguments in built] == [
        ("toy", "toy:small"),
        ("sam2", "plain"),
        ("sam2", "sam2_hiera_t.yaml"),
        ("sam2", "unknown:small"),
    ]


def test_what_a_builder_is_given(built: list[tuple[str, tuple[Any, ...]]]) -> None:
    rules = PromptingRules(as_original=True)
    build_promptable("toy:small", Path("weights.pt"), rules=rules, random_init=True)
    build_promptable("toy:small")
    assert [arguments[1:] for _, arguments in built] == [
        (Path("weights.pt"), rules, True),
        (None, PromptingRules(), False),
    ]
    assert not PromptingRules().as_original
