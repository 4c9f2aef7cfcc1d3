"""Flags from a table, with the rules Docker's users know (Go's pflag).

``--name value`` and ``--name=value``; ``-n value``, ``-nvalue`` and ``-n=value``; short booleans
joined (``-it``), the last of a group may take a value; ``--flag=false`` for booleans; ``--`` ends
flags. Commands whose arguments belong to another program (run, exec) stop at the first argument.

argparse is not used: it reads flags after the first argument as its own, cannot take
``--rm=false``, and costs a fifth of the start budget.
"""

from __future__ import annotations

from sampan.errors import InvalidArgument

__all__ = ["Flag", "Values", "parse", "usage"]


class Flag:
    """One flag: ``kind`` is bool, str, int, list or bytes ("512m"), ``short`` one letter or "".

    A ``list`` collects repetitions. A flag with ``refused`` is known and not done: using it is an
    error that says why.
    """

    __slots__ = ("default", "help", "hint", "kind", "name", "refused", "short")

    def __init__(
        self,
        name: str,
        kind: str,
        help: str,
        *,
        short: str = "",
        hint: str = "",
        default: object = None,
        refused: str = "",
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.short = short
        self.hint = hint or {"bool": "", "str": "string", "bytes": "bytes"}.get(kind, kind)
        self.default = default
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
        """An int or bytes flag."""
        value = self.values.get(name, default)
        return value if isinstance(value, int) else default

    def items(self, name: str) -> list[str]:
        """A list flag, in order."""
        value = self.values.get(name)
        return list(value) if isinstance(value, list) else []


def parse(command: str, flags: list[Flag], argv: list[str], *, interspersed: bool = True) -> Values:
    """Split ``argv`` into flags and arguments; raises InvalidArgument with a hint to --help."""
    long = {flag.name: flag for flag in flags}
    short = {flag.short: flag for flag in flags if flag.short}
    values: dict[str, object] = {}
    arguments: list[str] = []
    rest = list(argv)

    def wrong(what: str) -> InvalidArgument:
        return InvalidArgument(f"{what}\nSee 'sampan {command} --help'.")

    def take(flag: Flag, shown: str, value: str | None) -> None:
        if flag.refused:
            raise InvalidArgument(f"{shown}: {flag.refused}")
        if flag.kind == "bool":
            values[flag.name] = _boolean(value, shown)
            return
        if value is None:
            if not rest:
                raise wrong(f"flag needs an argument: {shown}")
            value = rest.pop(0)
        if flag.kind == "list":
            values.setdefault(flag.name, [])
            known = values[flag.name]
            assert isinstance(known, list)
            known.append(value)
        elif flag.kind in ("int", "bytes"):
            values[flag.name] = _number(flag, value, shown)
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
                raise wrong(f"unknown flag: --{name}")
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
    lines = ["Usage:  " + " ".join(filter(None, ("sampan", command, synopsis))), "", summary]
    shown = [flag for flag in flags if not flag.refused and flag.help]
    if shown:
        lines += ["", "Options:"]
        left = [
            f"{'-' + f.short + ',' if f.short else '   '} --{f.name} {f.hint}".rstrip()
            for f in sorted(shown, key=lambda f: f.name)
        ]
        width = max(map(len, left)) + 3
        texts = [f.help for f in sorted(shown, key=lambda f: f.name)]
        lines += [f"  {name:<{width}}{text}" for name, text in zip(left, texts, strict=True)]
    return "\n".join(lines)


def _boolean(value: str | None, shown: str) -> bool:
    if value is None or value.lower() in ("1", "t", "true"):
        return True
    if value.lower() in ("0", "f", "false"):
        return False
    raise InvalidArgument(f'invalid argument "{value}" for {shown}: expected true or false')


_UNITS = {"b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def _number(flag: Flag, value: str, shown: str) -> int:
    text = value.strip().lower()
    if flag.kind == "int":
        try:
            return int(text)
        except ValueError:
            raise InvalidArgument(
                f'invalid argument "{value}" for {shown}: expected a whole number'
            ) from None
    stem = text.removesuffix("ib") if text.endswith("ib") else text
    if stem.endswith("b") and len(stem) > 1 and stem[-2] in _UNITS and stem[-2] != "b":
        stem = stem[:-1]
    unit = 1
    if stem and stem[-1] in _UNITS:
        unit, stem = _UNITS[stem[-1]], stem[:-1]
    try:
        return int(float(stem) * unit)
    except ValueError:
        raise InvalidArgument(
            f'invalid argument "{value}" for {shown}: expected a size such as 512m or 2g'
        ) from None
