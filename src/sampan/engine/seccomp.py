"""The seccomp profile of a container: the default, none, or one given as JSON.

A given profile is the runtime specification's ``linux.seccomp``, or Docker's superset of it:
``archMap`` instead of ``architectures``, and rules with ``includes`` and ``excludes`` (by
capability, architecture and kernel version), which are decided here, once, for this machine and
this container's capabilities.
"""

from __future__ import annotations

import base64
import os
from typing import Any

import msgspec

from sampan.errors import InvalidArgument
from sampan.kernel.seccomp import compiled
from sampan.oci.runtime import Seccomp
from sampan.runtime.profiles import default_seccomp

__all__ = ["plain_profile", "profile_for", "program_json"]

_NATIVE = {"x86_64": "SCMP_ARCH_X86_64", "aarch64": "SCMP_ARCH_AARCH64"}
_FAMILY = {"x86_64": {"amd64", "x86", "x32"}, "aarch64": {"arm64", "arm"}}

_defaults: dict[tuple[str, ...], tuple[Seccomp, dict[str, object]]] = {}
"""The default profile by granted capabilities, and what ``program_json`` says of it."""


def profile_for(text: str | None, granted: tuple[str, ...], privileged: bool) -> Seccomp | None:
    """``text``: None for the default, "unconfined", or JSON. ``None`` comes back for no filter.

    Raises InvalidArgument.
    """
    if text == "unconfined" or (text is None and privileged):
        return None
    if text is None:
        if granted not in _defaults:
            profile = default_seccomp(granted)
            _defaults[granted] = profile, _program_json(profile)
        return _defaults[granted][0]
    try:
        value = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise InvalidArgument(
            f"Decoding seccomp profile failed: {error}; give the profile's JSON text"
        ) from error
    if isinstance(value, dict):
        value = plain_profile(value, frozenset(granted), os.uname().machine, os.uname().release)
    return Seccomp.from_json(value, "seccomp")


def program_json(profile: Seccomp) -> dict[str, object] | None:
    """The compiled filter of a profile, as a monitor takes it (``messages.SeccompProgram``).

    None when the runtime must see the profile itself: it has an agent to notify. The profile is
    most of a specification, and to compile it most of the work of a start.
    """
    for known, value in _defaults.values():
        if known is profile:
            return value
    return _program_json(profile) if profile.listener_path is None else None


def _program_json(profile: Seccomp) -> dict[str, object]:
    found = compiled(profile)
    return {
        "program": base64.b64encode(found.program).decode("ascii"),
        "flags": found.flags,
        "notify": found.notify,
    }


def plain_profile(
    value: dict[str, Any], granted: frozenset[str], machine: str, release: str
) -> dict[str, Any]:
    """Docker's form reduced to the specification's. Raises InvalidArgument."""
    result = {key: item for key, item in value.items() if key not in ("archMap", "syscalls")}
    try:
        if value.get("archMap"):
            if value.get("architectures"):
                raise InvalidArgument(
                    "seccomp: use either architectures or archMap, not both of them"
                )
            native = _NATIVE.get(machine)
            for entry in value["archMap"]:
                if entry["architecture"] == native:
                    result["architectures"] = [native, *(entry.get("subArchitectures") or ())]
        result["syscalls"] = [
            _rule(rule)
            for rule in value.get("syscalls") or ()
            if _applies(rule, granted, machine, release)
        ]
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise InvalidArgument(f"seccomp: profile of the wrong shape: {error!r}") from error
    return result


def _rule(rule: dict[str, Any]) -> dict[str, Any]:
    plain = {
        key: item
        for key, item in rule.items()
        if key not in ("includes", "excludes", "name", "comment")
    }
    if rule.get("name"):
        if rule.get("names"):
            raise InvalidArgument("seccomp: use either name or names in a rule, not both of them")
        plain["names"] = [rule["name"]]
    return plain


def _version(text: str) -> tuple[int, int]:
    major, minor = text.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or "0")


def _applies(rule: dict[str, Any], granted: frozenset[str], machine: str, release: str) -> bool:
    family = _FAMILY.get(machine, set())
    wanted = rule.get("includes") or {}
    if wanted.get("arches") and not family & set(wanted["arches"]):
        return False
    if not set(wanted.get("caps") or ()) <= granted:
        return False
    if wanted.get("minKernel") and _version(release) < _version(wanted["minKernel"]):
        return False
    unwanted = rule.get("excludes") or {}
    if family & set(unwanted.get("arches") or ()) or granted & set(unwanted.get("caps") or ()):
        return False
    least = unwanted.get("minKernel")
    return not (least and _version(release) >= _version(least))
