"""Which of an index's manifests is for a machine (OCI image specification, image-index.md).

A machine runs what was made for its architecture, and for older variants of it: the best match is
the first in the list of what it can run, not the first in the index. Entries that are no images
(attestations, whose platform is ``unknown/unknown``) never match.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.oci.platform import Platform, matches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from sampan.oci.image import Descriptor

__all__ = ["runnable", "select"]

_ARM = ("v8", "v7", "v6", "v5")


def runnable(wanted: Platform) -> Iterator[Platform]:
    """What runs where ``wanted`` is asked for, the best first."""
    yield wanted
    if wanted.architecture == "arm":
        begin = _ARM.index(wanted.variant or "v7") if (wanted.variant or "v7") in _ARM else 4
        for variant in _ARM[begin + 1 :]:
            yield wanted.replace(variant=variant)
    elif wanted.architecture == "arm64":
        for variant in _ARM:
            yield wanted.replace(architecture="arm", variant=variant)
    elif wanted.architecture == "amd64":
        if wanted.variant:
            yield wanted.replace(variant=None)
        yield wanted.replace(architecture="386", variant=None)


def select(manifests: Sequence[Descriptor], wanted: Platform) -> Descriptor | None:
    """The best match, or an entry without a platform where it is the only one; else None."""
    for platform in runnable(wanted):
        for descriptor in manifests:
            if descriptor.platform is not None and matches(platform, descriptor.platform):
                return descriptor
    return manifests[0] if len(manifests) == 1 and manifests[0].platform is None else None
