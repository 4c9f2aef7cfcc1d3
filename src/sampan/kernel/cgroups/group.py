"""One group in every hierarchy at once, and the five things it is for.

limit (``limit``, ``update``, ``allow_devices``), prioritise (shares and weights, part of
``limit``), account (``account``), isolate (``mounts_for_container``, ``delegate``), control
(``freeze``, ``thaw``, ``kill``). A ``Group`` is a value: it holds no descriptor and no state, so a
later process names the same group again and removes it.
"""

from __future__ import annotations

import os
import select
import time
from errno import EBUSY, ENOENT, ENOTEMPTY, EOPNOTSUPP
from signal import SIGKILL
from typing import TYPE_CHECKING

from sampan.errors import Conflict, InvalidArgument, KernelError, NotSupported, SampanError
from sampan.kernel.bpf import device_program, load_device_program, replace_device_program
from sampan.kernel.cgroups import control, events, setup, v1, v2
from sampan.kernel.cgroups.asked import asked
from sampan.kernel.cgroups.detect import membership
from sampan.kernel.cgroups.devices import apply_v1, normal
from sampan.kernel.cgroups.files import Directory, flat
from sampan.kernel.cgroups.isolation import container_mounts, delegate
from sampan.kernel.cgroups.usage import (
    Counter,
    CpuUsage,
    MemoryUsage,
    PidsUsage,
    Usage,
    parse_pressure,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.kernel.cgroups.detect import Tree
    from sampan.kernel.cgroups.hierarchy import Hierarchy
    from sampan.kernel.cgroups.isolation import ContainerMount
    from sampan.oci.runtime import DeviceRule, Resources

__all__ = ["Group"]

_PATIENCE = 10.0


class Group:
    """A group by name; see ``Hierarchy.group``. ``path`` is its name in the main hierarchy."""

    __slots__ = ("_directories", "hierarchy", "names", "path")

    def __init__(self, hierarchy: Hierarchy, path: str, names: dict[Tree, str]) -> None:
        self.hierarchy = hierarchy
        self.path = path
        self.names = names
        self._directories = {
            tree: Directory(tree.mount_point + name, name) for tree, name in names.items()
        }

    def __repr__(self) -> str:
        return f"<cgroup {self.path}>"

    # ── being there ──────────────────────────────────────────────────────────────────────────

    def create(self) -> None:
        """Make the group in every hierarchy. One that is there already must be unused.

        ``Conflict``: it holds processes or is frozen. On any error what this call made is removed.
        """
        made: list[Tree] = []
        try:
            for tree, name in self.names.items():
                if setup.make(tree, name):
                    made.append(tree)
                if tree.version == 2 and self.hierarchy.kind == "v2":
                    setup.enable(tree, name, tree.controllers)
            if len(made) < len(self.names):
                self._refuse_used()
        except SampanError:
            for tree in made:
                control.remove(self._directories[tree], tree.version, time.monotonic() + 1)
            raise

    def _refuse_used(self) -> None:
        if pids := self.processes():
            shown = " ".join(str(pid) for pid in pids[:8])
            raise Conflict(f"cgroup {self.path} exists and holds processes ({shown})")
        if self.frozen():
            raise Conflict(f"cgroup {self.path} exists and is frozen")

    def exists(self) -> bool:
        """Is it there, in any hierarchy?"""
        return any(directory.exists() for directory in self._directories.values())

    def destroy(self, patience: float = _PATIENCE) -> None:
        """Remove the group and the sub-groups made inside it. No error if it is gone.

        Waits at most ``patience`` seconds for processes that are ending; kills nothing.
        ``Conflict`` names those that are left.
        """
        deadline = time.monotonic() + patience
        # The v2 group first: it can tell when it is empty, and then the others are too.
        for tree in sorted(self.names, key=lambda tree: -tree.version):
            control.remove(self._directories[tree], tree.version, deadline)

    def prune(self) -> None:
        """Remove the group where nothing is in it; where something is, it stays."""
        for path in set(self.paths().values()):
            try:
                os.rmdir(path)
            except OSError as error:
                if error.errno not in (ENOENT, EBUSY, ENOTEMPTY):
                    raise KernelError("rmdir", error.errno or 0, path) from error

    def paths(self) -> dict[str, str]:
        """Directory of the group by controller, ``name=…`` for a named hierarchy, ``unified``."""
        return {
            key: directory.path
            for tree, directory in self._directories.items()
            for key in tree.keys
        }

    def child(self, path: str) -> Group:
        """The sub-group of that name (``exec --cgroup``)."""
        parts = [part for part in path.split("/") if part not in ("", ".")]
        if ".." in parts:
            raise InvalidArgument(f"cgroup path {path!r}: '..' leaves the container's group")
        below = "".join(f"/{part}" for part in parts)
        return Group(
            self.hierarchy,
            self.path + below,
            {tree: name + below for tree, name in self.names.items()},
        )

    # ── its processes ────────────────────────────────────────────────────────────────────────

    def add(
        self, pid: int, beside: int | None = None, controllers: Iterable[str] | None = None
    ) -> None:
        """Move process ``pid`` (0: the caller) into the group, in every hierarchy.

        ``beside``: on v2 a container may have moved its processes into sub-groups, and then its
        group takes none; the new one joins process ``beside`` where that is below this group.
        ``controllers``: only in their hierarchies.
        """
        only = None if controllers is None else frozenset(controllers)
        for tree, directory in self._directories.items():
            if only is not None and not only & (set(tree.keys) | tree.controllers):
                continue
            try:
                directory.write("cgroup.procs", str(pid))
            except KernelError as error:
                if tree.version != 2 or beside is None:
                    raise
                if error.errno not in (EBUSY, EOPNOTSUPP):
                    raise
                self._beside(tree, directory, beside).write("cgroup.procs", str(pid))

    def _beside(self, tree: Tree, directory: Directory, pid: int) -> Directory:
        path = f"/proc/{pid}/cgroup"
        try:
            with open(path, encoding="utf-8", errors="surrogateescape") as file:
                name = membership(file.read()).get("", "/")
        except OSError as error:
            raise KernelError("read", error.errno or 0, path) from None
        root = tree.root.rstrip("/")
        seen = name[len(root) :] if name.startswith(root) else name
        if not seen.startswith(directory.group + "/"):
            raise Conflict(f"process {pid} has left cgroup {directory.group} (it is in {name})")
        return Directory(tree.mount_point + seen, seen)

    def enter(self) -> None:
        """Move the caller, a process of one thread, into the group in every v1 hierarchy.

        ``add`` does the same from outside, but moving a whole process takes a lock that waits for
        an RCU grace period, 5 to 10 ms; a thread that moves itself by the file ``tasks`` is exempt.
        """
        for tree, directory in self._directories.items():
            if tree.version == 1:
                directory.write("tasks", "0")

    def doors(self) -> list[int]:
        """Descriptors for ``enter_by``, close-on-exec."""
        doors: list[int] = []
        try:
            for tree, directory in self._directories.items():
                if tree.version == 1:
                    doors.append(directory.open("tasks", os.O_WRONLY))
        except KernelError:
            for door in doors:
                os.close(door)
            raise
        return doors

    def processes(self) -> list[int]:
        """The processes in the group and below it."""
        return [pid for group in self._main.subtree() for pid in group.processes()]

    def open_fd(self) -> int | None:
        """A descriptor of the v2 group for clone3's ``CLONE_INTO_CGROUP``; None without v2.

        The child is then in no group of v1: it is to ``enter``.
        """
        unified = self._unified()
        if unified is None:
            return None
        return unified.open(".", os.O_RDONLY | os.O_DIRECTORY)

    def takes_processes(self) -> bool:
        """Whether a process can be born in the v2 group: not where controllers are enabled below
        it, nor among threads (cgroups(7)). Without v2 there is nothing in the way."""
        unified = self._unified()
        if unified is None:
            return True
        return (
            not unified.find("cgroup.subtree_control")
            and (unified.find("cgroup.type") or "domain").strip() == "domain"
        )

    @property
    def _main(self) -> Directory:
        tree = self.hierarchy.unified or self._first("pids", "freezer", "memory", "cpu")
        return self._directories[tree]

    def _first(self, *controllers: str) -> Tree:
        for name in controllers:
            if name in self.hierarchy.controllers:
                return self.hierarchy.controllers[name]
        return self.hierarchy.trees[0]

    def _at(self, controller: str) -> tuple[Directory, int] | None:
        tree = self.hierarchy.controllers.get(controller)
        return None if tree is None else (self._directories[tree], tree.version)

    def _unified(self) -> Directory | None:
        tree = self.hierarchy.unified
        return None if tree is None else self._directories[tree]

    # ── limit and prioritise ─────────────────────────────────────────────────────────────────

    def limit(self, resources: Resources) -> list[str]:
        """Write every limit and weight that is set in ``resources``; device rules are apart.

        Returns warnings (settings that kernels no longer have). ``NotSupported``: a limit whose
        controller or file this kernel lacks, by name. ``InvalidArgument``: a value it refuses.
        """
        wanted = asked(resources)
        for controller, request in wanted.items():
            self._require(controller, request)
        warnings: list[str] = []
        for controller in wanted:
            place = self._at(controller)
            if place is not None:
                directory, version = place
                limits = v1.LIMITS if version == 1 else v2.LIMITS
                warnings += limits[controller](directory, resources)
        if resources.memory is not None and "memory" not in wanted:
            warnings += v1.ignored(resources.memory)
        if resources.unified:
            self._limit_unified(resources.unified)
        return warnings

    update = limit
    """The same: what is not set stays as it is, so a running group is changed alike."""

    def _require(self, controller: str, request: str) -> None:
        tree = self.hierarchy.controllers.get(controller)
        if tree is None or (tree.version == 2 and controller not in v2.LIMITS):
            have = " ".join(sorted(self.hierarchy.controllers)) or "none"
            raise NotSupported(
                f"{request}: the cgroup controller {controller} is missing on this machine"
                f" (there are: {have})"
            )
        if tree.version == 2:
            self._enable(tree, frozenset({v2.NAMES.get(controller, controller)}), request)

    def _enable(self, tree: Tree, controllers: frozenset[str], request: str) -> None:
        directory = self._directories[tree]
        setup.enable(tree, self.names[tree], controllers)
        missing = controllers - frozenset(directory.read("cgroup.controllers").split())
        if missing:
            raise NotSupported(
                f"{request}: the cgroup controller {min(missing)} is not handed down to"
                f" {directory.group}: add it to cgroup.subtree_control of the groups above"
            )

    def _limit_unified(self, files: dict[str, str]) -> None:
        tree = self.hierarchy.unified
        if tree is None:
            raise NotSupported(
                f"unified {min(files)}: this machine has cgroup v1 only, and this setting is for v2"
            )
        wanted = {file.partition(".")[0] for file in files} & tree.controllers
        if wanted:
            setup.enable(tree, self.names[tree], frozenset(wanted))
        directory = self._directories[tree]
        v2.unified(directory, files, frozenset(directory.read("cgroup.controllers").split()))

    def allow_devices(self, rules: Iterable[DeviceRule]) -> None:
        """Allow exactly what these rules, in their order, allow; the last that matches wins.

        What no rule matches is refused. v1: devices.allow and devices.deny; v2: an eBPF program.
        """
        place = self._at("devices")
        if place is not None:
            apply_v1(place[0], normal(rules))
            return
        unified = self._unified()
        if unified is None:
            raise NotSupported("device rules: the cgroup controller devices is missing")
        program = load_device_program(device_program(rules))
        try:
            group = unified.open(".", os.O_RDONLY | os.O_DIRECTORY)
            try:
                replace_device_program(group, program)
            finally:
                os.close(group)
        finally:
            os.close(program)

    # ── account ──────────────────────────────────────────────────────────────────────────────

    def account(self) -> Usage:
        """What the group and those below it have used since they were made."""
        unified = self._unified()
        memory, pids, blkio = self._at("memory"), self._at("pids"), self._at("blkio")
        hugetlb = self._at("hugetlb")
        cpu = self._at("cpu")
        if cpu is None or cpu[1] == 1:
            acct = self._at("cpuacct")
            cpu_usage = v1.cpu_usage(cpu and cpu[0], acct and acct[0])
            if unified is not None:
                # Every v2 group counts CPU time by itself, to the microsecond.
                exact = v2.cpu_usage(unified)
                cpu_usage = cpu_usage.replace(
                    total=cpu_usage.total or exact.total,
                    user=exact.user,
                    system=exact.system,
                    pressure=exact.pressure,
                )
        else:
            cpu_usage = v2.cpu_usage(cpu[0])
        memory_usage = MemoryUsage()
        if memory is not None:
            memory_usage = (v1 if memory[1] == 1 else v2).memory_usage(memory[0])
            if memory[1] == 1 and unified is not None:
                pressure = parse_pressure(unified.find("memory.pressure"))
                memory_usage = memory_usage.replace(pressure=pressure)
        return Usage(
            cpu=cpu_usage,
            memory=memory_usage,
            pids=PidsUsage() if pids is None else v1.pids_usage(pids[0]),
            io=() if blkio is None else (v1 if blkio[1] == 1 else v2).block_io_usage(blkio[0]),
            io_pressure=None if unified is None else parse_pressure(unified.find("io.pressure")),
            hugetlb={}
            if hugetlb is None
            else (v1 if hugetlb[1] == 1 else v2).hugetlb_usage(hugetlb[0]),
        )

    def totals(self) -> Usage:
        """What is still of interest when the group is empty: CPU time, the most memory there was,
        and block I/O. The rest of ``account`` is left at its zeros, and its thirty files unread."""
        unified = self._unified()
        memory, blkio = self._at("memory"), self._at("blkio")
        cpu_usage = CpuUsage()
        if unified is not None:
            times = flat(unified.find("cpu.stat"))
            cpu_usage = CpuUsage(
                total=times.get("usage_usec", 0) * 1000,
                user=times.get("user_usec", 0) * 1000,
                system=times.get("system_usec", 0) * 1000,
            )
        elif (acct := self._at("cpuacct")) is not None:
            cpu_usage = v1.cpu_usage(None, acct[0])
        peak = 0
        if memory is not None:
            file = "memory.max_usage_in_bytes" if memory[1] == 1 else "memory.peak"
            peak = memory[0].number(file) or 0
        return Usage(
            cpu=cpu_usage,
            memory=MemoryUsage(usage=Counter(max=peak)),
            io=() if blkio is None else (v1 if blkio[1] == 1 else v2).block_io_usage(blkio[0]),
        )

    def oom_watch(self) -> tuple[int, int] | None:
        """A descriptor, and what it polls (poll(2)) when the group may have run out of memory.

        Drain it then with ``drain_oom`` and ask ``oom_count``; the caller closes it. None without
        a memory controller.
        """
        place = self._at("memory")
        if place is None:
            return None
        if place[1] == 1:
            return events.watch_oom_v1(place[0]), select.POLLIN
        return events.watch_oom_v2(place[0]), select.POLLPRI

    def oom_count(self) -> int:
        """How many processes of the group and below were killed for want of memory."""
        place = self._at("memory")
        if place is None:
            return 0
        directory, version = place
        if version == 1:
            return events.oom_kills_v1(directory)
        return flat(directory.find("memory.events")).get("oom_kill", 0)

    # ── isolate ──────────────────────────────────────────────────────────────────────────────

    def mounts_for_container(self) -> tuple[ContainerMount, ...]:
        """What a mount of type ``cgroup`` in this group's container consists of."""
        return container_mounts(list(self._directories.items()))

    def delegate(self, uid: int, gid: int) -> None:
        """Hand the v2 group to a user who may then make sub-groups. v1 has no safe delegation."""
        unified = self._unified()
        if unified is not None and self.hierarchy.kind == "v2":
            delegate(unified, uid, gid)

    # ── control ──────────────────────────────────────────────────────────────────────────────

    def _freezer(self) -> tuple[Directory, int]:
        place = self._at("freezer")
        if place is not None:
            return place
        unified = self._unified()
        if unified is None:
            raise NotSupported("pause: the cgroup controller freezer is missing on this machine")
        return unified, 2

    def freeze(self, patience: float = _PATIENCE) -> None:
        """Stop every process of the group and below, at once and unseen by them."""
        directory, version = self._freezer()
        freeze = control.freeze_v1 if version == 1 else control.freeze_v2
        freeze(directory, time.monotonic() + patience)

    def thaw(self, patience: float = _PATIENCE) -> None:
        """Let them go on. No error if they were not frozen."""
        directory, version = self._freezer()
        if version == 1:
            control.thaw_v1(directory)
        else:
            control.thaw_v2(directory, time.monotonic() + patience)

    def frozen(self) -> bool:
        """Has the group been frozen?"""
        directory, version = self._freezer()
        return control.is_frozen_v1(directory) if version == 1 else control.is_frozen_v2(directory)

    def kill(self, patience: float = _PATIENCE) -> None:
        """SIGKILL to every process of the group and below, however fast they fork.

        Where the kernel has cgroup.kill this returns at once, with the processes about to end;
        otherwise when they have ended or ``patience`` seconds have passed. A frozen group is
        thawed: on v1 a frozen process does not die.
        """
        freezer = self._at("freezer")
        old_freezer = freezer[0] if freezer is not None and freezer[1] == 1 else None
        unified = self._unified()
        if unified is not None and control.kill_v2(unified):
            if old_freezer is not None and control.is_frozen_v1(old_freezer):
                control.thaw_v1(old_freezer)
            return
        if not self.exists():
            return
        control.kill_v1(self._main, old_freezer, time.monotonic() + patience)

    def signal(self, number: int) -> None:
        """A signal to every process of the group and below; SIGKILL as ``kill`` does it."""
        if number == SIGKILL:
            self.kill()
        else:
            control.signal_all(self._main, number)
