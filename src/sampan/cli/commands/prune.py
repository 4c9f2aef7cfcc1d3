"""``container``, ``image`` and ``system prune``, and the question every prune asks first."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from sampan.cli.client import ApiError
from sampan.cli.commands.common import filters, read
from sampan.cli.flags import Flag, Values
from sampan.cli.output import size
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["cache", "confirm", "containers", "images", "prune_filters", "system"]

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


def containers(client: Client, argv: list[str]) -> int:
    """Remove every container that does not run."""
    summary = "Remove every container that does not run"
    flags = read("container prune", "[OPTIONS]", summary, [_FILTER, _FORCE], argv, most=0)
    if flags is None:
        return 0
    if not flags.flag("force") and not confirm("This will remove all stopped containers."):
        return 0
    chosen = prune_filters(client, flags) or None
    answer = client.call("POST", "/containers/prune", {"filters": chosen})
    text = _listed("Deleted Containers", answer.get("ContainersDeleted"))
    print(f"{text}Total reclaimed space: {size(answer.get('SpaceReclaimed') or 0, 4)}")
    return 0


def _listed(title: str, items: list[str] | None) -> str:
    return "\n".join([f"{title}:", *items, "", ""]) if items else ""


def images(client: Client, argv: list[str]) -> int:
    """Remove images without a name, or with --all those without a container."""
    every = Flag("all", "bool", "Every image no container uses", short="a")
    summary = "Remove images that have no name"
    flags = read("image prune", "[OPTIONS]", summary, [every, _FILTER, _FORCE], argv, most=0)
    if flags is None:
        return 0
    warning = (
        "This will remove all images without at least one container associated to them."
        if flags.flag("all")
        else "This will remove all dangling images."
    )
    if not flags.flag("force") and not confirm(warning):
        return 0
    text, reclaimed = _images(client, flags, prune_filters(client, flags))
    print(f"{text}Total reclaimed space: {size(reclaimed, 4)}")
    return 0


def cache(client: Client, argv: list[str]) -> int:
    """Remove what building images has kept."""
    flags = read(
        "builder prune",
        "[OPTIONS]",
        "Remove what building images has kept",
        [
            Flag("all", "bool", "What is in use by others of it too", short="a"),
            _FILTER,
            _FORCE,
            Flag("keep-storage", "bytes", "Leave as much of it"),
        ],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    everything = flags.flag("all")
    what = "all build cache" if everything else "all dangling build cache"
    if not flags.flag("force") and not confirm(f"This will remove {what}.", " "):
        return 0
    more: dict[str, object] = {"all": "1" if everything else None}
    if flags.number("keep-storage"):
        more["keep-storage"] = str(flags.number("keep-storage"))
    answer = _prune(client, "build", prune_filters(client, flags), **more)
    text = _listed("Deleted build cache objects", answer.get("CachesDeleted"))
    print(f"{text}Total reclaimed space: {size(answer.get('SpaceReclaimed') or 0, 4)}")
    return 0


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


def _warning(flags: Values, chosen: dict[str, list[str]]) -> str:
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


def _prune(
    client: Client, kind: str, chosen: dict[str, list[str]], **more: object
) -> dict[str, Any]:
    query: dict[str, object] = {"filters": chosen or None, **more}
    answer: dict[str, Any] = client.call("POST", f"/{kind}/prune", query)
    return answer


def _containers(client: Client, _: Values, chosen: dict[str, list[str]]) -> tuple[str, int]:
    answer = _prune(client, "containers", chosen)
    text = _listed("Deleted Containers", answer.get("ContainersDeleted"))
    return text, answer.get("SpaceReclaimed") or 0


def _networks(client: Client, _: Values, chosen: dict[str, list[str]]) -> tuple[str, int]:
    return _listed("Deleted Networks", _prune(client, "networks", chosen).get("NetworksDeleted")), 0


def _volumes(client: Client, _: Values, chosen: dict[str, list[str]]) -> tuple[str, int]:
    answer = _prune(client, "volumes", chosen)
    text = _listed("Deleted Volumes", answer.get("VolumesDeleted"))
    return text, answer.get("SpaceReclaimed") or 0


def _images(client: Client, flags: Values, chosen: dict[str, list[str]]) -> tuple[str, int]:
    dangling = ["false" if flags.flag("all") else "true"]
    answer = _prune(client, "images", {**chosen, "dangling": dangling})
    changes = [
        f"{kind.lower()}: {what}"
        for change in answer.get("ImagesDeleted") or []
        for kind, what in change.items()
    ]
    return _listed("Deleted Images", changes), answer.get("SpaceReclaimed") or 0


def _cache(client: Client, flags: Values, chosen: dict[str, list[str]]) -> tuple[str, int]:
    try:
        answer = _prune(client, "build", chosen, all="1" if flags.flag("all") else None)
    except ApiError as error:
        if error.status != 501:
            raise
        return "", 0  # an engine that builds nothing has no build cache
    text = _listed("Deleted build cache objects", answer.get("CachesDeleted"))
    return text, answer.get("SpaceReclaimed") or 0
