"""Where ``sampan`` begins: global flags, then the command's own module.

Exit status: the command's; 125 where the daemon or this client failed, 126 and 127 where the
container's command could not be executed or was not found (Docker's ``run``); 1 otherwise.
"""

from __future__ import annotations

import importlib
import sys

from sampan import __version__
from sampan.cli.command import COMMANDS, GROUPS, SUMMARIES
from sampan.cli.flags import Flag, parse, usage
from sampan.errors import SampanError

__all__ = ["main"]

_GLOBAL = [
    Flag("host", "str", "Daemon socket to connect to", short="H"),
    Flag("debug", "bool", "Show a traceback when this client fails", short="D"),
    Flag("help", "bool", "Print this text", short="h"),
    Flag("version", "bool", "Print version information and quit", short="v"),
]
# Failing before a container runs is told from the container's own failure by 125.
_RUNS_A_CONTAINER = ("run", "create", "exec")


def main(argv: list[str] | None = None) -> int:
    """Run one command; returns its exit status."""
    words = sys.argv[1:] if argv is None else argv
    name = ""
    debug = False
    try:
        options = parse("", _GLOBAL, words, interspersed=False)
        debug = options.flag("debug")
        if options.flag("version"):
            print(f"Sampan version {__version__}")
            return 0
        if options.flag("help") or options.arguments in ([], ["help"]):
            print(_help())
            return 0
        name, rest = _resolve(options.arguments)
        module, function = COMMANDS[name]
        command = getattr(importlib.import_module(f"sampan.cli.commands.{module}"), function)
        if name == "daemon":
            return int(command(rest, options.text("host")))
        from sampan.cli.client import Client, host_from_environment

        return int(command(Client(host_from_environment(options.text("host"))), rest))
    except SampanError as error:
        if debug:
            raise
        print(f"sampan: {error.message}", file=sys.stderr)
        return error.exit_code if name in _RUNS_A_CONTAINER else 1
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        return 141


def _resolve(words: list[str]) -> tuple[str, list[str]]:
    name, rest = words[0], words[1:]
    if name == "help" and rest:
        return _resolve([*rest, "--help"])
    if name in GROUPS:
        group = GROUPS[name]
        if not rest or rest[0] in ("--help", "-h"):
            print(_group_help(name))
            raise SystemExit(0)
        if rest[0] not in group:
            raise SampanError(f"unknown command: {name} {rest[0]}\n\n{_group_help(name)}")
        return group[rest[0]], rest[1:]
    if name not in COMMANDS:
        raise SampanError(f"unknown command: {name}\nSee 'sampan --help'.")
    return name, rest


def _help() -> str:
    commands = "\n".join(f"  {name:<10}{SUMMARIES[name]}" for name in sorted(COMMANDS))
    text = usage("", "[OPTIONS] COMMAND", "A container engine", _GLOBAL)
    groups = ", ".join(sorted(GROUPS))
    return (
        f"{text}\n\nCommands:\n{commands}\n\nGroups: {groups}\n\n"
        "Run 'sampan COMMAND --help' for more on a command.\n"
        "First steps: sampan run --rm host echo hello"
    )


def _group_help(name: str) -> str:
    known = sorted(GROUPS[name].items())
    lines = "\n".join(f"  {sub:<10}{SUMMARIES[command]}" for sub, command in known)
    return f"Usage:  sampan {name} COMMAND\n\nCommands:\n{lines}"
