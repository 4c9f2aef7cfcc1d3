"""``list``: every container below --root."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from sampan.errors import Corrupt, InvalidArgument, NotFound
from sampan.runtime.command.state import describe

if TYPE_CHECKING:
    from sampan.runtime.command.context import Context
    from sampan.runtime.command.options import Parsed

__all__ = ["run", "table"]


def run(context: Context, parsed: Parsed) -> int:
    form = parsed.text("format") or "table"
    if form not in ("table", "json"):
        raise InvalidArgument(f"--format: expected table or json, not {form!r}")
    found = []
    for container_id in context.store.ids():
        try:
            found.append(describe(context, context.store.read(container_id)))
        except NotFound:
            continue  # deleted, or not yet written
        except Corrupt as error:
            context.warn(str(error))
    if parsed.flag("quiet"):
        for row in found:
            print(row["id"])
    elif form == "json":
        print(json.dumps(found or None))
    else:
        columns = ("id", "pid", "status", "bundle", "created", "owner")
        print(table([columns, *([str(row[name]) for name in columns] for row in found)]))
    return 0


def table(rows: list[tuple[str, ...] | list[str]]) -> str:
    """Rows in columns; the first is the heading."""
    rows[0] = tuple(name.upper() for name in rows[0])
    widths = [max(len(row[index]) for row in rows) for index in range(len(rows[0]))]
    return "\n".join(
        "   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
