"""``sampan registry gc``, ``retention`` and ``fsck``: beside a server, or without one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import NotFound
from sampan.registry.server.backends import exists
from sampan.registry.server.checking import check
from sampan.registry.server.collection import Collector, Removed
from sampan.registry.server.place import Place
from sampan.registry.server.policy.policy import read_policy
from sampan.registry.server.retention import Outcome, Retention

if TYPE_CHECKING:
    from sampan.registry.server.backends import Where

__all__ = ["collect", "examine", "retain"]


def _place(where: Where) -> Place:
    """The registry that is there already. Raises NotFound."""
    if not exists(where):
        there, flag = (where.root, "--root") if not where.database else ("it", "--database")
        raise NotFound(f"there is no registry in {there}: say which by {flag}")
    return Place(where, serving=False)


def collect(where: Where, *, dry: bool, upload_seconds: float) -> int:
    """Remove what nothing uses, or say what that is; the exit code."""
    total = [0]

    def tell(removed: Removed) -> None:
        total[0] += removed.bytes
        shown = f", {removed.bytes} bytes" if removed.bytes else ""
        print(f"{'would remove' if dry else 'removed'} {removed.what}{shown}: {removed.why}")

    place = _place(where)
    try:
        collector = Collector(place, tell, dry=dry, upload_seconds=upload_seconds)
        if dry:
            for share in collector.shares():
                print(f"{share.bytes:>16} bytes in {share.things:>8}  {share.why}")
        with place.database.alone("collection", wait=True):
            collector.run()
    finally:
        place.close()
    print(f"{total[0]} bytes {'would be' if dry else 'were'} freed")
    return 0


def retain(where: Where, path: str, *, apply: bool, everything: bool) -> int:
    """Remove what the policy at ``path`` lets go, or say what that is; the exit code."""
    policy = read_policy(path)
    gone = [0, 0]

    def tell(one: Outcome) -> None:
        if one.goes:
            gone[not one.tag] += 1
        elif not everything:
            return
        name = f"{one.repository}:{one.tag}" if one.tag else f"{one.repository}@{one.digest}"
        did = ("removed" if apply else "would remove") if one.goes else "keeps"
        print(f"{did} {name}: {one.why}")

    place = _place(where)
    try:
        retention = Retention(place, policy, tell)
        if apply:
            retention.apply()
        else:
            unused = retention.explain()
    finally:
        place.close()
    print(f"{gone[0]} tags, {gone[1]} manifests {'were' if apply else 'would be'} removed")
    if not apply:
        print(f"{unused} bytes of blobs would have no use any more, and go with a collection")
    return 0


def examine(where: Where, *, read: bool) -> int:
    """Say what is wrong, and which tags that hurts; 1 where something is."""
    place = _place(where)
    problems = 0
    try:
        for problem in check(place, read=read):
            problems += 1
            print(problem.text)
            for tag in problem.hurt:
                print(f"  hurts {tag}")
    finally:
        place.close()
    print(f"{problems} problems" if problems else "clean")
    return 1 if problems else 0
