"""What the zygote does once so that no monitor has to: every first time costs pages and time.

A code object specialises itself when it is run some times (PEP 659), a record resolves its field
types when it first decodes, a codec is imported when it is first used: each writes to memory that
forks could have shared.
"""

from __future__ import annotations

import time

from sampan.kernel import cgroups
from sampan.oci.record import Record
from sampan.runtime.supervisor import protocol
from sampan.runtime.supervisor.logs.text import timestamp

__all__ = ["hierarchy", "warm_up"]

_found: list[cgroups.Hierarchy] = []


def hierarchy() -> cgroups.Hierarchy:
    """The machine's cgroups as they were mounted when this was first asked: by the zygote."""
    if not _found:
        _found.append(cgroups.detect())
    return _found[0]


def warm_up() -> None:
    """Resolve records, find the cgroup hierarchies, load codecs and the time zone."""
    _resolve(Record)
    hierarchy()
    timestamp(time.time_ns())
    protocol.decode(b'{"text":"\\ud83d\\udea2"}')
    "text".encode("ascii", "surrogateescape").decode("utf-8", "replace")


def _resolve(kind: type[Record]) -> None:
    for child in kind.__subclasses__():
        child._make_readers()
        _resolve(child)
