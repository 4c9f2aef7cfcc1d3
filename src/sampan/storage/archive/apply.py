"""Unpacking an OCI layer into a directory held by descriptor.

After the OCI image specification, layer.md ("Applying Changesets"): owners by number, all mode
bits, times to the nanosecond, extended attributes and file capabilities, hard links, device nodes,
holes. A layer is what a stranger wrote, so nothing in it can name anything outside the directory:

* names with ".." are refused; absolute names, which builders of images do write, are taken from the
  root of the tree, or refused too (``relative_names``) where a user gives a root file system;
* the parent of a name is opened with openat2(2) as a process chrooted into the tree would see it,
  so writing through a symbolic link, whatever it says, stays in the tree (CVE-2018-15664,
  CVE-2019-14271), and the last component is never followed, neither to write, nor to remove what a
  whiteout names (CVE-2019-10152), nor as the target of a hard link;
* files are made with O_EXCL: what is in the way is unlinked, never opened (a FIFO would block, a
  device would act, a file shared by hard link with a lower layer would change there);
* overlayfs's own attributes and its whiteout device can only come from OCI whiteouts, or a layer
  could redirect a directory to another one's content.

The directory must not be changed by anybody else meanwhile. When unpacking fails the caller removes
it (``removal.remove_tree``): a half-unpacked layer is never to be used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import Corrupt, SampanError
from sampan.storage.archive.applied import Applied, WhiteoutStyle
from sampan.storage.archive.compression import Unpacker
from sampan.storage.archive.headers import printable
from sampan.storage.archive.reader import Limits, Reader
from sampan.storage.archive.target import Target
from sampan.storage.failures import explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from sampan.storage.archive.compression import Readable

__all__ = ["Applied", "Limits", "WhiteoutStyle", "apply_layer"]


def apply_layer(
    stream: int | Readable,
    target: int,
    *,
    style: WhiteoutStyle,
    diff_id: str | None = None,
    lower: Sequence[int] = (),
    limits: Limits | None = None,
    require_end: bool = True,
    relative_names: bool = False,
    loose: bool = False,
    cancelled: Callable[[], bool] | None = None,
) -> Applied:
    """Unpack a layer, compressed or not, into the directory ``target``.

    ``stream``: a descriptor or an object with ``read(n)``; it is read to its end and not closed.
    ``target``: a descriptor of the directory (O_PATH will do), empty for "overlay", with the tree
    so far for "direct". ``lower``: descriptors of the lower layers' directories, the nearest first,
    each with overlayfs whiteouts: from them "overlay" takes owner, mode and times of directories
    the layer goes through without listing them (else root, 0755 and now). ``diff_id``: what the
    layer must hash to. ``relative_names``: absolute names are refused. ``loose``: the lower layers
    are not there yet, and what depends on them is left to ``settle``. ``cancelled`` is asked before
    each member.

    Errors: ``Corrupt`` (compression, tar, digest), ``InvalidArgument`` (a member that may not be,
    by its name), ``NotSupported``, ``KernelError``, a plain ``SampanError`` for a full disk.
    """
    limits = Limits() if limits is None else limits
    with (
        Unpacker(stream, ratio=limits.ratio) as pieces,
        Target(target, style, lower, relative=relative_names, loose=loose) as tree,
    ):
        reader = Reader(pieces, limits=limits, require_end=require_end)
        name = b""
        try:
            for member in reader:
                if cancelled is not None and cancelled():
                    raise SampanError("unpacking was cancelled")
                name = member.name
                tree.add(member, reader)
            tree.finish()
        except OSError as error:
            entry = printable(name)
            raise explain(error, tree.call, entry, f"while unpacking {entry}") from error
        if diff_id is not None and pieces.digest != diff_id:
            raise Corrupt(f"expected a layer with diff ID {diff_id}, found {pieces.digest}")
        return Applied(
            pieces.digest,
            pieces.kind,
            pieces.packed,
            pieces.size,
            reader.count,
            reader.size,
            tuple(tree.warnings),
            tree.loose_ends,
        )
