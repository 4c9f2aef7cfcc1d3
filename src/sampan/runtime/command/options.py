"""Options from a table, parsed as Go's flag package does, whose habits callers rely on.

``--name value``, ``--name=value``, one hyphen as good as two; a flag takes no value unless joined
by ``=`` (``--detach=false``). After ``--``, and for some commands after the first argument, nothing
is an option any more.
"""

from __future__ import annotations

from sampan.errors import InvalidArgument

__all__ = ["FLAG", "MANY", "NUMBER", "TEXT", "Command", "Option", "Parsed", "parse"]

FLAG, TEXT, NUMBER, MANY = range(4)

_TRUE = frozenset({"1", "t", "T", "true", "TRUE", "True"})
_FALSE = frozenset({"0", "f", "F", "false", "FALSE", "False"})


class Option:
    """One option: its long name, its kind, what it is for, its short name ("" for none)."""

    __slots__ = ("help", "hidden", "kind", "name", "short")

    def __init__(
        self, name: str, kind: int, help: str, short: str = "", *, hidden: bool = False
    ) -> None:
        self.name = name
        self.kind = kind
        self.help = help
        self.short = short
        self.hidden = hidden


class Command:
    """One command: where it lives, its arguments in words and numbers, its options.

    ``module`` is below this package and has ``run(context, parsed) -> exit status``. ``stops``:
    the first argument ends the options, for what follows is somebody else's command line.
    """

    __slots__ = ("arguments", "help", "maximum", "minimum", "module", "name", "options", "stops")

    def __init__(
        self,
        name: str,
        module: str,
        arguments: str,
        counts: tuple[int, int | None],
        help: str,
        *,
        options: tuple[Option, ...] = (),
        stops: bool = False,
    ) -> None:
        self.name = name
        self.module = module
        self.arguments = arguments
        self.minimum, self.maximum = counts
        self.help = help
        self.options = options
        self.stops = stops


class Parsed:
    """The options given, by their long names, and the arguments."""

    __slots__ = ("_values", "arguments", "command")

    def __init__(self, command: str, values: dict[str, list[str]], arguments: list[str]) -> None:
        self.command = command
        self._values = values
        self.arguments = arguments

    def __contains__(self, name: str) -> bool:
        return name in self._values

    def flag(self, name: str) -> bool:
        """Whether the flag is on."""
        return bool(self._values.get(name)) and self._values[name][-1] == "true"

    def text(self, name: str) -> str | None:
        """The last value given, or None."""
        values = self._values.get(name)
        return values[-1] if values else None

    def many(self, name: str) -> list[str]:
        """Every value given, in order."""
        return self._values.get(name, [])

    def number(self, name: str) -> int | None:
        """The last value as an integer, or None."""
        value = self.text(name)
        if value is None:
            return None
        try:
            return int(value, 0)
        except ValueError:
            raise InvalidArgument(f"--{name}: expected a number, not {value!r}") from None


def parse(
    options: tuple[Option, ...], words: list[str], where: str, *, stops: bool = False
) -> tuple[dict[str, list[str]], list[str]]:
    """(values by long name, arguments). ``InvalidArgument``: an unknown or incomplete option."""
    known = {option.name: option for option in options}
    known |= {option.short: option for option in options if option.short}
    values: dict[str, list[str]] = {}
    arguments: list[str] = []
    rest = list(reversed(words))
    while rest:
        word = rest.pop()
        if word == "--":
            arguments += reversed(rest)
            break
        if not word.startswith("-") or word == "-":
            arguments.append(word)
            if stops:
                arguments += reversed(rest)
                break
            continue
        name, equals, value = word.removeprefix("-").removeprefix("-").partition("=")
        option = known.get(name)
        if option is None:
            raise InvalidArgument(f"{where}: no such option: {word.partition('=')[0]}")
        if option.kind == FLAG:
            value = _truth(option, value) if equals else "true"
        elif not equals:
            if not rest:
                raise InvalidArgument(f"{where}: option --{option.name} needs a value")
            value = rest.pop()
        values.setdefault(option.name, []).append(value)
    return values, arguments


def _truth(option: Option, value: str) -> str:
    if value in _TRUE:
        return "true"
    if value in _FALSE:
        return "false"
    raise InvalidArgument(f"--{option.name}: expected true or false, not {value!r}")
