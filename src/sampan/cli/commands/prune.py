"""``prune`` of containers, networks, volumes, images and the build cache, each and all of them
(``system prune``), and the question that is asked first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sampan.cli.client import ApiError
from sampan.cli.commands.common import filters, read
from sampan.cli.flags import Flag, UsageError, Values
from sampan.cli.output import size
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.cli.client import Client

    Chosen = dict[str, list[str]]
    Warn = Callable[[Values, Chosen], str]
    Step = Callable[[Client, Values, Chosen], tuple[str, int]]

__all__ = ["cache", "containers", "images", "networks", "system", "volumes"]

_FORCE = Flag("force", "bool", "Do not ask", short="f")
_FILTER = Flag("filter", "list", "Only those that meet a condition, such as until=24h or label=k")


def confirm(warning: str, joint: str = "\n") -> bool:
    """Ask on the terminal whether to go on; what cannot be answered is a no."""
    print(f"WARNING! {warning}{joint}Are you sure you want to continue? [y/N] ", end="", flush=True)
    try:
        answer = sys.stdin.readline()
    except KeyboardInterrupt:
        print()
        raise
    if not answer and sys.stdin.isatty():
        print()
    return answer.strip().lower() in ("y", "yes")


def prune_filters(client: Client, flags: Values) -> dict[str, list[str]]:
    """``--filter``, and config.json's ``pruneFilters`` where it does not contradict them."""
    found = filters(flags.items("filter")) or {}
    for item in client.settings.config().get("pruneFilters") or []:
        key, _, value = str(item).partition("=")
        opposite = "label" if key == "label!" else "label!"
        if key in ("label", "label!") and value in found.get(opposite, []):
            continue
        if value not in found.get(key, []):
            found.setdefault(key, []).append(value)
    return found


def _listed(title: str, items: list[str] | None) -> str:
    return "\n".join([f"{title}:", *items, "", ""]) if items else ""


def _command(
    client: Client,
    argv: list[str],
    name: str,
    summary: str,
    *,
    warn: Warn,
    step: Step,
    more: Sequence[Flag] = (),
    joint: str = "\n",
    frees: bool = True,
) -> int:
    """One kind's command: ask, remove, and say what was removed.

    ``warn`` returns what is asked, and raises UsageError where flags contradict each other;
    ``step`` removes, and returns what to print of it and the bytes that it freed.
    """
    known = sorted([*more, _FILTER, _FORCE], key=lambda flag: flag.name)
    flags = read(name, "[OPTIONS]", summary, known, argv, most=0)
    if flags is None:
        return 0
    chosen = prune_filters(client, flags)
    warning = warn(flags, chosen)
    if not flags.flag("force") and not confirm(warning, joint):
        return 0
    text, freed = step(client, flags, chosen)
    print(text, end="")
    if frees:
        print(f"Total reclaimed space: {size(freed, 4)}")
    return 0


def containers(client: Client, argv: list[str]) -> int:
    """Remove every container that does not run."""
    summary = "Remove every container that does not run"
    warning = "This will remove all stopped containers."
    return _command(
        client, argv, "container prune", summary, warn=lambda *_: warning, step=_containers
    )


def networks(client: Client, argv: list[str]) -> int:
    """Remove every network without a container."""
    summary = "Remove every network without a container"
    warning = "This will remove all custom networks not used by at least one container."
    command = "network prune"
    return _command(
        client, argv, command, summary, warn=lambda *_: warning, step=_networks, frees=False
    )


def volumes(client: Client, argv: list[str]) -> int:
    """Remove volumes that no container uses: nameless ones, or with --all every one."""

    def warn(flags: Values, chosen: Chosen) -> str:
        if flags.flag("all") and "all" in chosen:
            raise UsageError("volume prune: --all and --filter all= contradict each other")
        which = "all" if flags.flag("all") else "anonymous"
        return f"This will remove {which} local volumes not used by at least one container."

    def step(client: Client, flags: Values, chosen: Chosen) -> tuple[str, int]:
        every = {"all": ["true"]} if flags.flag("all") else {}
        return _volumes(client, flags, {**chosen, **every})

    every = Flag("all", "bool", "Those with a name too", short="a")
    summary = "Remove volumes that no container uses"
    return _command(client, argv, "volume prune", summary, warn=warn, step=step, more=[every])


def images(client: Client, argv: list[str]) -> int:
    """Remove images without a name, or with --all those without a container."""

    def warn(flags: Values, _: Chosen) -> str:
        if flags.flag("all"):
            return "This will remove all images without at least one container associated to them."
        return "This will remove all dangling images."

    every = Flag("all", "bool", "Every image no container uses", short="a")
    summary = "Remove images that have no name"
    return _command(client, argv, "image prune", summary, warn=warn, step=_images, more=[every])


def cache(client: Client, argv: list[str]) -> int:
    """Remove what building images has kept."""

    def warn(flags: Values, _: Chosen) -> str:
        what = "all build cache" if flags.flag("all") else "all dangling build cache"
        return f"This will remove {what}."

    def step(client: Client, flags: Values, chosen: Chosen) -> tuple[str, int]:
        kept = flags.number("keep-storage")
        more: dict[str, object] = {"keep-storage": str(kept)} if kept else {}
        return _built(client, flags, chosen, **more)

    more = [
        Flag("all", "bool", "What is in use by others of it too", short="a"),
        Flag("keep-storage", "bytes", "Leave as much of it"),
    ]
    summary = "Remove what building images has kept"
    return _command(
        client, argv, "builder prune", summary, warn=warn, step=step, more=more, joint=" "
    )


def system(client: Client, argv: list[str]) -> int:
    """Remove what nothing uses: containers, networks, images, with --volumes volumes."""
    flags = read(
        "system prune",
        "[OPTIONS]",
        "Remove what nothing uses",
        [
            Flag(
                "all",
                "bool",
                "Every image no container uses, not only those without a name",
                short="a",
            ),
            _FILTER,
            _FORCE,
            Flag("volumes", "bool", "Nameless volumes that no container uses too"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    chosen = prune_filters(client, flags)
    if flags.flag("volumes") and "until" in chosen:
        raise InvalidArgument('system prune: volumes have no age: leave out --volumes or "until"')
    if not flags.flag("force") and not confirm(_warning(flags, chosen)):
        return 0
    freed = 0
    for step in (_containers, _networks, _volumes, _images, _cache):
        if step is _volumes and not flags.flag("volumes"):
            continue
        text, bytes_ = step(client, flags, chosen)
        print(text, end="")
        freed += bytes_
    print(f"Total reclaimed space: {size(freed, 4)}")
    return 0


def _warning(flags: Values, chosen: Chosen) -> str:
    everything = flags.flag("all")
    what = ["all stopped containers", "all networks not used by at least one container"]
    if flags.flag("volumes"):
        what.append("all anonymous volumes not used by at least one container")
    what.append(
        "all images without at least one container associated to them"
        if everything
        else "all dangling images"
    )
    what.append("all build cache" if everything else "unused build cache")
    lines = ["This will remove:", *(f"  - {item}" for item in what)]
    if chosen:
        lines += ["", "  Items to be pruned will be filtered with:"]
        lines += [f"  - {key}={value}" for key in sorted(chosen) for value in chosen[key]]
    return "\n".join([*lines, ""])


def _prune(client: Client, kind: str, chosen: Chosen, **more: object) -> dict[str, Any]:
    query: dict[str, object] = {"filters": chosen or None, **more}
    answer: dict[str, Any] = client.call("POST", f"/{kind}/prune", query)
    return answer


def _containers(client: Client, _: Values, chosen: Chosen) -> tuple[str, int]:
    answer = _prune(client, "containers", chosen)
    text = _listed("Deleted Containers", answer.get("ContainersDeleted"))
    return text, answer.get("SpaceReclaimed") or 0


def _networks(client: Client, _: Values, chosen: Chosen) -> tuple[str, int]:
    return _listed("Deleted Networks", _prune(client, "networks", chosen).get("NetworksDeleted")), 0


def _volumes(client: Client, _: Values, chosen: Chosen) -> tuple[str, int]:
    answer = _prune(client, "volumes", chosen)
    text = _listed("Deleted Volumes", answer.get("VolumesDeleted"))
    return text, answer.get("SpaceReclaimed") or 0


def _images(client: Client, flags: Values, chosen: Chosen) -> tuple[str, int]:
    dangling = ["false" if flags.flag("all") else "true"]
    answer = _prune(client, "images", {**chosen, "dangling": dangling})
    changes = [
        f"{kind.lower()}: {what}"
        for change in answer.get("ImagesDeleted") or []
        for kind, what in change.items()
    ]
    return _listed("Deleted Images", changes), answer.get("SpaceReclaimed") or 0


def _built(client: Client, flags: Values, chosen: Chosen, **more: object) -> tuple[str, int]:
    answer = _prune(client, "build", chosen, all="1" if flags.flag("all") else None, **more)
    text = _listed("Deleted build cache objects", answer.get("CachesDeleted"))
    return text, answer.get("SpaceReclaimed") or 0


def _cache(client: Client, flags: Values, chosen: Chosen) -> tuple[str, int]:
    try:
        return _built(client, flags, chosen)
    except ApiError as error:
        if error.status != 501:
            raise
        return "", 0  # an engine that builds nothing has no build cache
