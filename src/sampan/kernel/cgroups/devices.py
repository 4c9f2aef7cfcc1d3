"""Device rules: from an ordered list to a table, and from the table to cgroup v1's files.

The runtime specification has an ordered list of allow and deny rules in which the last match wins,
and it starts, here as with other runtimes, from "nothing is allowed". The v1 controller has a
default and a set of exceptions and removes an exception only by its exact name
(Documentation/admin-guide/cgroup-v1/devices.rst): denying 1:3 after allowing 1:* would silently do
nothing. So the list is reduced to what the controller can hold, and a list it cannot hold is
refused. cgroup v2 takes the list itself, as a program: ``sampan.kernel.bpf``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, KernelError, NotSupported

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.kernel.cgroups.files import Directory
    from sampan.oci.runtime import DeviceRule

__all__ = ["Rule", "apply_v1", "normal", "table"]

_ACCESS = "rwm"


class Rule:
    """A device rule with its blanks filled in.

    ``kind``: b, c or a (both). ``major``, ``minor``: None is any. ``access``: some of r, w, m.
    """

    __slots__ = ("access", "allow", "kind", "major", "minor")

    def __init__(
        self, allow: bool, kind: str, major: int | None, minor: int | None, access: str
    ) -> None:
        self.allow = allow
        self.kind = kind
        self.major = major
        self.minor = minor
        self.access = access

    def __repr__(self) -> str:
        return f"{'allow' if self.allow else 'deny'} {self.text()}"

    @property
    def everything(self) -> bool:
        """Does it settle every access to every device?"""
        return self.kind == "a" and self.major is None and self.minor is None and self.full

    @property
    def full(self) -> bool:
        return len(self.access) == len(_ACCESS)

    def text(self) -> str:
        """As the v1 files write it: ``c 1:* rwm``."""
        return f"{self.kind} {_number(self.major)}:{_number(self.minor)} {self.access}"


_Name = tuple[str, int | None, int | None]


def normal(rules: Iterable[DeviceRule]) -> list[Rule]:
    """The specification's rules, checked: no type is all types, -1 any number, no access all."""
    result = []
    for place, rule in enumerate(rules):
        kind = rule.type or "a"
        access = _ACCESS if not rule.access else rule.access
        if kind not in ("a", "b", "c", "u"):
            raise InvalidArgument(f"devices[{place}].type: expected a, b or c, not {kind!r}")
        if set(access) - set(_ACCESS):
            raise InvalidArgument(f"devices[{place}].access: expected some of rwm, not {access!r}")
        numbers = []
        for name, number in (("major", rule.major), ("minor", rule.minor)):
            if number is not None and not -1 <= number < 1 << 32:
                raise InvalidArgument(f"devices[{place}].{name}: {number} is no device number")
            numbers.append(None if number == -1 else number)
        letters = "".join(letter for letter in _ACCESS if letter in access)
        # "u" is an older word for a character device (mknod(1)).
        result.append(Rule(rule.allow, kind.replace("u", "c"), numbers[0], numbers[1], letters))
    return result


def table(rules: list[Rule]) -> tuple[bool, dict[_Name, str]]:
    """What holds after all rules: the default, and the exceptions to it (device -> access).

    ``NotSupported`` for a rule that cuts a hole into a wildcard: only cgroup v2 can hold that.
    """
    default = False
    exceptions: dict[_Name, str] = {}
    for rule in rules:
        if rule.everything:
            default, exceptions = rule.allow, {}
            continue
        for kind in "bc" if rule.kind == "a" else rule.kind:
            name = (kind, rule.major, rule.minor)
            if rule.allow != default:
                exceptions[name] = _union(exceptions.get(name, ""), rule.access)
            else:
                _withdraw(exceptions, name, rule)
    return default, exceptions


def _withdraw(exceptions: dict[_Name, str], name: _Name, rule: Rule) -> None:
    for other, access in list(exceptions.items()):
        if not _overlap(name, other) or not set(access) & set(rule.access):
            continue
        if not _covers(name, other):
            raise NotSupported(
                f"device rule {rule!r}: cgroup v1 cannot make an exception to the earlier rule for"
                f" {other[0]} {_number(other[1])}:{_number(other[2])}"
            )
        left = "".join(letter for letter in access if letter not in rule.access)
        if left:
            exceptions[other] = left
        else:
            del exceptions[other]


def apply_v1(directory: Directory, rules: list[Rule]) -> None:
    """Make the group's devices controller hold exactly these rules.

    An update takes away and adds what differs, so that a device allowed before and after is never
    refused in between. A group with sub-groups cannot change its default: ``InvalidArgument``.
    """
    default, wanted = table(rules)
    now = _parse(directory.read("devices.list"))
    allow, deny = [], []
    if default:
        # devices.list does not show what is excepted from "everything": start anew.
        allow.append("a")
        deny += [Rule(False, *name, access).text() for name, access in wanted.items()]
    else:
        if now is None:
            deny.append("a")
            now = {}
        for name, access in now.items():
            gone = "".join(letter for letter in access if letter not in wanted.get(name, ""))
            if gone:
                deny.append(Rule(False, *name, gone).text())
        for name, access in wanted.items():
            new = "".join(letter for letter in access if letter not in now.get(name, ""))
            if new:
                allow.append(Rule(True, *name, new).text())
    steps = [("devices.deny", deny), ("devices.allow", allow)]
    if default:
        steps.reverse()
    for file, values in steps:
        if values:
            try:
                directory.write(file, *values)
            except KernelError as error:
                raise InvalidArgument(f"device rules: {error}") from error


def _parse(text: str) -> dict[_Name, str] | None:
    """devices.list; None when everything is allowed."""
    found: dict[_Name, str] = {}
    for line in text.splitlines():
        kind, numbers, access = line.split()
        if kind == "a":
            return None
        major, _, minor = numbers.partition(":")
        found[(kind, _parse_number(major), _parse_number(minor))] = access
    return found


def _parse_number(text: str) -> int | None:
    return None if text == "*" else int(text)


def _number(number: int | None) -> str:
    return "*" if number is None else str(number)


def _union(one: str, other: str) -> str:
    return "".join(letter for letter in _ACCESS if letter in one or letter in other)


def _covers(wide: _Name, narrow: _Name) -> bool:
    return all(a is None or a == b for a, b in zip(wide, narrow, strict=True))


def _overlap(one: _Name, other: _Name) -> bool:
    return all(a is None or b is None or a == b for a, b in zip(one, other, strict=True))
