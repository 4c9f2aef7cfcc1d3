"""Filters of an image list, as the Docker API's ``filters`` of ``GET /images/json`` names them.

Values of one filter are alternatives, but for ``label`` (and ``label!``, its contrary), of which
all must hold; different filters must all hold. A reference pattern is Go's ``path.Match``: ``*``
and ``?`` do not match a slash.
"""

from __future__ import annotations

import re
import time
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

from sampan.errors import InvalidArgument
from sampan.image.instructions import nanoseconds
from sampan.image.types import to_seconds
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sampan.image.types import Image

__all__ = ["boolean", "select"]

KNOWN = ("before", "dangling", "label", "label!", "reference", "since", "until")
_TRUE = ("1", "t", "true")
_FALSE = ("0", "f", "false")


@lru_cache(maxsize=64)
def _pattern(text: str) -> re.Pattern[str]:
    out, index = "", 0
    while index < len(text):
        character = text[index]
        if character == "*":
            out += "[^/]*"
        elif character == "?":
            out += "[^/]"
        elif character == "[":
            end = text.find("]", index + 2)
            if end < 0:
                raise InvalidArgument(f'filter reference: "{text}" has an unclosed "["')
            inside = text[index + 1 : end].replace("\\", "\\\\")
            out += f"[{inside}]"
            index = end
        else:
            out += re.escape(character)
        index += 1
    try:
        return re.compile(out)
    except re.error as error:
        raise InvalidArgument(f'filter reference: "{text}" is not a pattern') from error


def _named(image: Image, pattern: str) -> list[str]:
    """The image's names a pattern matches, with or without their tag."""
    match = _pattern(pattern).fullmatch
    found = []
    for name in image.references + image.digests:
        parsed = references.parse(name)
        forms = (parsed.familiar, parsed.familiar_name, str(parsed), parsed.name)
        if any(match(form) for form in forms):
            found.append(name)
    return found


def _labelled(image: Image, wanted: str) -> bool:
    key, separator, value = wanted.partition("=")
    labels = image.config.labels
    return key in labels and (not separator or labels[key] == value)


def boolean(name: str, text: str) -> bool:
    """A filter's yes or no. Raises InvalidArgument."""
    if text.lower() in _TRUE:
        return True
    if text.lower() in _FALSE:
        return False
    raise InvalidArgument(f'filter {name}: "{text}" is not true or false')


def _moment(text: str) -> float:
    """Seconds since 1970: so written, as RFC 3339, or as a duration back from now (``1h30m``)."""
    try:
        return float(text)
    except ValueError:
        pass
    if seconds := to_seconds(text):
        return seconds
    try:
        return time.time() - nanoseconds("until", text) / 1e9
    except InvalidArgument:
        raise InvalidArgument(f'filter until: "{text}" is neither a time nor a duration') from None


def select(
    images: list[Image],
    filters: Mapping[str, Sequence[str]],
    resolve: Callable[[str], Image],
) -> list[Image]:
    """The images that pass; with ``reference``, each with only the names that matched."""
    for name in filters:
        if name not in KNOWN:
            raise InvalidArgument(f"invalid filter '{name}': known are {', '.join(KNOWN)}")
    for text in filters.get("dangling", ()):
        wanted = boolean("dangling", text)
        images = [image for image in images if bool(image.references) != wanted]
    for label in filters.get("label", ()):
        images = [image for image in images if _labelled(image, label)]
    for label in filters.get("label!", ()):
        images = [image for image in images if not _labelled(image, label)]
    for name in filters.get("before", ()):
        limit = resolve(name).created
        images = [image for image in images if image.created < limit]
    for name in filters.get("since", ()):
        limit = resolve(name).created
        images = [image for image in images if image.created > limit]
    for text in filters.get("until", ()):
        limit = _moment(text)
        images = [image for image in images if image.created < limit]
    if patterns := filters.get("reference", ()):
        matched = [(image, {n for p in patterns for n in _named(image, p)}) for image in images]
        images = [_with_names(image, names) for image, names in matched if names]
    return images


def _with_names(image: Image, names: set[str]) -> Image:
    return msgspec.structs.replace(
        image,
        references=tuple(name for name in image.references if name in names),
        digests=tuple(name for name in image.digests if name in names),
    )
