"""What is kept of a container's configuration for its further processes (exec).

The configuration is large, and an exec looks at little of it. So the container's maker leaves the
monitor that little, in marshal's form, and the filter as it is loaded.
"""

from __future__ import annotations

import binascii
from typing import TYPE_CHECKING, Any

from sampan.errors import InvalidArgument
from sampan.kernel.seccomp import Filter, Program
from sampan.oci.runtime import Linux, Spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sampan.runtime.supervisor.messages import SeccompProgram

__all__ = ["configuration", "kept", "oom_score", "with_filter"]

_INSTRUCTION = 8


def with_filter(spec: Spec, given: SeccompProgram | None) -> Spec:
    """The specification with the filter that was compiled for it."""
    if given is None:
        return spec
    try:
        program = binascii.a2b_base64(given.program)
    except ValueError as error:
        raise InvalidArgument(f"seccomp.program: not base64: {error}") from None
    if not program or len(program) % _INSTRUCTION:
        raise InvalidArgument(f"seccomp.program: {len(program)} bytes are no BPF program")
    return _filtered(spec, Filter(program, given.flags, given.notify, ""))


def kept(spec: Spec) -> dict[str, object]:
    """What ``configuration`` and ``oom_score`` read, of plain types."""
    linux = spec.linux or Linux()
    profile = linux.seccomp
    loaded = profile.filter if isinstance(profile, Program) else None
    return {
        "spec": {
            "ociVersion": spec.oci_version,
            "annotations": spec.annotations,
            "linux": {
                "personality": linux.personality.to_json() if linux.personality else None,
                "seccomp": profile.to_json() if profile is not None and loaded is None else None,
            },
        },
        "filter": None if loaded is None else (loaded.program, loaded.flags, loaded.notify),
        "oom_score": spec.process.oom_score_adj if spec.process is not None else None,
    }


def configuration(fields: Mapping[str, Any]) -> Spec:
    """The configuration, as far as a further process needs it."""
    spec = Spec.from_json(fields["spec"], "spec")
    if fields["filter"] is None:
        return spec
    program, flags, notify = fields["filter"]
    return _filtered(spec, Filter(program, flags, notify, ""))


def oom_score(fields: Mapping[str, Any], otherwise: str | None) -> int | None:
    """The container's own, or what its monitor had before it was shielded."""
    own: int | None = fields["oom_score"]
    if own is not None or otherwise is None:
        return own
    return int(otherwise)


def _filtered(spec: Spec, loaded: Filter) -> Spec:
    linux = (spec.linux or Linux()).replace(seccomp=Program(default_action="", filter=loaded))
    return spec.replace(linux=linux)
