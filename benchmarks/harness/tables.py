"""Formats Markdown tables."""

from collections.abc import Mapping, Sequence

from benchmarks.harness.timing import Timings

_RULES = {"l": "---", "r": "---:"}


def aligned(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a table whose columns are padded: the first one is aligned left, all others are aligned right."""
    lines = [list(header), *map(list, rows)]
    widths = [max(3, *(len(line[column]) for line in lines)) for column in range(len(header))]
    rule = [f":{'-' * (width - 1)}" if not column else f"{'-' * (width - 1)}:" for column, width in enumerate(widths)]
    return "\n".join(_padded(line, widths) for line in [lines[0], rule, *lines[1:]])


def _padded(cells: Sequence[str], widths: Sequence[int]) -> str:
    padded = [
        cell.rjust(width) if column else cell.ljust(width)
        for column, (cell, width) in enumerate(zip(cells, widths, strict=True))
    ]
    return f"| {' | '.join(padded)} |"


def compact(header: Sequence[str], rows: Sequence[Sequence[str]], alignment: str = "") -> str:
    """Returns a table without padding.

    Args:
      header: the titles of the columns.
      rows: the cells of each row.
      alignment: one letter for each column, l or r for left or right; empty aligns all columns left.
    """
    rule = "|".join(_RULES[letter] for letter in alignment or "l" * len(header))
    return "\n".join([_line(header), f"|{rule}|", *map(_line, rows)])


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def comparison(
    timings: Timings,
    peers: Sequence[str],
    unit: str,
    items: float = 1,
    columns: Mapping[str, Mapping[str, str]] | None = None,
) -> str:
    """Returns the table of timings: median, extremes, items per second, and the ratio to the time of the fastest peer.

    Args:
      timings: the timings of the peers and of others.
      peers: the names of the calls that all are compared with.
      unit: what is counted, such as "images".
      items: how many items one call processes.
      columns: further columns: for each title, the cells by the name of the call.
    """
    fastest = timings.fastest(peers)
    rows = []
    for name, seconds in timings.seconds.items():
        ratio = "" if fastest is None else f"{timings.ratio(name, fastest):.2f}"
        milliseconds = [1e3 * value for value in (timings.median(name), min(seconds), max(seconds))]
        further = [cells.get(name, "") for cells in (columns or {}).values()]
        per_second = _three_digits(items / timings.median(name))
        rows.append([name, *map(_three_digits, milliseconds), per_second, ratio, *further])
    header = ["", "median ms", "lowest", "highest", f"{unit}/s", "time / fastest peer's", *(columns or {})]
    return aligned(header, rows)


def _three_digits(value: float) -> str:
    return f"{value:.{max(0, 2 - len(str(int(value))) + 1)}f}"
