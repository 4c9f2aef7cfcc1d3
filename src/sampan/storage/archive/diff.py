"""What changed in a tree, as a listing (``docker diff``) and as an OCI layer.

Two ways to know: an overlay upper directory holds the changes, with whiteouts and opaque
directories; two full trees are compared. Both give the same answer for the same change, which the
storage drivers' tests hold them to. The order is that of the names, a directory before what is in
it; so the same trees give the same bytes.

What makes a file another one: its type, mode, owner, device number, link target, extended
attributes, modification time in nanoseconds and, for a regular file, its size. Contents are not
compared, as in every engine: who changes bytes and puts size and time back is not seen here.
"""

from __future__ import annotations

import os
import stat
from itertools import chain
from typing import TYPE_CHECKING, Literal, NamedTuple

from sampan.errors import NotSupported
from sampan.storage.archive.headers import printable
from sampan.storage.archive.tree import (
    OPEN_DIRECTORY,
    Merged,
    attributes,
    is_opaque,
    is_whiteout,
    open_directory,
    scan,
    walk,
)
from sampan.storage.archive.writer import Output, Writer, Written
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence

__all__ = [
    "Change",
    "changes_between",
    "changes_in_upper",
    "size_between",
    "write_difference",
    "write_tree",
    "write_upper",
]


class Change(NamedTuple):
    """One path ("etc/passwd", bytes) and what became of it: Added, Changed or Deleted."""

    path: bytes
    kind: Literal["A", "C", "D"]


class _Step(NamedTuple):
    """A path that is part of a difference. ``directory`` is an open descriptor for as long as the
    step is looked at; ``status`` None: deleted."""

    path: bytes
    directory: int
    base: bytes
    status: os.stat_result | None
    kind: Literal["A", "C", "D"]
    opaque: bool = False


def changes_in_upper(
    upper: int, lower: Sequence[int], marks: Collection[bytes] = ()
) -> list[Change]:
    """The changes an overlay upper directory holds against its lower layers, nearest first.

    ``marks``: paths at which something was mounted. An empty file or directory that is new there
    was made to mount on, and a link for programs to find; neither is anybody's change, nor is the
    directory it was made in.
    """
    below = Merged(lower)

    def was(path: bytes) -> os.stat_result | None:
        return below.status(path)

    return _listed(_upper_steps(upper, below), marks, was)


def changes_between(old: int, new: int, marks: Collection[bytes] = ()) -> list[Change]:
    """The changes that make the tree ``old`` into ``new``. A directory in which something changed
    has changed; what was in a deleted directory is not listed. ``marks`` as above."""

    def was(path: bytes) -> os.stat_result | None:
        parent, _, base = path.rpartition(b"/")
        directory = open_directory(old, parent)
        if directory is None:
            return None
        try:
            return os.stat(base, dir_fd=directory, follow_symlinks=False)
        except FileNotFoundError:
            return None
        finally:
            os.close(directory)

    return _listed(_difference(old, new), marks, was)


def _listed(
    steps: Iterator[_Step],
    marks: Collection[bytes],
    was: Callable[[bytes], os.stat_result | None],
) -> list[Change]:
    found: dict[bytes, _Step] = {}
    marked = []
    for step in steps:
        if step.path in marks and step.kind == "A" and _is_mark(step):
            marked.append(step.path)
        elif step.path:
            found[step.path] = step
    for path in marked:
        parent = path.rpartition(b"/")[0]
        while parent in found and not any(other.startswith(parent + b"/") for other in found):
            step, before = found[parent], was(parent)
            if before is not None and (step.status is None or not _alike(before, step.status)):
                break
            del found[parent]
            parent = parent.rpartition(b"/")[0]
    return sorted(Change(path, step.kind) for path, step in found.items())


def _alike(one: os.stat_result, other: os.stat_result) -> bool:
    """Two directories that differ at most in times."""
    return (one.st_mode, one.st_uid, one.st_gid) == (other.st_mode, other.st_uid, other.st_gid)


def _is_mark(step: _Step) -> bool:
    """An empty file or directory, or a link."""
    status = step.status
    if status is not None and stat.S_ISLNK(status.st_mode):
        return True
    if status is None or not stat.S_ISDIR(status.st_mode):
        return status is not None and stat.S_ISREG(status.st_mode) and not status.st_size
    try:
        directory = os.open(step.base, OPEN_DIRECTORY, dir_fd=step.directory)
    except OSError:
        return False  # it is something else by now
    try:
        return not os.listdir(directory)
    finally:
        os.close(directory)


def size_between(old: int, new: int, marks: Collection[bytes] = ()) -> int:
    """Bytes of the files in ``new`` that ``old`` has not, or has otherwise; but for links at the
    paths ``marks``."""
    size = 0
    seen: set[tuple[int, int]] = set()
    for step in _difference(old, new):
        status = step.status
        if status is None or stat.S_ISDIR(status.st_mode):
            continue
        if stat.S_ISLNK(status.st_mode) and step.path in marks:
            continue
        identity = status.st_dev, status.st_ino
        if identity not in seen:
            seen.add(identity)
            size += status.st_size
    return size


def write_upper(
    upper: int,
    out: Output,
    *,
    lower: Sequence[int] = (),
    nested: Sequence[tuple[bytes, int]] = (),
    marks: Collection[bytes] = (),
    sparse: bool = True,
) -> Written:
    """Write an overlay upper directory as a layer: uncompressed, not closed (see ``Compressor``).

    With ``lower`` the root directory itself is part of the layer where its owner, mode or
    attributes are not those below; without it never is. ``nested``: the upper directories of
    overlays mounted inside the tree, each with the path it is mounted on. ``marks``: paths where
    what is new and empty is left out (``changes_in_upper``).
    """
    steps = _upper_steps(upper, Merged(lower), listing=False)
    if marks:
        steps = _only(steps, changes_in_upper(upper, lower, marks))
    return _write(chain(steps, *(_nested_steps(*one) for one in nested)), out, sparse)


def write_difference(
    old: int, new: int, out: Output, *, marks: Collection[bytes] = (), sparse: bool = True
) -> Written:
    """Write as a layer what makes the tree ``old`` into ``new``; ``marks`` as above."""
    steps = _difference(old, new)
    if marks:
        steps = _only(steps, changes_between(old, new, marks))
    return _write(steps, out, sparse)


def _only(steps: Iterator[_Step], changes: list[Change]) -> Iterator[_Step]:
    """The steps that are among the changes, and the root's."""
    wanted = {change.path for change in changes}
    return (step for step in steps if not step.path or step.path in wanted)


def write_tree(root: int, out: Output, *, sparse: bool = True) -> Written:
    """Write a whole tree, its root first ("./"). What is mounted in it is an empty directory."""
    return _write(_all(root), out, sparse)


def _write(steps: Iterator[_Step], out: Output, sparse: bool) -> Written:
    writer = Writer(out, sparse=sparse)
    path = b""
    try:
        for step in steps:
            path = step.path
            if step.status is None:
                writer.white_out(path)
            elif not path:
                writer.add_directory(path, step.directory, step.base, step.status)
            else:
                writer.add(path, step.directory, step.base, step.status)
            if step.opaque:
                writer.make_opaque(path)
        return writer.finish()
    except OSError as error:
        name = printable(path)
        raise explain(error, "read", name, f"while packing {name}") from error


def _all(root: int) -> Iterator[_Step]:
    yield _Step(b"", root, b".", os.fstat(root), "A")
    for path, directory, base, status in walk(root):
        yield _Step(path, directory, base, status, "A")


# An overlay upper directory


def _upper_steps(upper: int, lower: Merged, *, listing: bool = True) -> Iterator[_Step]:
    """The steps of an upper directory. ``listing``: tell Added from Changed, and name what an
    opaque directory deletes, by looking below; else leave that to the opaque mark itself."""
    root = lower.nearest(b"")
    if root is not None:
        try:
            if _roots_differ(root, upper):
                yield _Step(b"", upper, b".", os.fstat(upper), "C")
        finally:
            os.close(root)
    hiding: set[bytes] = set()  # directories that hide what the layers below have in them
    for path, directory, name, status in walk(upper):
        if is_whiteout(status):
            yield _Step(path, directory, name, None, "D")
            continue
        opaque = stat.S_ISDIR(status.st_mode) and _is_opaque_upper(upper, path)
        if not listing:
            yield _Step(path, directory, name, status, "C", opaque)
            continue
        below = lower.status(path)
        yield _Step(path, directory, name, status, "C" if below is not None else "A", opaque)
        if stat.S_ISDIR(status.st_mode) and (opaque or path.rpartition(b"/")[0] in hiding):
            hiding.add(path)
            for missing in lower.names(path) - _names(upper, path):
                yield _Step(path + b"/" + missing, directory, missing, None, "D")


def _names(root: int, path: bytes) -> set[bytes]:
    directory = open_directory(root, path)
    if directory is None:
        return set()
    try:
        return set(map(os.fsencode, os.listdir(directory)))
    finally:
        os.close(directory)


def _nested_steps(path: bytes, upper: int) -> Iterator[_Step]:
    for number, step in enumerate(_upper_steps(upper, Merged(()), listing=False)):
        if not number:
            yield _Step(path, upper, b".", os.fstat(upper), "C")
        yield step._replace(path=path + b"/" + step.path)


def _is_opaque_upper(upper: int, path: bytes) -> bool:
    directory = open_directory(upper, path)
    if directory is None:
        return False
    try:
        for attribute in os.listxattr(directory):
            if attribute in ("trusted.overlay.redirect", "trusted.overlay.metacopy"):
                raise NotSupported(
                    f"{printable(path)}: {attribute} on an upper directory: mount overlay with"
                    " redirect_dir=off,metacopy=off"
                )
        return is_opaque(directory)
    finally:
        os.close(directory)


# Two trees


def _difference(old: int, new: int) -> Iterator[_Step]:
    """Compare first, then go through what differs in order: whether a directory has changed is only
    known once it was gone through, and its step comes before those in it."""
    if _roots_differ(old, new):
        yield _Step(b"", new, b".", os.fstat(new), "C")
    kinds = dict(_compare(old, new))
    for path in list(kinds):
        parent = path.rpartition(b"/")[0]
        while parent and parent not in kinds:
            kinds[parent] = "C"
            parent = parent.rpartition(b"/")[0]
    directory = None
    at = None
    try:
        for path in sorted(kinds, key=lambda path: path.split(b"/")):
            parent, _, base = path.rpartition(b"/")
            if parent != at:
                if directory is not None:
                    os.close(directory)
                directory, at = open_directory(new, parent), parent
            if directory is None:
                continue
            if kinds[path] == "D":
                yield _Step(path, directory, base, None, "D")
                continue
            try:
                status = os.stat(base, dir_fd=directory, follow_symlinks=False)
            except FileNotFoundError:
                continue
            yield _Step(path, directory, base, status, kinds[path])
    finally:
        if directory is not None:
            os.close(directory)


def _compare(old: int, new: int) -> Iterator[tuple[bytes, Literal["A", "C", "D"]]]:
    """What differs by itself, in no particular order."""
    pending = [b""]
    while pending:
        path = pending.pop()
        before, after = open_directory(old, path), open_directory(new, path)
        try:
            if before is None or after is None:
                continue
            known = dict(scan(before))
            for name, status in scan(after):
                full = path + b"/" + name if path else name
                was = known.pop(name, None)
                if was is None:
                    yield full, "A"
                    if stat.S_ISDIR(status.st_mode):
                        for inner, *_ in walk(new, full):
                            yield inner, "A"
                    continue
                directory = stat.S_ISDIR(status.st_mode)
                if _differ(before, after, name, was, status):
                    yield full, "C"
                    if directory and not stat.S_ISDIR(was.st_mode):
                        for inner, *_ in walk(new, full):
                            yield inner, "A"
                        continue
                if directory:
                    pending.append(full)
            for name in known:
                yield (path + b"/" + name if path else name), "D"
        finally:
            for descriptor in (before, after):
                if descriptor is not None:
                    os.close(descriptor)


def _differ(
    before: int, after: int, name: bytes, was: os.stat_result, status: os.stat_result
) -> bool:
    if was.st_ino == status.st_ino and was.st_dev == status.st_dev:
        return False  # one file under two names: what the "overlay" driver's trees share
    if (
        was.st_mode != status.st_mode
        or was.st_uid != status.st_uid
        or was.st_gid != status.st_gid
        or was.st_mtime_ns != status.st_mtime_ns
    ):
        return True
    kind = stat.S_IFMT(status.st_mode)
    if kind == stat.S_IFREG and was.st_size != status.st_size:
        return True
    if kind in (stat.S_IFCHR, stat.S_IFBLK) and was.st_rdev != status.st_rdev:
        return True
    try:
        if kind == stat.S_IFLNK and (
            os.readlink(name, dir_fd=before) != os.readlink(name, dir_fd=after)
        ):
            return True
        return attributes(b"/proc/self/fd/%d/%s" % (before, name)) != attributes(
            b"/proc/self/fd/%d/%s" % (after, name)
        )
    except FileNotFoundError:
        return False  # gone since it was listed


def _roots_differ(old: int, new: int) -> bool:
    """Whether the roots of two trees differ in what is their own: nobody's layer is about the
    root's modification time, which changes with every name in it."""
    was, status = os.fstat(old), os.fstat(new)
    return (
        was.st_mode != status.st_mode
        or was.st_uid != status.st_uid
        or was.st_gid != status.st_gid
        or attributes(b"/proc/self/fd/%d/." % old) != attributes(b"/proc/self/fd/%d/." % new)
    )
