"""What removing an image by one of its names means, as Docker decides it.

By a name: that name goes, and with a repository's last tag the digests known of it there; the image
goes with its last name. By ID: the image goes with its names, if they are all of one repository and
at most one is a tag. What stands against it is a *conflict*: a hard one (a running container, an
image built on it) stays, a soft one (a stopped container, further names) gives way to ``force``.
With the image go its parents, as long as they have no name, no child and no container, unless
``prune`` is off. ``tests/image/test_removing.py`` has the table.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from sampan.errors import Conflict
from sampan.image.types import Removal
from sampan.oci import reference as references

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

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
    *,
    force: bool,
    prune: bool,
    used_by: Callable[[str], Sequence[User]],
) -> tuple[list[Removal], bool]:
    """Untag and perhaps delete an image; what was done, and whether an image is gone.

    ``reference`` is the name it was asked for by, None for an ID; ``used_by`` gives an image's
    containers. Conflict, with nothing done.
    """
    names = [references.parse(name) for name in (*image.references, *image.digests)]
    users = used_by(image.id)
    if reference is not None:
        wanted = reference.replace(tag=None) if reference.digest else reference.tagged()
        if not force and _single(names) and users:
            raise Conflict(
                f'conflict: unable to remove repository reference "{reference.familiar}" '
                f"(must force) - container {_short(users[0].container_id)} is using its "
                f"referenced image {_short(image.id)}"
            )
        going = [wanted, *_digests_left(wanted, names)]
        left = [name for name in names if name not in going]
        done = _untag(records, image.id, going)
        if left:
            return done, False
        try:
            _refuse(records, image.id, users, (), force)
        except Conflict:
            # It lost its name; nameless, it stays for whoever uses it.
            return done, False
    else:
        _refuse(records, image.id, users, () if _single(names) else names, force)
        done = _untag(records, image.id, names)
    deleted = [image.id]
    records.delete(image.id)
    parent = image.parent
    while prune and parent:
        above = records.get(parent)
        if above is None or above.references or above.digests or used_by(parent):
            break
        if records.children(parent):
            break
        records.delete(parent)
        deleted.append(parent)
        parent = above.parent
    return [*done, *(Removal(deleted=image_id, image=image_id) for image_id in deleted)], True


def _single(names: Sequence[Reference]) -> bool:
    """At most one tag, and all of one repository: then an ID, or that tag, means them all."""
    tags = [name for name in names if name.digest is None]
    return len(tags) <= 1 and len({name.name for name in names}) <= 1


def _digests_left(wanted: Reference, names: Sequence[Reference]) -> list[Reference]:
    """Digests of the repository whose last tag goes: nobody would call the image by them."""
    if wanted.digest is not None:
        return []
    same = [name for name in names if name.name == wanted.name and name != wanted]
    return [] if any(name.digest is None for name in same) else same


def _untag(records: ImageRecords, image_id: str, names: Sequence[Reference]) -> list[Removal]:
    records.untag(names)
    return [Removal(untagged=name.familiar, image=image_id) for name in names]


def _refuse(
    records: ImageRecords,
    image_id: str,
    users: Sequence[User],
    names: Sequence[Reference],
    force: bool,
) -> None:
    """Conflict for what stands against the deletion; ``names`` are those nobody mentioned."""
    hard, soft = "cannot be forced", "must be forced"
    for user in users:
        if user.running:
            raise _conflict(
                image_id, hard, f"being used by running container {_short(user.container_id)}"
            )
    if records.children(image_id):
        raise Conflict(
            f"conflict: unable to delete {_short(image_id)} ({hard}) - image has dependent child "
            "images"
        )
    if force:
        return
    if names:
        several = len({name.name for name in names}) > 1
        where = "in multiple repositories" if several else "by several tags"
        raise _conflict(image_id, soft, f"referenced {where}")
    for user in users:
        raise _conflict(
            image_id, soft, f"being used by stopped container {_short(user.container_id)}"
        )


def _conflict(image_id: str, how: str, why: str) -> Conflict:
    return Conflict(f"conflict: unable to delete {_short(image_id)} ({how}) - image is {why}")
