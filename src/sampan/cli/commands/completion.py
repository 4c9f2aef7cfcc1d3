"""``completion``: scripts for shells, and the words they ask this client for.

A script asks ``sampan __complete WORD…``, whose last word is what stands before the cursor, and
gets candidates, one a line, with a description behind a tab. So what can be completed is decided
here, once, from the same tables that commands are parsed with.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from sampan.cli.client import ApiError
from sampan.cli.command import COMMANDS, GROUPS, HIDDEN, SUMMARIES
from sampan.cli.commands.common import DESCRIBE, Described, read
from sampan.cli.flags import Flag, parse
from sampan.errors import InvalidArgument, NotSupported, SampanError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.cli.client import Client

__all__ = ["SCRIPTS", "candidates", "complete", "completion"]

_BASH = r"""# bash completion for sampan: source <(sampan completion bash)
_sampan() {
    local words="${COMP_LINE:0:COMP_POINT}" current line
    local -a parts found
    read -r -a parts <<<"$words"
    [[ "$words" == *[[:space:]] ]] && parts+=("")
    current="${parts[-1]}"
    while IFS= read -r line; do
        found+=("${line%%$'\t'*}")
    done < <("${parts[0]}" __complete "${parts[@]:1}" 2>/dev/null)
    # Bash breaks words at colons and equals signs: what stands before the last one is not ours.
    local before=""
    if [[ "$current" == *[:=]* && "$COMP_WORDBREAKS" == *:* ]]; then
        before="${current%"${current##*[:=]}"}"
    fi
    COMPREPLY=()
    for line in "${found[@]}"; do
        COMPREPLY+=("${line#"$before"}")
    done
}
complete -o default -F _sampan sampan
"""
_ZSH = r"""#compdef sampan
# zsh completion for sampan: source <(sampan completion zsh), or a file _sampan in $fpath
_sampan() {
    local -a lines shown
    local line
    lines=("${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}")
    for line in "${lines[@]}"; do
        [[ -n "$line" ]] && shown+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
    done
    if (( ${#shown} )); then
        _describe 'sampan' shown
    else
        _files
    fi
}
compdef _sampan sampan
"""
_FISH = r"""# fish completion for sampan: sampan completion fish | source
function __sampan_complete
    set -l words (commandline -opc) (commandline -ct)
    set -l found ($words[1] __complete $words[2..-1] 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c sampan -f -k -a '(__sampan_complete)'
"""
SCRIPTS = {"bash": _BASH, "fish": _FISH, "zsh": _ZSH}

# What a command's arguments are; where there are two, the second is for those behind the first.
_ARGUMENTS = {
    **dict.fromkeys(("attach", "exec", "kill", "pause", "stats", "stop", "top"), "running"),
    **dict.fromkeys(
        "commit cp diff export logs port rename restart rm update wait".split(), "containers"
    ),
    **dict.fromkeys(("create", "history", "push", "rmi", "run", "save", "tag"), "images"),
    **dict.fromkeys(
        [f"context {name}" for name in ("export", "inspect", "rm", "update", "use")], "contexts"
    ),
    "container inspect": "containers",
    "image inspect": "images",
    "inspect": "containers images",
    "network connect": "networks containers",
    "network disconnect": "networks containers",
    "network inspect": "networks",
    "network rm": "networks",
    "start": "stopped",
    "unpause": "running",
    "volume inspect": "volumes",
    "volume rm": "volumes",
}
_ONE = ("attach", "history", "logs", "port", "push", "rename", "top")
_RUNS = ("create", "exec", "run")
# What a flag's value is: words, or one of the sources below.
_VALUES = {
    "cgroupns": "host private",
    "context": "@contexts",
    "filter": "",
    "format": "json table",
    "ipc": "host none private shareable @containers:container:",
    "log-driver": "journald json-file local none syslog",
    "log-level": "debug info warn error fatal",
    "network": "host none @networks @containers:container:",
    "pid": "host @containers:container:",
    "pull": "always missing never",
    "restart": "always no on-failure unless-stopped",
    "signal": "HUP INT KILL QUIT TERM USR1 USR2",
    "stop-signal": "HUP INT KILL QUIT TERM USR1 USR2",
    "type": "container image network volume",
    "userns": "host",
    "uts": "host",
    "volumes-from": "@containers",
}


def completion(client: Client, argv: list[str]) -> int:
    """Print a shell's script."""
    flags = read(
        "completion",
        f"{'|'.join(SCRIPTS)}",
        "Print a script that completes commands in a shell\n\n"
        "  bash: source <(sampan completion bash)\n"
        "  fish: sampan completion fish | source\n"
        "  zsh:  source <(sampan completion zsh)",
        [Flag("no-descriptions", "bool", "Without what candidates are")],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    shell = flags.arguments[0]
    if shell == "powershell":
        raise NotSupported(
            "completion: powershell: there is no script that was ever tried in one; 'sampan "
            "__complete WORD...' gives candidates to a script of yours"
        )
    if shell not in SCRIPTS:
        raise InvalidArgument(f"completion: {shell}: expected {', '.join(SCRIPTS)}")
    text = SCRIPTS[shell]
    if flags.flag("no-descriptions"):
        text = text.replace("__complete", "__complete --no-descriptions")
    print(text, end="")
    return 0


def complete(client: Client, argv: list[str]) -> int:
    """``__complete``: candidates for the last of the words."""
    plain = argv[:1] == ["--no-descriptions"]
    try:
        for word, text in candidates(client, argv[1:] if plain else argv):
            print(word if plain or not text else f"{word}\t{text}")
    except SampanError:
        return 1  # no daemon, or a wrong word before: there is nothing to offer
    return 0


def candidates(client: Client, words: list[str]) -> list[tuple[str, str]]:
    """Candidates with their descriptions for the last of ``words``."""
    *before, current = words or [""]
    from sampan.cli.main import GLOBAL

    globals_, rest = _until_command(GLOBAL, before)
    if rest is None:
        return _value(client, globals_, current)
    if not rest:
        if current.startswith("-"):
            return _flags(GLOBAL, current)
        return _matching(_commands(), current)
    name, arguments = _command(rest)
    if name is None:
        group = GROUPS.get(rest[0]) if len(rest) == 1 else None
        return _matching(_subcommands(group), current) if group else []
    known = _described(name)
    pending, positional = _until(known, arguments, interspersed=name not in _RUNS)
    if pending is not None:
        return _value(client, pending, current)
    if current.startswith("--") and "=" in current:
        flag, _, value = current[2:].partition("=")
        return [(f"--{flag}={word}", text) for word, text in _value(client, flag, value)]
    if positional and name in _RUNS:
        return []  # another program's words
    if current.startswith("-"):
        return _flags(known, current)
    if positional and name in _ONE:
        return []
    sources = _ARGUMENTS.get(name, "").split()
    offered = [pair for source in sources for pair in _named(client, source)]
    return _matching([pair for pair in offered if pair[0] not in positional], current)


def _until_command(flags: list[Flag], words: list[str]) -> tuple[str, list[str] | None]:
    """The global flag that waits for a value, with None; or "", and the words from the command."""
    rest = list(words)
    while rest and rest[0].startswith("-"):
        pending, _ = _until(flags, rest[:1])
        rest = rest[1:]
        if pending is not None:
            if not rest:
                return pending, None
            rest = rest[1:]
    return "", rest


def _until(
    flags: list[Flag], words: list[str], *, interspersed: bool = True
) -> tuple[str | None, list[str]]:
    """The flag whose value comes next, or None; and the arguments among ``words``."""
    try:
        return None, parse("", flags, words, interspersed=interspersed).arguments
    except InvalidArgument:
        if not words or not words[-1].startswith("-"):
            return None, []
    last = words[-1]
    for flag in flags:
        if flag.kind != "bool" and (
            last == f"--{flag.name}" or (flag.short and last[1:2] != "-" and last[-1] == flag.short)
        ):
            return flag.name, []
    return None, []


def _command(words: list[str]) -> tuple[str | None, list[str]]:
    if words[0] in GROUPS:
        if len(words) > 1 and words[1] in GROUPS[words[0]]:
            return GROUPS[words[0]][words[1]], words[2:]
        return None, []
    return (words[0], words[1:]) if words[0] in COMMANDS else (None, [])


def _described(name: str) -> list[Flag]:
    """The flags of a command, from the command itself."""
    module, function, _ = COMMANDS[name]
    if name == "daemon":
        return []
    command = getattr(importlib.import_module(f"sampan.cli.commands.{module}"), function)
    try:
        command(None, DESCRIBE)
    except Described as described:
        return described.flags
    return []


def _commands() -> list[tuple[str, str]]:
    plain = [(name, row[2]) for name, row in COMMANDS.items() if " " not in name]
    return sorted([pair for pair in plain if pair[0] not in HIDDEN] + list(SUMMARIES.items()))


def _subcommands(group: dict[str, str]) -> list[tuple[str, str]]:
    return sorted((sub, COMMANDS[name][2]) for sub, name in group.items() if name not in HIDDEN)


def _flags(flags: list[Flag], current: str) -> list[tuple[str, str]]:
    shown = sorted((f"--{f.name}", f.help) for f in flags if f.help and not f.refused)
    return _matching(shown, current if current != "-" else "--")


def _matching(pairs: Iterable[tuple[str, str]], current: str) -> list[tuple[str, str]]:
    return [pair for pair in pairs if pair[0].startswith(current)]


def _value(client: Client, flag: str, current: str) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for word in _VALUES.get(flag, "").split():
        if not word.startswith("@"):
            found.append((word, ""))
            continue
        source, _, prefix = word[1:].partition(":")
        found += [(prefix + name, text) for name, text in _named(client, source)]
    return _matching(dict(reversed(found)).items(), current)


def _named(client: Client, source: str) -> list[tuple[str, str]]:
    """Names of objects that are there now, and what they are."""
    try:
        return _objects(client, source)
    except ApiError:
        return []  # a daemon that does not know such objects


def _objects(client: Client, source: str) -> list[tuple[str, str]]:
    if source == "contexts":
        from sampan.cli.contexts import Store

        return [(name, "") for name in ["default", *Store(client.settings.directory).names()]]
    if source == "images":
        found = client.call("GET", "/images/json")
        tags = [tag for image in found for tag in image.get("RepoTags") or []]
        return sorted(
            (tag.removesuffix(":latest"), "image") for tag in tags if tag != "<none>:<none>"
        )
    if source == "networks":
        return [(network["Name"], network["Driver"]) for network in client.call("GET", "/networks")]
    if source == "volumes":
        answer = client.call("GET", "/volumes")
        return [(volume["Name"], "volume") for volume in answer.get("Volumes") or []]
    return _containers(client, source)


def _containers(client: Client, source: str) -> list[tuple[str, str]]:
    found: list[dict[str, Any]] = client.call("GET", "/containers/json", {"all": True})
    running = ("running", "paused")
    if source != "containers":
        found = [c for c in found if (c["State"] in running) == (source == "running")]
    return [
        (name.removeprefix("/"), f"{container['Image']}, {container['Status']}")
        for container in found
        for name in container["Names"][:1]
    ]
