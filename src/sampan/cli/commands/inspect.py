"""``inspect`` of any object, and of containers and images by their groups' commands."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from sampan.cli.client import ApiError
from sampan.cli.commands.common import TEMPLATE, path, read, report
from sampan.cli.flags import Flag, UsageError
from sampan.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.cli.client import Client

__all__ = ["container", "image", "inspect", "platform_json", "print_objects", "show"]

_PATHS = {
    "container": "/containers/{}/json",
    "image": "/images/{}/json",
    "network": "/networks/{}",
    "volume": "/volumes/{}",
}
_SWARM = ("config", "node", "plugin", "secret", "service", "task")
_SIZE = Flag("size", "bool", "The sizes of a container's files too", short="s")


def inspect(client: Client, argv: list[str]) -> int:
    """Print a JSON list of the objects named, or each through a template."""
    flags = read(
        "inspect",
        "[OPTIONS] NAME|ID [NAME|ID...]",
        "Show all the daemon knows of objects",
        [TEMPLATE, _SIZE, Flag("type", "str", f"Only objects of this type: {', '.join(_PATHS)}")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    kind = flags.text("type")
    if kind in _SWARM:
        raise InvalidArgument(f"--type: {kind}: this engine has neither a swarm nor plugins")
    if kind and kind not in _PATHS:
        raise InvalidArgument(f"--type: {kind}: expected {', '.join(_PATHS)}")
    query: dict[str, object] = {"size": "1" if flags.flag("size") else None}
    if kind:
        used = query if kind == "container" else {}
        return show(client, _PATHS[kind], flags.arguments, flags.text("format"), used)
    names, layout = flags.arguments, flags.text("format")
    return print_objects(names, layout, lambda name: _any(client, name, query))


def container(client: Client, argv: list[str]) -> int:
    """``container inspect``."""
    summary = "Show all the daemon knows of containers"
    synopsis = "[OPTIONS] CONTAINER [CONTAINER...]"
    flags = read("container inspect", synopsis, summary, [TEMPLATE, _SIZE], argv, least=1)
    if flags is None:
        return 0
    query: dict[str, object] = {"size": "1" if flags.flag("size") else None}
    return show(client, _PATHS["container"], flags.arguments, flags.text("format"), query)


def image(client: Client, argv: list[str]) -> int:
    """``image inspect``."""
    platform = Flag("platform", "str", "This platform's, os[/arch[/variant]], of an index")
    flags = read(
        "image inspect",
        "[OPTIONS] IMAGE [IMAGE...]",
        "Show all the daemon knows of images",
        [TEMPLATE, platform],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    query: dict[str, object] = {"platform": platform_json(flags.text("platform"))}
    return show(client, _PATHS["image"], flags.arguments, flags.text("format"), query)


def platform_json(text: str) -> str | None:
    """``os[/arch[/variant]]`` as the API's JSON (OCI image-spec, platform); None for ""."""
    if not text:
        return None
    parts = text.split("/")
    if len(parts) > 3 or not all(parts):
        raise UsageError(f"--platform: {text}: expected os[/arch[/variant]]")
    named = dict(zip(("os", "architecture", "variant"), parts, strict=False))
    return json.dumps(named, separators=(",", ":"), sort_keys=True)


def show(
    client: Client, template: str, names: list[str], layout: str, query: dict[str, object]
) -> int:
    """Inspect objects of one type, whose path ``template`` has a place for the name."""
    return print_objects(
        names, layout, lambda name: client.call("GET", path(template, name), query)
    )


def _any(client: Client, name: str, query: dict[str, object]) -> Any:
    """The first type that has such an object."""
    for kind, template in _PATHS.items():
        try:
            return client.call("GET", path(template, name), query if kind == "container" else {})
        except ApiError as error:
            if error.status not in (404, 501):
                raise
    return None


def print_objects(
    names: list[str], layout: str, get: Callable[[str], Any], *, html: bool = False
) -> int:
    """Print what ``get`` returns for each name; it returns None for what there is not.

    ``html``: escape what Go's JSON escapes, where Docker's client makes the JSON itself.
    """
    shower = _template(layout) if layout and layout != "json" else None
    found: list[Any] = []
    shown: list[str] = []
    errors: list[Exception] = []
    status = 0
    for name in names:
        try:
            details = get(name)
        except (ApiError, NotFound) as error:
            report(error)
            status = 1
            continue
        if details is None:
            print(f"Error: No such object: {name}", file=sys.stderr)
            status = 1
        elif shower is None:
            found.append(details)
        else:
            try:
                shown.append(shower(details))
            except InvalidArgument as error:
                errors.append(error)
    if shower is not None:
        print("\n".join(shown))
    for problem in errors:
        print(f"sampan: {problem}", file=sys.stderr)
    if shower is None:
        style: dict[str, Any] = {"separators": (",", ":")} if layout else {"indent": 4}
        text = json.dumps(found, ensure_ascii=False, **style)
        for character in "<>&" if html else "":
            text = text.replace(character, f"\\u{ord(character):04x}")
        print(text)
    return 1 if errors else status


def _template(layout: str) -> Callable[[Any], str]:
    from sampan import template
    from sampan.cli.shapes import shaped

    try:
        parsed = template.parse(template.unescape(layout))
    except InvalidArgument as error:
        wrong = UsageError(str(error))
        wrong.exit_code = 64  # EX_USAGE, as Docker's inspect
        raise wrong from error
    return lambda details: template.render(parsed, shaped(details))
