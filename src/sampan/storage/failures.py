"""What a failed system call of the storage layer is called towards the user.

A full disk is the one failure that everybody meets and nobody should have to decode, so it has a
sentence of its own; everything else is a ``KernelError`` that names the call and the object.
"""

from __future__ import annotations

from errno import EDQUOT, EIO, ENOSPC

from sampan.errors import KernelError, SampanError

__all__ = ["explain"]


def explain(error: OSError, call: str, target: str, doing: str) -> SampanError:
    """The error to raise ``from`` an ``OSError``.

    ``doing`` is the sentence's end for a full disk ("while unpacking usr/bin/perl"); ``call`` and
    ``target`` are what ``KernelError`` names in every other case.
    """
    number = error.errno or EIO
    if number == ENOSPC:
        return SampanError(
            f"no space left on device {doing}: free some space or move the data root"
        )
    if number == EDQUOT:
        return SampanError(f"disk quota exceeded {doing}: free some space or raise the quota")
    return KernelError(call, number, target)
