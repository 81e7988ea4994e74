from pathlib import Path

from tests.mutants.mutations import mutations_of

SOURCE = '''\
"""Doc 1 < 2."""

from typing import TypeAlias

Pair: TypeAlias = tuple[int, int] | None
LIMIT: int = 3


def f(a: int | None, *, flag: bool = False) -> int | str:
    """Return 1."""
    if a is None or not flag:
        raise ValueError(f"é {1 + 2}, expected 3" + str(4))
    a += 2
    if flag:
        return a - 0.5
    return (
        a
        * 7
    )
'''


def test_each_kind_of_mutation_and_nothing_in_types_and_messages(tmp_path: Path) -> None:
    path = tmp_path / "module.py"
    path.write_text(SOURCE)
    assert [mutation.diff() for mutation in mutations_of(path)] == [
        "3  ->  (4)",
        "False  ->  (True)",
        "a is None  ->  (a is not None)",
        "a is None or not flag  ->  (a is None and (not flag))",
        "a is None or not flag  ->  (not (a is None or not flag))",
        "not flag  ->  (flag)",
        "a += 2  ->  a -= 2",
        "2  ->  (3)",
        "flag  ->  (not flag)",
        "a - 0.5  ->  (a + 0.5)",
        "0.5  ->  (0.85)",
        "a * 7  ->  (a / 7)",
        "7  ->  (8)",
    ]
    for mutation in mutations_of(path):
        compile(mutation.apply(), "module.py", "exec")
        assert mutation.apply() != SOURCE
