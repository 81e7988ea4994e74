"""A comparison as text for a terminal."""

import io
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from no_time_to_train.io.messages import small_number
from no_time_to_train.io.redact import printable
from no_time_to_train.parity.compare import Result
from no_time_to_train.parity.stage_errors import StageDrift

_WIDTH = 200


def format_text(result: Result) -> str:
    """Return what the command prints: a verdict for every pair, and tables of the stages where they were looked at."""
    named = (f"{one.name} ({one.precision}, {one.source})" for one in result.backends)
    lines = [f"{result.encoder}: {', '.join(named)}"]
    for case in result.cases:
        lines.append(f"{_verdict(case.report.ok)} {case.title}")
        for pair in case.report.pairs:
            lines.append(
                f"     {_verdict(pair.ok)} {pair.pair:<11} largest difference {pair.max_abs:.1e}, "
                f"{pair.summary}; expected {pair.expected}"
            )
            lines += [f"{'':22}{line}" for line in pair.details]
        for name in dict.fromkeys(drift.backend for drift in case.report.blocks):
            lines.append(_table([drift for drift in case.report.blocks if drift.backend == name]))
        if case.report.blocks or not case.report.ok:
            lines.append(f"     {case.report}")
    if result.known_answer is not None:
        lines.append(f"{_verdict(result.known_answer.ok)} {result.known_answer}")
    return printable("\n".join(lines))


def _verdict(ok: bool) -> str:
    return "ok  " if ok else "FAIL"


def _table(drifts: Sequence[StageDrift]) -> str:
    """Draw the drift of one backend: a row a block, a column a stage, how it grew behind it, faults marked."""
    title = f"{drifts[0].backend}: largest difference to the reference, and how it grew from stage to stage; ! at fault"
    table = Table(title=title, title_justify="left", box=None, padding=(0, 1))
    stages = list(dict.fromkeys(drift.stage for drift in drifts if drift.place.startswith("block")))
    table.add_column("block")
    for stage in stages:
        table.add_column(stage, justify="right")
    for block in dict.fromkeys(drift.block for drift in drifts):
        here = {drift.stage: _cell(drift) for drift in drifts if drift.block == block}
        if not here.keys().isdisjoint(stages):
            table.add_row(str(block), *(here.get(stage, "") for stage in stages))
        for stage, cell in here.items():
            if stage not in stages:
                table.add_row(stage, cell)
    stream = io.StringIO()
    Console(file=stream, width=_WIDTH, color_system=None, markup=False, emoji=False).print(table)
    return "\n".join(f"     {line.rstrip()}" for line in stream.getvalue().splitlines())


def _cell(drift: StageDrift) -> str:
    growth = "" if drift.growth is None else f" x{small_number(drift.growth)}"
    return f"{drift.max_abs:.1e}{growth}{'!' if drift.at_fault else ''}"
