"""What removing an image by one of its names means, as Docker decides it.

By a name: that name goes; the image goes with its last one. By ID: the image goes with its name, if
it has one only. What stands against it is a *conflict*, which ``force`` overcomes unless a running
container uses the image. ``tests/image/test_removing.py`` has the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import Conflict
from sampan.image.types import Removal
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.image.records import ImageRecords
    from sampan.image.types import Image
    from sampan.oci.reference import Reference

__all__ = ["User", "remove"]


class User(NamedTuple):
    """A container made from the image."""

    container_id: str
    running: bool


def _short(identifier: str) -> str:
    return identifier.removeprefix("sha256:")[:12]


def remove(
    records: ImageRecords,
    image: Image,
    reference: Reference | None,
    force: bool,
    users: Sequence[User],
) -> tuple[list[Removal], bool]:
    """Untag and perhaps delete an image; what was done, and whether the image is gone.

    ``reference`` is the name it was asked for by, None for an ID. Conflict, with nothing done.
    """
    names = [references.parse(name) for name in (*image.references, *image.digests)]
    if reference is None:
        going = _by_id(image, names, force)
        _refuse_users(image, force, users)
    else:
        going = [reference.replace(tag=None) if reference.digest else reference.tagged()]
        rest = [name for name in names if name not in going]
        if any(name.digest is None for name in rest) or (rest and reference.digest):
            return _untag(records, going), False
        # Digests alone are no names to a person: they go with the last tag.
        going += rest
        if users and not force:
            raise Conflict(
                f'conflict: unable to remove repository reference "{reference.familiar}" '
                f"(must force) - container {_short(users[0].container_id)} is using its "
                f"referenced image {_short(image.id)}"
            )
        if any(user.running for user in users):
            return _untag(records, going), False
    done = _untag(records, going)
    records.delete(image.id)
    return [*done, Removal(deleted=image.id)], True


def _untag(records: ImageRecords, names: Sequence[Reference]) -> list[Removal]:
    records.untag(names)
    return [Removal(untagged=name.familiar) for name in names]


def _by_id(image: Image, names: Sequence[Reference], force: bool) -> list[Reference]:
    tagged = [name for name in names if name.digest is None]
    if len(tagged) > 1 and not force:
        where = (
            "referenced in multiple repositories"
            if len({name.name for name in tagged}) > 1
            else "referenced by several tags"
        )
        raise Conflict(
            f"conflict: unable to delete {_short(image.id)} (must be forced) - image is {where}"
        )
    return list(names)


def _refuse_users(image: Image, force: bool, users: Sequence[User]) -> None:
    for user in sorted(users, key=lambda user: not user.running):
        if user.running:
            raise Conflict(
                f"conflict: unable to delete {_short(image.id)} (cannot be forced) - image is "
                f"being used by running container {_short(user.container_id)}"
            )
        if not force:
            raise Conflict(
                f"conflict: unable to delete {_short(image.id)} (must be forced) - image is "
                f"being used by stopped container {_short(user.container_id)}"
            )
