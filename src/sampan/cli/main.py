"""Where ``sampan`` begins: global flags, then the command's own module.

Exit status: the command's own; for ``run`` that of the container, 125 where it could not be run,
126 and 127 where its program could not be executed or was not found; 125 for a flag that is not
one; 1 for other failures. These are Docker's.
"""

from __future__ import annotations

import importlib
import sys

from sampan import __version__
from sampan.cli.command import COMMANDS, GROUPS, HIDDEN, LATER, NEVER
from sampan.cli.flags import Flag, UsageError, parse
from sampan.errors import SampanError

__all__ = ["GLOBAL", "main"]

GLOBAL = [
    Flag("config", "str", "Directory of this client's configuration (~/.docker)"),
    Flag("context", "str", "Talk to the daemon of this context", short="c"),
    Flag("debug", "bool", "Show a traceback when this client fails", short="D"),
    Flag("help", "bool", "Print this text", short="h"),
    Flag("host", "list", "Talk to the daemon at this address", short="H"),
    Flag(
        "log-level",
        "str",
        "debug, info, warn, or error, fatal: no warnings",
        short="l",
    ),
    Flag("tls", "bool", "Use TLS without verifying the daemon's certificate"),
    Flag("tlscacert", "str", "Trust certificates signed by this authority", hint="file"),
    Flag("tlscert", "str", "Show the daemon this certificate", hint="file"),
    Flag("tlskey", "str", "The key of that certificate", hint="file"),
    Flag("tlsverify", "bool", "Use TLS and verify the daemon's certificate"),
    Flag("version", "bool", "Print this client's version", short="v"),
]
_LEVELS = ("debug", "info", "warn", "error", "fatal")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = sys.argv[1:] if argv is None else argv
    if None in (sys.stdin, sys.stdout, sys.stderr):
        _open_streams()
    name = ""
    debug = False
    try:
        options = parse("", GLOBAL, words, interspersed=False)
        debug = options.flag("debug")
        level = options.text("log-level", "info")
        if level not in _LEVELS:
            raise UsageError(f"--log-level: {level}: expected {', '.join(_LEVELS)}")
        if level in ("error", "fatal"):
            from sampan.cli import output

            output.WARNINGS[0] = False
        if options.flag("version"):
            print(f"Sampan version {__version__}")
            return 0
        if options.flag("help") or options.arguments in ([], ["help"]):
            from sampan.cli.overview import overview

            print(overview(GLOBAL))
            return 0
        name, rest = _resolve(options.arguments)
        if not name:
            return 0
        module, function, _ = COMMANDS[name]
        command = getattr(importlib.import_module(f"sampan.cli.commands.{module}"), function)
        if name == "daemon":
            return int(command(rest, next(iter(options.items("host")), "")))
        from sampan.cli.client import Client
        from sampan.cli.settings import Settings

        status = int(command(Client(Settings(options)), rest))
        sys.stdout.flush()  # here, where a reader that has left or a full disk can be told
        return status
    except SampanError as error:
        if debug:
            raise
        from sampan.cli.commands.common import report

        report(error, name)
        return _status(name, error)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return _reader_left()
    except OSError as error:
        if debug:
            raise
        place = f"{error.filename}: " if error.filename else ""
        print(f"sampan: {place}{error.strerror}", file=sys.stderr)
        return _reader_left(1)


def _resolve(words: list[str]) -> tuple[str, list[str]]:
    """The command's name in the table and its own words; "" where a group's help was printed."""
    name, rest = words[0], words[1:]
    if name == "help" and rest:
        return _resolve([*rest, "--help"])
    if name in GROUPS:
        group = GROUPS[name]
        if not rest or rest[0] in ("--help", "-h"):
            from sampan.cli.overview import group_overview

            print(group_overview(name))
            return "", []
        if rest[0] in group:
            return group[rest[0]], rest[1:]
        name = f"{name} {rest[0]}"
    elif name in COMMANDS or name in HIDDEN:
        return name, rest
    reason = LATER.get(name) or NEVER.get(name)
    if reason:
        raise SampanError(f"{name}: {reason}")
    from sampan.cli.overview import unknown

    raise SampanError(unknown(name))


def _status(name: str, error: SampanError) -> int:
    if isinstance(error, UsageError):
        return error.exit_code
    return error.exit_code if name == "run" else 1


def _open_streams() -> None:
    """A standard stream that we were started without is /dev/null, not the next file we open."""
    import os

    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is None:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one
            setattr(sys, name, os.fdopen(number, mode, encoding="utf-8", closefd=False))


def _reader_left(status: int = 141) -> int:
    """Standard output's reader is gone: end as other filters do, without a word at exit."""
    import os

    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return status
