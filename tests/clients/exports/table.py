"""Compare what clients gave with what torch gives, and print a table.

    python -m tests.clients.exports.table FOLDER CLIENT...

FOLDER is run.sh's: `results/CLIENT.json` has a client's outputs; where it gave none, `results/CLIENT.log` says why.
The status is 1 where a client did not run, or did not open a case, or is further from torch than the case allows.
"""

import json
import math
import re
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tests.clients.exports.plan import CLIENTS, LIMITS, Case

HEADINGS = ("client", "version", "layout", "opset", "precision", "opens", "features", "mask logits", "predicted IoU")


@dataclass(frozen=True)
class Row:
    """A client and a case: the cells of the table, and what is wrong."""

    cells: tuple[str, ...]
    faults: tuple[str, ...] = ()


def rows_of(name: str, results: Path, expected: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows of a client."""
    client = CLIENTS[name]
    path = results / f"{name}.json"
    if not path.is_file():
        log = results / f"{name}.log"
        reason = last_lines(log.read_text(), 2) if log.is_file() else "no result"
        yield Row((client.title, "", "", "", "", f"not run: {reason}", "", "", ""), (f"{name} was not run: {reason}",))
        return
    told = json.loads(path.read_text())
    for case, outputs in zip(client.cases, told["cases"], strict=True):
        yield row_of(name, str(told["version"]), case, outputs, expected)


def row_of(name: str, version: str, case: Case, outputs: dict[str, Any], expected: dict[str, Any]) -> Row:
    """Return the row of a case."""
    client = CLIENTS[name]
    begin = (client.title, version, f"`{case.layout}`", str(case.opset), case.precision)
    called = f"{name}, {case.layout}, opset {case.opset}, {case.precision}"
    if "error" in outputs:
        reason = last_lines(outputs["error"])
        return Row((*begin, f"no: {reason}", "", "", ""), (f"{called}: {reason}",))
    limits, cells, faults = LIMITS[case.precision], [], []
    for output in ("features", "logits", "predicted_iou") if client.sam2 else ("features",):
        try:
            difference = difference_of(outputs[output], expected[output], relative=output != "predicted_iou")
        except ValueError as error:
            difference = math.nan
            faults.append(f"{called}: {output}: {error}")
        limit = getattr(limits, output)
        if difference > limit:
            faults.append(f"{called}: {output} differ by {difference:.1e}, expected at most {limit:g}")
        cells.append(f"{difference:.1e}")
    return Row((*begin, "yes", *cells, *[""] * (3 - len(cells))), tuple(faults))


def difference_of(found: dict[str, Any], expected: dict[str, Any], *, relative: bool) -> float:
    """Return the largest difference, as a share of the largest number that is expected if it is relative.

    Raises:
        ValueError: The shapes differ, or a number is NaN or Inf.
    """
    if list(found["dims"]) != list(expected["dims"]):
        message = f"shape {found['dims']}, expected {expected['dims']}"
        raise ValueError(message)
    numbers, wanted = (np.asarray(array["data"], np.float64) for array in (found, expected))
    if not np.isfinite(numbers).all():
        message = "NaN or Inf"
        raise ValueError(message)
    return float(np.abs(numbers - wanted).max() / (np.abs(wanted).max() if relative else 1))


def last_lines(text: str, count: int = 1) -> str:
    """Return the end of an error, for a cell: without folders of this machine."""
    lines = [line.strip() for line in text.splitlines() if line.strip()] or ["no message"]
    plain = re.sub(r"(?<![\w:])(?:/[\w.@+-]+)+/", "", ", ".join(lines[-count:]))
    return plain.replace("|", "\\|")[:200]


def markdown(rows: Sequence[Row]) -> str:
    """Return the table."""
    rule = ["---:" if heading in HEADINGS[6:] else "---" for heading in HEADINGS]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (HEADINGS, rule, *(row.cells for row in rows)))


def main(folder: Path, names: Sequence[str]) -> int:
    expected = json.loads((folder / "expected.json").read_text())
    rows = [row for name in names for row in rows_of(name, folder / "results", expected)]
    print(markdown(rows))
    faults = [fault for row in rows for fault in row.faults]
    print(*faults, sep="\n", end="\n" if faults else "", file=sys.stderr)
    return int(bool(faults))


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:]))
