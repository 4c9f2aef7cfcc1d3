"""The entry of ``sampan-runtime``: global options, the table of commands, and how it fails.

An error is one message on standard error and in ``--log``, and exit status 1 (255 for ``exec``,
whose other statuses are the command's own). An error of ours that nobody expected keeps its
traceback.
"""

from __future__ import annotations

import os
import sys

from sampan.errors import CommandNotExecutable, CommandNotFound, InvalidArgument, SampanError
from sampan.runtime.command.options import Command, Option, Parsed, parse
from sampan.runtime.command.table import COMMANDS, GLOBAL

__all__ = ["main"]

_USAGE = "usage: sampan-runtime [OPTIONS] COMMAND [ARGUMENTS]"

# Callers recognise why a command could not be executed by these words, and set 127 or 126.
_PHRASES = (
    (CommandNotFound, "no such file or directory"),
    (CommandNotExecutable, "permission denied"),
)


def main() -> int:
    """Run the command line in ``sys.argv``; returns the exit status."""
    try:
        return _main(sys.argv[1:])
    except SampanError as error:  # before there is a log to write to
        print(f"sampan-runtime: {error}", file=sys.stderr)
        return 1


def _main(words: list[str]) -> int:
    values, rest = parse(GLOBAL, words, "sampan-runtime", stops=True)
    chosen = Parsed("", values, rest)
    if chosen.flag("version"):
        return _version()
    if chosen.flag("help") or not rest or rest[0] == "help":
        print(_overview())
        return 0 if rest or chosen.flag("help") else 1
    command = COMMANDS.get(rest[0])
    if command is None:
        raise InvalidArgument(f"no such command: {rest[0]} (there are: {' '.join(COMMANDS)})")
    help_option = GLOBAL[-1]
    values, arguments = parse(
        (*command.options, help_option), rest[1:], command.name, stops=command.stops
    )
    parsed = Parsed(command.name, values, arguments)
    if parsed.flag("help"):
        print(_help(command))
        return 0
    _count(command, arguments)
    if command.name in ("create", "exec", "run"):
        from sampan.runtime.command import sealed

        sealed.ensure(words)
    return _run(command, chosen, parsed)


def _run(command: Command, chosen: Parsed, parsed: Parsed) -> int:
    from sampan.runtime.command.context import Context, default_root

    log_format = chosen.text("log-format") or "text"
    if log_format not in ("text", "json"):
        raise InvalidArgument(f"--log-format: expected text or json, not {log_format!r}")
    rootless = _rootless(chosen.text("rootless") or "auto")
    context = Context(
        root=os.path.abspath(chosen.text("root") or default_root(rootless)),
        log=chosen.text("log") or "",
        log_format=log_format,
        debug=chosen.flag("debug"),
        systemd=chosen.flag("systemd-cgroup"),
        rootless=rootless,
    )
    context.debug(f"{command.name} {' '.join(parsed.arguments)}")
    try:
        module = __import__(f"sampan.runtime.command.{command.module}", fromlist=["run"])
        status: int = module.run(context, parsed)
        sys.stdout.flush()
    except (SampanError, OSError) as error:
        if isinstance(error, BrokenPipeError) and not isinstance(error, SampanError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            return 1
        context.write("error", _message(error))
        return 255 if command.name == "exec" else 1
    for warning in context.warnings:
        context.write("warning", warning)
    return status


def _message(error: SampanError | OSError) -> str:
    text = str(error)
    for kind, phrase in _PHRASES:
        if isinstance(error, kind) and phrase not in text:
            return f"{text}: {phrase}"
    return text


def _rootless(text: str) -> bool:
    if text == "auto":
        return os.geteuid() != 0
    if text not in ("true", "false"):
        raise InvalidArgument(f"--rootless: expected true, false or auto, not {text!r}")
    return text == "true"


def _count(command: Command, arguments: list[str]) -> None:
    given = len(arguments)
    if given < command.minimum or (command.maximum is not None and given > command.maximum):
        wanted = command.arguments or "no arguments"
        raise InvalidArgument(f"{command.name}: expected {wanted}; see {command.name} --help")


def _version() -> int:
    from sampan import __version__
    from sampan.oci.runtime import SPEC_VERSION

    print(f"sampan-runtime version {__version__}")
    print("commit: none")
    print(f"spec: {SPEC_VERSION}")
    print(f"python: {sys.version.partition(' ')[0]}")
    return 0


def _lines(options: tuple[Option, ...]) -> list[str]:
    lines = []
    for option in options:
        if not option.hidden:
            names = f"-{option.short}, --{option.name}" if option.short else f"    --{option.name}"
            lines.append(f"  {names:26} {option.help}".rstrip())
    return lines


def _overview() -> str:
    lines = [_USAGE, "", "commands:"]
    lines += [f"  {command.name:12} {command.help}" for command in COMMANDS.values()]
    return "\n".join([*lines, "", "options:", *_lines(GLOBAL)])


def _help(command: Command) -> str:
    lines = [f"usage: sampan-runtime {command.name} [OPTIONS] {command.arguments}".rstrip()]
    lines += ["", command.help]
    if command.options:
        lines += ["", "options:", *_lines(command.options)]
    return "\n".join(lines)
