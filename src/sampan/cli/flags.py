"""Flags from a table, with the rules Docker's users know (Go's pflag).

``--name value`` and ``--name=value``; ``-n value``, ``-nvalue`` and ``-n=value``; short booleans
joined (``-it``), the last of a group may take a value; ``--flag=false`` for booleans; ``--`` ends
flags. Commands whose arguments belong to another program (run, exec) stop at the first argument.

argparse is not used: it reads flags after the first argument as its own, cannot take
``--rm=false``, and costs a fifth of the start budget.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Flag", "UsageError", "Values", "number", "options", "parse", "usage"]


class UsageError(InvalidArgument):
    """The command line itself is wrong: a flag that is not one, a value of the wrong kind."""


class Flag:
    """One flag: ``kind`` is one of those below, ``short`` one letter or "".

    bool; str; int; bytes ("512m"); duration ("1m30s", kept in nanoseconds); list, which collects
    repetitions; strings, which also splits at commas. Without a help text a flag is known but not
    shown; ``old`` is another spelling of it that is not shown either. With ``refused`` it is known
    and not done: using it is an error that says why.
    """

    __slots__ = ("default", "help", "hint", "kind", "name", "old", "refused", "short")

    def __init__(
        self,
        name: str,
        kind: str,
        help: str,
        *,
        short: str = "",
        hint: str = "",
        default: object = None,
        old: str = "",
        refused: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.short = short
        self.hint = hint or {"bool": "", "str": "string", "strings": "list"}.get(kind, kind)
        self.default = default
        self.old = old
        self.refused = refused


class Values:
    """Parsed flags by name, and what is left as ``arguments``."""

    __slots__ = ("arguments", "values")

    def __init__(self, values: dict[str, object], arguments: list[str]) -> None:
        self.values = values
        self.arguments = arguments

    def given(self, name: str) -> bool:
        """Whether the flag stood on the command line."""
        return name in self.values

    def flag(self, name: str, default: bool = False) -> bool:
        """A bool flag."""
        value = self.values.get(name, default)
        return value is True

    def text(self, name: str, default: str = "") -> str:
        """A str flag."""
        value = self.values.get(name, default)
        return value if isinstance(value, str) else default

    def number(self, name: str, default: int = 0) -> int:
        """An int, bytes or duration flag."""
        value = self.values.get(name, default)
        return value if isinstance(value, int) else default

    def items(self, name: str) -> list[str]:
        """A list or strings flag, in order."""
        value = self.values.get(name)
        return list(value) if isinstance(value, list) else []


def parse(command: str, flags: list[Flag], argv: list[str], *, interspersed: bool = True) -> Values:
    """Split ``argv`` into flags and arguments; raises InvalidArgument with a hint to --help."""
    long = {name: flag for flag in flags for name in (flag.name, flag.old) if name}
    short = {flag.short: flag for flag in flags if flag.short}
    values: dict[str, object] = {}
    arguments: list[str] = []
    rest = list(argv)

    def wrong(what: str) -> UsageError:
        shown = f"sampan {command}" if command else "sampan"
        return UsageError(f"{what}\nSee '{shown} --help'.")

    def take(flag: Flag, shown: str, value: str | None) -> None:
        if flag.refused:
            raise UsageError(f"{shown}: {flag.refused}")
        if flag.kind == "bool":
            values[flag.name] = _boolean(value, shown)
            return
        if value is None:
            if not rest:
                raise wrong(f"flag needs an argument: {shown}")
            value = rest.pop(0)
        if flag.kind in ("list", "strings"):
            known = values.setdefault(flag.name, [])
            assert isinstance(known, list)
            known += [value] if flag.kind == "list" else value.split(",")
        elif flag.kind in _PARSERS:
            values[flag.name] = number(flag.kind, value, shown)
        else:
            values[flag.name] = value

    while rest:
        word = rest.pop(0)
        if word == "--":
            arguments += rest
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            if not interspersed:
                arguments += rest
                break
            continue
        if word.startswith("--"):
            name, equals, value = word[2:].partition("=")
            if name not in long:
                raise wrong(f"unknown flag: --{name}{_meant(name, long)}")
            take(long[name], f"--{name}", value if equals else None)
            continue
        letters = word[1:]
        while letters:
            letter, letters = letters[0], letters[1:]
            if letter not in short:
                raise wrong(f"unknown shorthand flag: '{letter}' in {word}")
            flag = short[letter]
            if flag.kind == "bool" and not letters.startswith("="):
                take(flag, f"-{letter}", None)
                continue
            take(flag, f"-{letter}", letters.removeprefix("=") if letters else None)
            break
    return Values(values, arguments)


def usage(command: str, synopsis: str, summary: str, flags: list[Flag]) -> str:
    """The text of ``--help``."""
    first = "Usage:  " + " ".join(filter(None, ("sampan", command, synopsis)))
    return "\n\n".join(filter(None, (first, summary, options(flags))))


def options(flags: list[Flag], title: str = "Options") -> str:
    """The flags as lines; those that are refused or have no text are left out."""
    shown = sorted((f for f in flags if f.help and not f.refused), key=lambda f: f.name)
    if not shown:
        return ""
    left = [
        f"{'-' + f.short + ',' if f.short else '   '} --{f.name} {f.hint}".rstrip() for f in shown
    ]
    width = max(map(len, left)) + 3
    lines = [f"  {name:<{width}}{f.help}" for name, f in zip(left, shown, strict=True)]
    return "\n".join([f"{title}:", *lines])


def _meant(name: str, known: dict[str, Flag]) -> str:
    from sampan.cli.overview import nearest

    close = nearest(name, [flag.name for flag in known.values() if flag.help])
    return f" (did you mean --{close[0]}?)" if close else ""


def _boolean(value: str | None, shown: str) -> bool:
    if value is None or value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise UsageError(f'invalid argument "{value}" for {shown}: expected true or false')


_BINARY = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}
_SECONDS = {"ns": 1, "us": 1_000, "µs": 1_000, "ms": 1_000_000, "s": 10**9}
_SECONDS |= {"m": 60 * 10**9, "h": 3600 * 10**9}


def number(kind: str, value: str, shown: str) -> int:
    """A value of the kind int, bytes or duration, given for what is ``shown``."""
    parser, wanted = _PARSERS[kind]
    try:
        return parser(value.strip())
    except (ValueError, OverflowError):
        raise UsageError(f'invalid argument "{value}" for {shown}: expected {wanted}') from None


def _bytes(text: str) -> int:
    stem = text.lower()
    stem = stem.removesuffix("ib") if stem.endswith("ib") else stem
    if stem.endswith("b") and len(stem) > 1 and stem[-2] in _BINARY and stem[-2] != "b":
        stem = stem[:-1]
    unit = 1
    if stem and stem[-1] in _BINARY:
        unit, stem = _BINARY[stem[-1]], stem[:-1]
    count = int(float(stem) * unit)
    if count < 0:
        raise ValueError(text)
    return count


def _duration(text: str) -> int:
    """Go's form of a length of time, in nanoseconds: "1h", "1m30s", "1.5s", "0"."""
    sign = -1 if text.startswith("-") else 1
    rest = text.lstrip("+-")
    if rest == "0":
        return 0
    total = 0.0
    while rest:
        digits = rest.lstrip("0123456789.")
        amount = float(rest[: len(rest) - len(digits)])
        rest = digits.lstrip("nuµmsh")
        unit = digits[: len(digits) - len(rest)]
        if unit not in _SECONDS:
            raise ValueError(text)
        total += amount * _SECONDS[unit]
    if not text:
        raise ValueError(text)
    return sign * round(total)


_PARSERS: dict[str, tuple[Callable[[str], int], str]] = {
    "int": (int, "a whole number"),
    "bytes": (_bytes, "a size such as 512m or 2g"),
    "duration": (_duration, "a length of time such as 30s or 1m30s"),
}
