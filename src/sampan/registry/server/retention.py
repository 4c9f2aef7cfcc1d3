"""Retention: tags that go by the policy's rules, and the images that nothing stands for then.

``judge`` is the rules without a database. ``Retention`` plans one repository after the other, from
one reading of its rows, and removes what it planned in small transactions; each row is held against
the plan again, so that a tag that moved meanwhile stays, and a manifest that somebody uses by now.
An image goes whole in one of them: where a run dies between two, the next one plans what is left.

An image goes with its last tag: its manifest; of an index what no other index lists and no tag
stands for; and what refers to it (signatures, SBOMs). Its blobs go with a collection, when their
lease is over.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from sampan.registry.server import search
from sampan.registry.server.manifests import remove

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from sampan.registry.server.database.base import Transaction
    from sampan.registry.server.place import Place
    from sampan.registry.server.policy.policy import Policy
    from sampan.registry.server.policy.policy import Retention as Rule

__all__ = ["Outcome", "Retention", "Tag", "Verdict", "judge"]

_BATCH = 200
_COMPANION = re.compile(r"(sha256|sha512)-([0-9a-f]{32,128})(?:[.-].*)?")
"""Tags that stand for what refers to a manifest: the specification's fallback, and cosign's."""


class Tag(NamedTuple):
    name: str
    manifest: int
    changed: float


class Verdict(NamedTuple):
    tag: Tag
    goes: bool
    why: str


class Outcome(NamedTuple):
    """What happens, or would, to a tag or a manifest (``digest``) of a repository."""

    repository: str
    tag: str
    digest: str
    goes: bool
    why: str


class _Manifest(NamedTuple):
    identifier: int
    digest: str
    subject: str
    touched: float


class _Gone(NamedTuple):
    """``image`` numbers what goes together: an index, what it lists, what refers to them."""

    manifest: _Manifest
    why: str
    image: int


class _Plan(NamedTuple):
    """Of one repository: tags and manifests that go, in the order in which they can."""

    repository: int
    name: str
    tags: list[Verdict]
    manifests: list[_Gone]
    kept: list[Verdict]


def judge(
    rules: Sequence[Rule], tags: Sequence[Tag], now: float, is_fixed: Callable[[str], bool]
) -> Iterator[Verdict]:
    """``tags`` of one repository, the newest first. A tag goes when a rule is about it and none
    keeps it; one that is kept by its name is none of the last. ``is_fixed`` are those that may not
    go.
    """
    seen = [0] * len(rules)
    for tag in tags:
        reasons: list[str] = []
        kept = ""
        for number, rule in enumerate(rules):
            if not rule.names(tag.name):
                continue
            seen[number] += not rule.keeps(tag.name)
            keeps, why = _by(rule, tag, seen[number], now - tag.changed)
            if keeps:
                kept = kept or why
            else:
                reasons.append(why)
        if kept:
            yield Verdict(tag, False, kept)
        elif not reasons:
            yield Verdict(tag, False, "no rule is about it")
        elif is_fixed(tag.name):
            yield Verdict(tag, False, "immutable tags do not go")
        else:
            yield Verdict(tag, True, "; ".join(reasons))


def _by(rule: Rule, tag: Tag, place: int, age: float) -> tuple[bool, str]:
    """Whether a rule keeps a tag, the ``place``-th of those it is about, and why."""
    if rule.keeps(tag.name):
        return True, "kept by its name"
    said = []
    if rule.keep_last is not None:
        if place <= rule.keep_last:
            return True, f"number {place} of the {rule.keep_last} that are kept"
        said.append(f"number {place} from the newest, {rule.keep_last} are kept")
    if rule.keep_seconds is not None:
        if age < rule.keep_seconds:
            return True, f"pushed {_days(age)} ago, kept for {rule.keep_for}"
        said.append(f"pushed {_days(age)} ago, kept for {rule.keep_for}")
    return False, ", ".join(said) or "its name is none that is kept"


def _days(seconds: float) -> str:
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 48 else f"{hours / 24:.1f} d"


class Retention:
    """One run over a registry, by the policy. ``tell`` hears of what goes, or would."""

    def __init__(self, place: Place, policy: Policy, tell: Callable[[Outcome], None]) -> None:
        self._place = place
        self._policy = policy
        self._tell = tell
        self._going: Counter[int] = Counter()
        """By blob, how many manifests that use it go."""

    def explain(self) -> int:
        """Tell what would go, and what stays and why; bytes that nothing would use any more."""
        for plan in self._plans():
            for verdict in (*plan.kept, *plan.tags):
                self._tell(Outcome(plan.name, verdict.tag.name, "", verdict.goes, verdict.why))
            for manifest, why, _ in plan.manifests:
                self._tell(Outcome(plan.name, "", manifest.digest, True, why))
            self._count(plan)
        return self._unused()

    def apply(self) -> None:
        """Remove it."""
        for plan in self._plans():
            for tags, manifests in _steps(plan):
                lease = self._place.clock.now() + self._place.lease
                work = partial(_step, plan=plan, tags=tags, manifests=manifests, lease=lease)
                for outcome in self._place.database.write(work):
                    self._tell(outcome)

    # -- planning ----------------------------------------------------------------------------------

    def _plans(self) -> Iterator[_Plan]:
        last = 0
        database = self._place.database
        while row := database.row(
            "SELECT id, name FROM repositories WHERE id > ? ORDER BY id LIMIT 1", (last,)
        ):
            last, name = row
            rules = self._policy.retention(name)
            if rules:
                yield self._plan(last, name, rules)

    def _plan(self, repository: int, name: str, rules: Sequence[Rule]) -> _Plan:
        rows = self._place.database.rows
        now = self._place.clock.now()
        manifests = {
            row[0]: _Manifest(row[0], row[1], row[2] or "", row[3])
            for row in rows(
                """SELECT m.id, d.digest, m.subject, m.touched FROM manifests m
                    JOIN documents d ON d.id = m.document WHERE m.repository = ?""",
                (repository,),
            )
        }
        every = [
            Tag(*row)
            for row in rows(
                "SELECT name, manifest, changed FROM tags WHERE repository = ? "
                "ORDER BY changed DESC, name DESC",
                (repository,),
            )
        ]
        family = _Family(manifests, self._edges(repository), every)
        verdicts = list(
            judge(
                rules,
                [tag for tag in every if not family.is_companion(tag)],
                now,
                lambda tag: self._policy.is_undeletable(name, tag),
            )
        )
        gone = [verdict for verdict in verdicts if verdict.goes]
        seconds = [r.untagged_seconds for r in rules if r.untagged_seconds is not None]
        old = now - max(seconds) if seconds else None
        family.remove([verdict.tag for verdict in gone], old)
        gone += [Verdict(tag, True, "what it refers to goes") for tag in family.companions_gone]
        kept = [verdict for verdict in verdicts if not verdict.goes]
        return _Plan(repository, name, gone, family.gone, kept)

    def _edges(self, repository: int) -> list[tuple[int, int]]:
        """Index and manifest."""
        return [
            (row[0], row[1])
            for row in self._place.database.rows(
                """SELECT c.manifest, c.child FROM manifests m JOIN children c ON c.manifest = m.id
                    WHERE m.repository = ?""",
                (repository,),
            )
        ]

    # -- bytes -------------------------------------------------------------------------------------

    def _count(self, plan: _Plan) -> None:
        going = {one.manifest.identifier for one in plan.manifests}
        if going:
            uses = self._place.database.rows(
                "SELECT manifest, blob FROM uses WHERE repository = ?", (plan.repository,)
            )
            self._going.update(blob for manifest, blob in uses if manifest in going)

    def _unused(self) -> int:
        total = 0
        for blob, count in self._going.items():
            row = self._place.database.row(
                "SELECT b.size, (SELECT sum(refs) FROM links WHERE blob = b.id) FROM blobs b "
                "WHERE b.id = ?",
                (blob,),
            )
            if row is not None and row[1] == count:
                total += row[0]
        return total


class _Family:
    """A repository's manifests: who stands for whom, who lists whom, who refers to whom."""

    def __init__(
        self,
        manifests: dict[int, _Manifest],
        edges: Sequence[tuple[int, int]],
        tags: Sequence[Tag],
    ) -> None:
        self._manifests = manifests
        self._parents: dict[int, set[int]] = {}
        self._children: dict[int, list[int]] = {}
        for parent, child in edges:
            self._parents.setdefault(child, set()).add(parent)
            self._children.setdefault(parent, []).append(child)
        self._digests = {one.digest for one in manifests.values()}
        self._referrers: dict[str, list[int]] = {}
        for one in manifests.values():
            if one.subject in self._digests:
                self._referrers.setdefault(one.subject, []).append(one.identifier)
        self._companions: dict[str, list[Tag]] = {}
        self._tags: dict[int, set[str]] = {}
        for tag in tags:
            self._tags.setdefault(tag.manifest, set()).add(tag.name)
            if self.is_companion(tag):
                self._companions.setdefault(_subject(tag), []).append(tag)
        self.gone: list[_Gone] = []
        self.companions_gone: list[Tag] = []
        self._gone: set[int] = set()

    def is_companion(self, tag: Tag) -> bool:
        """It is there for a manifest that is there."""
        return _subject(tag) in self._digests

    def remove(self, tags: Sequence[Tag], old: float | None) -> None:
        """What goes when ``tags`` do, and what has had none since ``old``."""
        for tag in tags:
            self._untag(tag)
        for tag in tags:
            self._go(tag.manifest, "no tag is left")
        if old is None:
            return
        for one in list(self._manifests.values()):
            if one.touched < old and one.subject not in self._digests:
                self._go(one.identifier, "no tag stands for it, and no index lists it")

    def _untag(self, tag: Tag) -> None:
        self._tags.get(tag.manifest, set()).discard(tag.name)

    def _go(self, identifier: int, why: str) -> None:
        waiting, image = [(identifier, why)], len(self.gone)
        while waiting:
            identifier, why = waiting.pop()
            if (
                identifier in self._gone
                or self._tags.get(identifier)
                or self._parents.get(identifier, set()) - self._gone
            ):
                continue
            one = self._manifests[identifier]
            self._gone.add(identifier)
            self.gone.append(_Gone(one, why, image))
            waiting += [(child, "its index goes") for child in self._children.get(identifier, ())]
            for tag in self._companions.get(one.digest, ()):
                self._untag(tag)
                self.companions_gone.append(tag)
                waiting.append((tag.manifest, "what it refers to goes"))
            waiting += [
                (referrer, "what it refers to goes")
                for referrer in self._referrers.get(one.digest, ())
            ]


def _subject(tag: Tag) -> str:
    """The digest that a companion's tag is made of, or nothing."""
    match = _COMPANION.fullmatch(tag.name)
    return f"{match[1]}:{match[2]}" if match else ""


def _steps(plan: _Plan) -> Iterator[tuple[list[Verdict], list[_Gone]]]:
    """Tags and manifests for one transaction each: images whole, small ones together."""
    image_of = {one.manifest.identifier: one.image for one in plan.manifests}
    images: dict[int, tuple[list[Verdict], list[_Gone]]] = {}
    for verdict in plan.tags:
        # Tags whose manifest has others, that stay, are no image's: number -1.
        number = image_of.get(verdict.tag.manifest, -1)
        images.setdefault(number, ([], []))[0].append(verdict)
    for one in plan.manifests:
        images.setdefault(one.image, ([], []))[1].append(one)
    tags: list[Verdict] = []
    manifests: list[_Gone] = []
    for some, few in images.values():
        tags += some
        manifests += few
        if len(tags) + len(manifests) >= _BATCH:
            yield tags, manifests
            tags, manifests = [], []
    if tags or manifests:
        yield tags, manifests


def _step(
    connection: Transaction,
    plan: _Plan,
    tags: Sequence[Verdict],
    manifests: Sequence[_Gone],
    lease: float,
) -> list[Outcome]:
    """What went: the others have moved, were put again, or are used, meanwhile."""
    gone = [
        Outcome(plan.name, tag.name, "", True, why)
        for tag, _, why in tags
        if connection.execute(
            "DELETE FROM tags WHERE repository = ? AND name = ? AND manifest = ? AND changed = ?",
            (plan.repository, tag.name, tag.manifest, tag.changed),
        ).rowcount
    ]
    for manifest, why, _ in manifests:
        row = connection.execute(
            """SELECT document FROM manifests WHERE id = ?1 AND touched = ?2
                AND NOT EXISTS (SELECT 1 FROM tags WHERE manifest = ?1)
                AND NOT EXISTS (SELECT 1 FROM children WHERE child = ?1)""",
            (manifest.identifier, manifest.touched),
        ).fetchone()
        if row is not None:
            remove(connection, manifest.identifier, row[0], lease)
            gone.append(Outcome(plan.name, "", manifest.digest, True, why))
    search.refresh(connection, plan.repository)
    return gone
