"""Tables for people: drawn on a terminal, aligned columns elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import IO


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], out: IO[str]) -> None:
    """Print rows of text; columns of numbers are aligned on the right."""
    numeric = [all(row[column][:1].isdigit() for row in rows) for column in range(len(header))]
    if out.isatty():
        from rich.console import Console
        from rich.table import Table

        table = Table()
        for name, right in zip(header, numeric, strict=True):
            table.add_column(name, justify="right" if right else "left", overflow="fold")
        for row in rows:
            table.add_row(*row)
        Console(file=out).print(table, markup=False)
        return
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    for row in (header, *rows):
        cells = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        )
        print("  ".join(cells).rstrip(), file=out)
