"""Our default seccomp profile allows what Docker's allows (held against moby's document)."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from sampan.oci.runtime import SyscallRule
from sampan.runtime.profiles import default_seccomp

DOCUMENT = Path(__file__).resolve().parents[2] / ".." / "shared" / "specs/seccomp/default.json"
GOARCH = {"x86_64": ("amd64", "x32", "x86"), "aarch64": ("arm64", "arm")}


def applies(rule: dict[str, Any], capabilities: frozenset[str], machine: str) -> bool:
    includes, excludes = rule.get("includes", {}), rule.get("excludes", {})
    arches = GOARCH[machine]
    return (
        all(name in capabilities for name in includes.get("caps", []))
        and not any(name in capabilities for name in excludes.get("caps", []))
        and (not includes.get("arches") or any(a in arches for a in includes["arches"]))
        and not any(a in arches for a in excludes.get("arches", []))
    )


def ours(rules: tuple[SyscallRule, ...]) -> set[Any]:
    return {
        (
            name,
            rule.action,
            rule.errno_ret,
            tuple((a.index, a.op, a.value, a.value_two or 0) for a in rule.args),
        )
        for rule in rules
        for name in rule.names
    }


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize(
    "capabilities",
    [
        frozenset(),
        frozenset({"CAP_SYS_ADMIN"}),
        frozenset({"CAP_SYS_PTRACE", "CAP_SYS_NICE", "CAP_SYS_TIME", "CAP_SYS_CHROOT"}),
        frozenset({"CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG", "CAP_DAC_READ_SEARCH", "CAP_SYS_BOOT"}),
        frozenset({"CAP_SYS_MODULE", "CAP_SYS_PACCT", "CAP_SYS_RAWIO", "CAP_SYS_TTY_CONFIG"}),
    ],
)
def test_it_allows_what_dockers_profile_allows(capabilities: frozenset[str], machine: str) -> None:
    if not DOCUMENT.exists():
        pytest.skip("the reference document is not at hand")
    document = json.loads(DOCUMENT.read_text())
    theirs = {
        (
            name,
            rule["action"],
            rule.get("errnoRet"),
            tuple(
                (a["index"], a["op"], a["value"], a.get("valueTwo", 0))
                for a in rule.get("args") or []
            ),
        )
        for rule in document["syscalls"]
        if applies(rule, capabilities, machine)
        for name in rule["names"]
    }
    profile = default_seccomp(capabilities, machine)
    # socket's rules say the same families in another way: tests/kernel/seccomp has them by effect.
    assert {fact for fact in ours(profile.syscalls) if fact[0] != "socket"} == {
        fact for fact in theirs if fact[0] != "socket"
    }
    assert profile.default_action == document["defaultAction"]
    assert profile.default_errno_ret == document["defaultErrnoRet"]
