"""Cgroups v1, v2 and hybrid behind one interface: cgroups(7).

Five verbs: limit, prioritise, account, isolate, control.

    hierarchy = detect()
    group = hierarchy.group("/sampan/x")
    group.create()
    group.limit(resources)
    group.add(pid)
    usage = group.account()
    group.kill()
    group.destroy()
"""

from __future__ import annotations

from sampan.kernel.cgroups.control import enter_by
from sampan.kernel.cgroups.events import drain_oom
from sampan.kernel.cgroups.group import Group
from sampan.kernel.cgroups.hierarchy import Hierarchy, detect, systemd_path
from sampan.kernel.cgroups.isolation import ContainerMount
from sampan.kernel.cgroups.usage import Usage

__all__ = [
    "ContainerMount",
    "Group",
    "Hierarchy",
    "Usage",
    "detect",
    "drain_oom",
    "enter_by",
    "systemd_path",
]
