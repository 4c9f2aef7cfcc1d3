"""What commands print: tables, ages and sizes in Docker's wording, and ``--format``.

The columns are those of Go's text/tabwriter as Docker's client sets it up: ten wide at least,
three spaces apart, the last cell as long as it is.
"""

from __future__ import annotations

import sys
import time
from typing import Any

__all__ = [
    "age",
    "aligned",
    "binary_size",
    "command_line",
    "local_time",
    "moment",
    "print_rows",
    "quoted",
    "short_id",
    "shorten",
    "size",
    "timestamp",
    "warn",
]

WARNINGS = [True]
"""Whether warnings are printed: not at the log levels above them."""

_MINIMUM, _GAP = 10, 3


def timestamp(text: str) -> float:
    """Unix seconds of an RFC 3339 time with nanoseconds; 0 for Docker's zero time."""
    if not text or text.startswith("0001-"):
        return 0.0
    import calendar

    body, offset = text.removesuffix("Z"), 0
    if body[-6:-5] in ("+", "-") and body[-3:-2] == ":":
        minutes = int(body[-5:-3]) * 60 + int(body[-2:])
        offset = (minutes if body[-6] == "+" else -minutes) * 60
        body = body[:-6]
    head, _, fraction = body.partition(".")
    seconds = calendar.timegm(time.strptime(head[:19], "%Y-%m-%dT%H:%M:%S")) - offset
    return seconds + (float("0." + fraction) if fraction.isdigit() else 0.0)


def local_time(seconds: float) -> str:
    """A moment as Go prints it: ``2026-01-02 15:04:05 +0100 CET``."""
    return time.strftime("%Y-%m-%d %H:%M:%S %z %Z", time.localtime(seconds))


def moment(text: str) -> str:
    """An RFC 3339 time as Go prints it, in its own zone, fractions of a second included."""
    head, dot, fraction = (text or "0001-01-01T00:00:00Z").removesuffix("Z").partition(".")
    digits = fraction.rstrip("0")
    when = f"{head[:10]} {head[11:19]}"
    return f"{when}{dot if digits else ''}{digits} +0000 UTC"


def age(seconds: float) -> str:
    """A length of time the way ``docker ps`` says it ("About a minute", "3 hours")."""
    whole = int(max(0.0, seconds))
    minutes, hours = whole // 60, int(max(0.0, seconds) / 3600 + 0.5)
    if whole < 60:
        return {0: "Less than a second", 1: "1 second"}.get(whole, f"{whole} seconds")
    if minutes < 60:
        return "About a minute" if minutes == 1 else f"{minutes} minutes"
    if hours < 48:
        return "About an hour" if hours == 1 else f"{hours} hours"
    days = hours // 24
    if days < 14:
        return f"{days} days"
    if days < 60:
        return f"{days // 7} weeks"
    return f"{days // 30} months" if days < 730 else f"{whole // 86400 // 365} years"


def size(count: float, digits: int = 3) -> str:
    """Bytes in decimal units with three digits, as in ``docker images`` ("7.81MB")."""
    units = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"]
    while count >= 1000 and len(units) > 1:
        count /= 1000
        units.pop(0)
    return f"{count:.{digits}g}{units[0]}"


def binary_size(count: float) -> str:
    """Bytes in binary units with four digits, as memory is given ("23.59GiB")."""
    units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"]
    while count >= 1024 and len(units) > 1:
        count /= 1024
        units.pop(0)
    return f"{count:.4g}{units[0]}"


def short_id(identity: str) -> str:
    """The first 12 digits of an ID, without its algorithm."""
    return identity.removeprefix("sha256:")[:12]


def shorten(text: str, width: int) -> str:
    """At most ``width`` characters, the last of them a mark where some are left out."""
    return text if len(text) <= width else text[: width - 1] + "…"


def quoted(text: str) -> str:
    """A text as Go's %q writes it, on one line."""
    named = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    named |= {"\v": "\\v", "\\": "\\\\", '"': '\\"'}
    out = []
    for character in text:
        code = ord(character)
        if character in named:
            out.append(named[character])
        elif character.isprintable() or character == " ":
            out.append(character)
        else:
            wide = "x02" if code < 0x80 else "u04" if code < 0x10000 else "U08"
            out.append(f"\\{wide[0]}{code:{wide[1:]}x}")
    return '"' + "".join(out) + '"'


def command_line(text: str, full: bool) -> str:
    """A command in quotes, cut to 20 characters unless ``full``."""
    return quoted(text if full else shorten(text, 20))


def print_rows(
    rows: list[dict[str, Any]],
    columns: list[tuple[str, str]],
    layout: str,
    quiet: bool = False,
    *,
    headings: dict[str, str] | None = None,
    raw: str = "",
) -> None:
    """Print rows as a table, or as ``layout`` says: "table …", "json", "raw", or a template.

    ``columns`` are (heading, key) of the default table; a row's other keys are for templates, and
    ``headings`` are theirs where they differ from the key. ``quiet`` prints the first column only,
    without a heading. ``raw`` is the template of the layout of that name.
    """
    if quiet:
        if layout:
            warn("WARNING: --quiet prints IDs only: --format is ignored")
        _write([str(row[columns[0][1]]) for row in rows])
    elif layout in ("", "table"):
        lines = [[heading for heading, _ in columns]]
        lines += [[str(row[key]) for _, key in columns] for row in rows]
        _write(aligned(["\t".join(line) for line in lines]))
    else:
        known = {key: heading for heading, key in columns} | (headings or {})
        _write(_formatted(rows, raw if layout == "raw" and raw else layout, known))


def warn(text: str) -> None:
    """Tell the user, who has not asked for errors only."""
    if WARNINGS[0]:
        print(text, file=sys.stderr)


def _formatted(rows: list[dict[str, Any]], layout: str, headings: dict[str, str]) -> list[str]:
    from sampan import template

    layout = layout.strip()
    table = layout.startswith("table")
    text = template.unescape(layout.removeprefix("table").strip() if table else layout)
    parsed = template.parse("{{json .}}" if text == "json" else text)

    def as_json(value: Any) -> str:
        return template.to_json(
            template.Map(value) if isinstance(value, dict) else value,
            html=isinstance(value, dict),
        )

    lines = [template.render(parsed, row, {"json": as_json}) for row in rows]
    if not table:
        return lines
    return aligned([_heading(parsed, headings), *lines])


def _heading(parsed: list[Any], headings: dict[str, str]) -> str:
    """The first line: the template filled with the columns' names, functions left out."""
    from sampan import template
    from sampan.errors import InvalidArgument

    def same(text: Any, *_: Any) -> Any:
        return text

    def label(name: str) -> str:
        return name.rpartition(".")[2].replace("-", " ").replace("_", " ")

    functions = dict.fromkeys(("json", "split", "join", "title", "lower", "upper", "pad"), same)
    titles = template.Map({**headings, "Label": label})
    try:
        return template.render(parsed, titles, {**functions, "truncate": same})
    except InvalidArgument:
        return ""  # it loops over what a heading is not


def _write(lines: list[str]) -> None:
    if lines:
        print("\n".join(lines))


def aligned(texts: list[str], minimum: int = _MINIMUM) -> list[str]:
    """Cells end with a tab; a column is a run of lines that have it (text/tabwriter)."""
    lines = [line.split("\t") for text in texts for line in text.split("\n")]
    out: list[str] = []
    widths: list[int] = []

    def write(begin: int, end: int) -> None:
        for line in lines[begin:end]:
            cells = [cell.ljust(w) for cell, w in zip(line, widths, strict=False)]
            out.append("".join(cells + line[len(cells) :]))

    def column(begin: int, end: int) -> None:
        number, at = len(widths), begin
        while at < end:
            if number >= len(lines[at]) - 1:
                at += 1
                continue
            write(begin, at)
            begin, width = at, minimum
            while at < end and number < len(lines[at]) - 1:
                width = max(width, len(lines[at][number]) + _GAP)
                at += 1
            widths.append(width)
            column(begin, at)
            widths.pop()
            begin = at
        write(begin, end)

    column(0, len(lines))
    return out
