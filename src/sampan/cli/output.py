"""What commands print: tables, ages and sizes in Docker's wording, and ``--format``."""

from __future__ import annotations

import json
import time
from typing import Any

__all__ = ["age", "command_line", "print_rows", "short_id", "size", "timestamp"]


def timestamp(text: str) -> float:
    """Unix seconds of an RFC 3339 time with nanoseconds; 0 for Docker's zero time."""
    if not text or text.startswith("0001-"):
        return 0.0
    import calendar

    head, _, fraction = text.removesuffix("Z").partition(".")
    seconds = calendar.timegm(time.strptime(head[:19], "%Y-%m-%dT%H:%M:%S"))
    return seconds + (float("0." + fraction) if fraction.isdigit() else 0.0)


_AGES = (
    (1, "Less than a second"),
    (2, "1 second"),
    (60, "{0:.0f} seconds"),
    (120, "About a minute"),
    (3600, "{1:.0f} minutes"),
    (7200, "About an hour"),
    (48 * 3600, "{2:.0f} hours"),
    (14 * 86400, "{3:.0f} days"),
    (60 * 86400, "{4:.0f} weeks"),
    (730 * 86400, "{5:.0f} months"),
)


def age(seconds: float) -> str:
    """A length of time the way ``docker ps`` says it ("About a minute", "3 hours")."""
    seconds = int(max(0.0, seconds))
    units = [seconds // unit for unit in (1, 60, 3600, 86400, 604800, 2592000, 31536000)]
    for limit, text in _AGES:
        if seconds < limit:
            return text.format(*units)
    return f"{units[6]} years"


def size(count: float) -> str:
    """Bytes in decimal units with three digits, as in ``docker images`` ("7.81MB")."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000 or unit == "TB":
            return f"{count:.3g}{unit}" if count < 1000 else f"{count:.0f}{unit}"
        count /= 1000
    return ""


def short_id(identity: str) -> str:
    """The first 12 digits of an ID, without its algorithm."""
    return identity.removeprefix("sha256:")[:12]


def command_line(text: str, full: bool) -> str:
    """A command in quotes, cut to 20 characters unless ``full``."""
    if not full and len(text) > 20:
        text = text[:19] + "…"
    return '"' + text.replace("\n", "\\n") + '"'


def print_rows(
    rows: list[dict[str, Any]], columns: list[tuple[str, str]], layout: str, quiet: bool = False
) -> None:
    """Print rows as a table, or as ``layout`` says: "table …", "json", or a template.

    ``columns`` are (heading, key) of the default table; a row's other keys are for templates.
    ``quiet`` prints the first column only, without a heading.
    """
    if quiet:
        for row in rows:
            print(row[columns[0][1]])
        return
    if layout == "json":
        for row in rows:
            print(json.dumps(row))
        return
    if not layout or layout == "table":
        _align(
            [[heading for heading, _ in columns], *([str(r[k]) for _, k in columns] for r in rows)]
        )
        return
    from sampan import template

    if layout.startswith("table "):
        text = template.unescape(layout.removeprefix("table "))
        parsed = template.parse(text)
        headings = {key: heading for heading, key in columns}
        titles = {key: headings.get(key, key.upper()) for row in rows[:1] for key in row}
        first = template.render(parsed, titles or headings)
        _align([first.split("\t"), *(template.render(parsed, row).split("\t") for row in rows)])
        return
    parsed = template.parse(template.unescape(layout))
    for row in rows:
        print(template.render(parsed, row))


def _align(lines: list[list[str]]) -> None:
    """Columns as Docker's: three spaces apart, ten wide at least, the last as long as it is."""
    widths: list[int] = []
    for line in lines:
        widths += [10] * (len(line) - 1 - len(widths))
        for number, cell in enumerate(line[:-1]):
            widths[number] = max(widths[number], len(cell) + 3)
    for line in lines:
        cells = [f"{cell:<{width}}" for cell, width in zip(line[:-1], widths, strict=False)]
        print("".join(cells) + line[-1])
