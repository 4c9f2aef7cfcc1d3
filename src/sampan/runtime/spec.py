"""What a ``config.json`` may say: the rules of the specification, checked before anything is made.

``sampan.oci.runtime`` refuses wrong shapes; this module refuses wrong values and contradictions
(runtime-spec 1.3.0, config.md and config-linux.md), each by the field's own name, so that a
refused configuration leaves nothing behind. What only the kernel can know (a path that is not
there, a limit above the maximum) is refused where it is met.
"""

from __future__ import annotations

import itertools
import json
import os
import stat
from typing import TYPE_CHECKING

from sampan.errors import InvalidArgument, NotFound, NotSupported
from sampan.kernel import capabilities
from sampan.kernel.namespaces import KINDS
from sampan.oci.runtime import SPEC_VERSION, Spec
from sampan.runtime import sysctl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sampan.oci.runtime import Hooks, IdMapping, Linux, Process

__all__ = ["load", "parse_cpu_list", "validate", "validate_process"]

MAX_CONFIG = 8 << 20
"""The largest ``config.json`` that is read, in bytes; real ones are tens of kilobytes."""

MAX_ID = (1 << 32) - 2
RLIMITS = frozenset(
    f"RLIMIT_{name}"
    for name in (
        "AS CORE CPU DATA FSIZE LOCKS MEMLOCK MSGQUEUE NICE NOFILE NPROC RSS RTPRIO RTTIME "
        "SIGPENDING STACK"
    ).split()
)
POLICIES = frozenset(
    f"SCHED_{name}" for name in ("OTHER", "FIFO", "RR", "BATCH", "ISO", "IDLE", "DEADLINE")
)
SCHEDULER_FLAGS = frozenset(
    f"SCHED_FLAG_{name}"
    for name in (
        "RESET_ON_FORK RECLAIM DL_OVERRUN KEEP_POLICY KEEP_PARAMS UTIL_CLAMP_MIN UTIL_CLAMP_MAX"
    ).split()
)
IO_CLASSES = frozenset({"IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"})
MEMORY_MODES = frozenset(
    f"MPOL_{name}"
    for name in (
        "DEFAULT BIND INTERLEAVE WEIGHTED_INTERLEAVE PREFERRED PREFERRED_MANY LOCAL"
    ).split()
)
MEMORY_FLAGS = frozenset({"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"})
PROPAGATIONS = frozenset(
    {"shared", "slave", "private", "unbindable", "rshared", "rslave", "rprivate", "runbindable"}
)
HOOK_KINDS = (
    ("prestart", "prestart"),
    ("createRuntime", "create_runtime"),
    ("createContainer", "create_container"),
    ("startContainer", "start_container"),
    ("poststart", "poststart"),
    ("poststop", "poststop"),
)


def load(bundle: str) -> Spec:
    """Read and check ``config.json`` of a bundle directory.

    Raises NotFound when it is not there, InvalidArgument naming the field when it is wrong.
    """
    path = os.path.join(bundle, "config.json")
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise NotFound(f"{path}: no such file; a bundle holds a config.json") from None
    except OSError as error:
        raise InvalidArgument(f"{path}: cannot be read: {error.strerror}") from None
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise InvalidArgument(f"{path}: not a regular file")
        if status.st_size > MAX_CONFIG:
            raise InvalidArgument(f"{path}: {status.st_size} bytes; at most {MAX_CONFIG} are read")
        data = bytearray()
        while len(data) <= MAX_CONFIG and (chunk := os.read(descriptor, 1 << 20)):
            data += chunk
    finally:
        os.close(descriptor)
    try:
        value = json.loads(bytes(data))
    except (ValueError, RecursionError) as error:
        raise InvalidArgument(f"{path}: not JSON: {error}") from None
    spec = Spec.from_json(value)
    validate(spec, bundle)
    return spec


def validate(spec: Spec, bundle: str) -> tuple[str, ...]:
    """Refuse what contradicts itself or cannot be done; return the warnings that are left.

    Raises InvalidArgument, NotFound or NotSupported, naming the field.
    """
    _check_version(spec.oci_version)
    if spec.root is None:
        raise InvalidArgument("root: required, and missing")
    _check_root(spec.root.path, bundle)
    if spec.process is None:
        raise InvalidArgument("process: required, and missing")
    linux = spec.linux
    namespaces = _check_namespaces(linux)
    warnings = validate_process(spec.process)
    for field, name in (("hostname", spec.hostname), ("domainname", spec.domainname)):
        if name is None:
            continue
        if "uts" not in namespaces:
            raise InvalidArgument(f"{field}: needs a uts namespace of the container's own")
        _no_nul(field, name)
        if len(os.fsencode(name)) > 64:
            raise InvalidArgument(f"{field}: longer than 64 bytes")
    if spec.mounts and "mount" not in namespaces:
        raise InvalidArgument("mounts: need a mount namespace of the container's own")
    if spec.hooks is not None:
        _check_hooks(spec.hooks)
    if linux is not None:
        _check_linux(linux, namespaces)
    return warnings


def validate_process(process: Process, where: str = "process") -> tuple[str, ...]:
    """The rules of one ``process`` object (config.json's, or an exec's); returns the warnings."""
    if not process.args or not process.args[0]:
        raise InvalidArgument(f"{where}.args: needs at least the command's name")
    for index, item in enumerate(process.args):
        _no_nul(f"{where}.args[{index}]", item)
    for index, item in enumerate(process.env):
        _no_nul(f"{where}.env[{index}]", item)
        if item.find("=") < 1:
            raise InvalidArgument(f'{where}.env[{index}]: expected NAME=value, not "{item}"')
    _no_nul(f"{where}.cwd", process.cwd)
    if not process.cwd.startswith("/"):
        raise InvalidArgument(f'{where}.cwd: not absolute: "{process.cwd}"')
    user = process.user
    for field, value in (
        ("uid", user.uid),
        ("gid", user.gid),
        *((f"additionalGids[{i}]", gid) for i, gid in enumerate(user.additional_gids)),
    ):
        if not 0 <= value <= MAX_ID:
            raise InvalidArgument(f"{where}.user.{field}: {value} is not an ID")
    if user.umask is not None and not 0 <= user.umask <= 0o777:
        raise InvalidArgument(f"{where}.user.umask: {user.umask} is not between 0 and 0777")
    if process.terminal and (size := process.console_size):
        for field, value in (("height", size.height), ("width", size.width)):
            if not 0 <= value <= 0xFFFF:
                raise InvalidArgument(f"{where}.consoleSize.{field}: {value} is out of range")
    seen = set()
    for index, limit in enumerate(process.rlimits):
        place = f"{where}.rlimits[{index}]"
        if limit.type not in RLIMITS:
            raise InvalidArgument(f'{place}.type: unknown limit "{limit.type}"')
        if limit.type in seen:
            raise InvalidArgument(f"{place}.type: {limit.type} is given twice")
        seen.add(limit.type)
        if not 0 <= limit.soft < 1 << 64 or not 0 <= limit.hard < 1 << 64:
            raise InvalidArgument(f"{place}: {limit.type} is out of range")
        if limit.soft > limit.hard:
            raise InvalidArgument(
                f"{place}: {limit.type}: soft limit {limit.soft} exceeds hard {limit.hard}"
            )
    _check_labels(process, where)
    if process.oom_score_adj is not None and not -1000 <= process.oom_score_adj <= 1000:
        raise InvalidArgument(
            f"{where}.oomScoreAdj: {process.oom_score_adj} is not between -1000 and 1000"
        )
    _check_priorities(process, where)
    return _unknown_capabilities(process, where)


def parse_cpu_list(text: str, where: str) -> frozenset[int]:
    """``0-2,7`` as numbers (cpuset(7), "List format"); raises InvalidArgument."""
    cpus: set[int] = set()
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()):
            raise InvalidArgument(f'{where}: "{text}" is not a list of numbers like 0-2,7')
        low, high = int(first), int(last) if dash else int(first)
        if not low <= high < 1 << 16:
            raise InvalidArgument(f'{where}: the range "{part}" is empty or too far')
        cpus.update(range(low, high + 1))
    return frozenset(cpus)


def _check_version(version: str) -> None:
    core = version.partition("+")[0].partition("-")[0]
    numbers = core.split(".")
    if len(numbers) != 3 or not all(
        n.isascii() and n.isdecimal() and (n == "0" or n[0] != "0") for n in numbers
    ):
        raise InvalidArgument(f'ociVersion: "{version}" is not a semantic version like 1.2.0')
    ours = SPEC_VERSION.split(".")
    if numbers[0] != ours[0] or int(numbers[1]) > int(ours[1]):
        raise NotSupported(
            f"ociVersion: {version} is not supported; this is a runtime for 1.0 to {SPEC_VERSION}"
        )


def _check_root(path: str, bundle: str) -> None:
    _no_nul("root.path", path)
    if not path:
        raise InvalidArgument("root.path: empty")
    full = os.path.join(bundle, path)
    try:
        mode = os.lstat(full).st_mode
    except OSError as error:
        raise NotFound(f"root.path: {full}: {error.strerror}") from None
    if stat.S_ISLNK(mode):
        raise InvalidArgument(f"root.path: {full} is a symbolic link; name its target")
    if not stat.S_ISDIR(mode):
        raise InvalidArgument(f"root.path: {full} is not a directory")


def _check_namespaces(linux: Linux | None) -> dict[str, str | None]:
    found: dict[str, str | None] = {}
    for index, namespace in enumerate(linux.namespaces if linux else ()):
        place = f"linux.namespaces[{index}]"
        if namespace.type not in KINDS:
            raise InvalidArgument(f'{place}.type: unknown namespace "{namespace.type}"')
        if namespace.type in found:
            raise InvalidArgument(f"{place}.type: {namespace.type} is given twice")
        if namespace.path is not None and not namespace.path.startswith("/"):
            raise InvalidArgument(f'{place}.path: not absolute: "{namespace.path}"')
        found[namespace.type] = namespace.path
    return found


def _check_hooks(hooks: Hooks) -> None:
    for name, attribute in HOOK_KINDS:
        for index, hook in enumerate(getattr(hooks, attribute)):
            place = f"hooks.{name}[{index}]"
            if not hook.path.startswith("/"):
                raise InvalidArgument(f'{place}.path: not absolute: "{hook.path}"')
            for item in (hook.path, *hook.args, *hook.env):
                _no_nul(place, item)
            for item in hook.env:
                if item.find("=") < 1:
                    raise InvalidArgument(f'{place}.env: expected NAME=value, not "{item}"')
            if hook.timeout is not None and hook.timeout <= 0:
                raise InvalidArgument(f"{place}.timeout: {hook.timeout} is not above 0 seconds")


def _check_linux(linux: Linux, namespaces: dict[str, str | None]) -> None:
    _check_mappings(linux, namespaces)
    if linux.time_offsets:
        if "time" not in namespaces or namespaces["time"] is not None:
            raise InvalidArgument("linux.timeOffsets: need a new time namespace")
        for clock, offset in linux.time_offsets.items():
            if clock not in ("monotonic", "boottime"):
                raise InvalidArgument(f'linux.timeOffsets: unknown clock "{clock}"')
            if not 0 <= offset.nanosecs < 1_000_000_000:
                raise InvalidArgument(f"linux.timeOffsets.{clock}.nanosecs: not below a second")
    propagation = linux.rootfs_propagation
    if propagation and propagation not in PROPAGATIONS:
        raise InvalidArgument(f'linux.rootfsPropagation: unknown value "{propagation}"')
    for field, paths in (
        ("maskedPaths", linux.masked_paths),
        ("readonlyPaths", linux.readonly_paths),
    ):
        if paths and "mount" not in namespaces:
            raise InvalidArgument(f"linux.{field}: need a mount namespace of the container's own")
        for path in paths:
            _no_nul(f"linux.{field}", path)
            if not path.startswith("/"):
                raise InvalidArgument(f'linux.{field}: not absolute: "{path}"')
    for limit in linux.resources.hugepage_limits if linux.resources is not None else ():
        _no_nul("linux.resources.hugepageLimits.pageSize", limit.page_size)
    if linux.mount_label and not _selinux_enabled():
        raise NotSupported("linux.mountLabel: SELinux is not enabled on this machine")
    sysctl.validate(linux)
    for name, device in linux.net_devices.items():
        _check_net_device(name, device.name, namespaces)
    if linux.personality is not None:
        if linux.personality.domain not in ("LINUX", "LINUX32"):
            raise InvalidArgument(
                f'linux.personality.domain: unknown value "{linux.personality.domain}"'
            )
        if linux.personality.flags:
            raise InvalidArgument("linux.personality.flags: none are defined")
    if linux.intel_rdt is not None:
        raise NotSupported("linux.intelRdt: resctrl is not supported")
    policy = linux.memory_policy
    if policy is not None:
        if policy.mode not in MEMORY_MODES:
            raise InvalidArgument(f'linux.memoryPolicy.mode: unknown value "{policy.mode}"')
        _known("linux.memoryPolicy.flags", policy.flags, MEMORY_FLAGS)
        if policy.nodes:
            parse_cpu_list(policy.nodes, "linux.memoryPolicy.nodes")
        alone = policy.mode in ("MPOL_DEFAULT", "MPOL_LOCAL")
        if alone and policy.nodes:
            raise InvalidArgument(f"linux.memoryPolicy.nodes: {policy.mode} takes none")
        if not alone and not policy.nodes and policy.mode != "MPOL_PREFERRED":
            raise InvalidArgument(f"linux.memoryPolicy.nodes: {policy.mode} needs some")
    seccomp = linux.seccomp
    if seccomp is not None and seccomp.listener_metadata and not seccomp.listener_path:
        raise InvalidArgument("linux.seccomp.listenerMetadata: needs listenerPath")


def _check_mappings(linux: Linux, namespaces: dict[str, str | None]) -> None:
    for field, mappings in (
        ("uidMappings", linux.uid_mappings),
        ("gidMappings", linux.gid_mappings),
    ):
        if mappings and "user" not in namespaces:
            raise InvalidArgument(f"linux.{field}: need a user namespace")
        if not mappings and "user" in namespaces and namespaces["user"] is None:
            raise InvalidArgument(f"linux.{field}: a new user namespace needs them")
        for index, one in enumerate(mappings):
            place = f"linux.{field}[{index}]"
            if one.size < 1:
                raise InvalidArgument(f"{place}.size: {one.size} maps nothing")
            if min(one.container_id, one.host_id) < 0 or (
                max(one.container_id, one.host_id) + one.size - 1 > MAX_ID
            ):
                raise InvalidArgument(f"{place}: reaches outside 0 to {MAX_ID}")
        _no_overlap(f"linux.{field}", mappings)
    if bool(linux.uid_mappings) != bool(linux.gid_mappings):
        raise InvalidArgument("linux: uidMappings and gidMappings come together")


def _no_overlap(field: str, mappings: Iterable[IdMapping]) -> None:
    for kind in ("container_id", "host_id"):
        spans = sorted((getattr(one, kind), one.size) for one in mappings)
        for (first, size), (second, _) in itertools.pairwise(spans):
            if first + size > second:
                raise InvalidArgument(f"{field}: ID {second} is mapped twice")


def _check_net_device(name: str, new: str | None, namespaces: dict[str, str | None]) -> None:
    place = f"linux.netDevices.{name}"
    path = namespaces.get("network", "")
    if path == "" or (path is not None and _same_file(path, "/proc/self/ns/net")):
        raise InvalidArgument(f"{place}: needs a network namespace of the container's own")
    for value in (name, new):
        if value is not None and (
            not 0 < len(value.encode()) <= 15
            or value in (".", "..")
            or any(c in "/:" or c.isspace() or c == "\0" for c in value)
        ):
            raise InvalidArgument(f'{place}: "{value}" is not the name of a network device')


def _check_labels(process: Process, where: str) -> None:
    if process.apparmor_profile:
        _no_nul(f"{where}.apparmorProfile", process.apparmor_profile)
        if not _apparmor_enabled():
            raise NotSupported(f"{where}.apparmorProfile: AppArmor is not enabled on this machine")
    if process.selinux_label:
        _no_nul(f"{where}.selinuxLabel", process.selinux_label)
        if not _selinux_enabled():
            raise NotSupported(f"{where}.selinuxLabel: SELinux is not enabled on this machine")


def _check_priorities(process: Process, where: str) -> None:
    scheduler = process.scheduler
    if scheduler is not None:
        place = f"{where}.scheduler"
        policy = scheduler.policy
        _known(f"{place}.policy", (policy,), POLICIES)
        _known(f"{place}.flags", scheduler.flags, SCHEDULER_FLAGS)
        if scheduler.nice is not None and not -20 <= scheduler.nice <= 19:
            raise InvalidArgument(f"{place}.nice: {scheduler.nice} is not between -20 and 19")
        priority = scheduler.priority or 0
        if policy in ("SCHED_FIFO", "SCHED_RR"):
            if not 1 <= priority <= 99:
                raise InvalidArgument(f"{place}.priority: {priority} is not between 1 and 99")
        elif priority:
            raise InvalidArgument(f"{place}.priority: only for SCHED_FIFO and SCHED_RR")
        times = (scheduler.runtime, scheduler.deadline, scheduler.period)
        if policy != "SCHED_DEADLINE" and any(times):
            raise InvalidArgument(f"{place}: runtime, deadline and period are SCHED_DEADLINE's")
        if any(not 0 <= time < 1 << 63 for time in times if time is not None):
            raise InvalidArgument(f"{place}: a time is out of range")
    io = process.io_priority
    if io is not None:
        _known(f"{where}.ioPriority.class", (io.klass,), IO_CLASSES)
        if not 0 <= io.priority <= 7:
            raise InvalidArgument(
                f"{where}.ioPriority.priority: {io.priority} is not between 0 and 7"
            )
    affinity = process.exec_cpu_affinity
    if affinity is not None:
        for field, text in (("initial", affinity.initial), ("final", affinity.final)):
            if text:
                parse_cpu_list(text, f"{where}.execCPUAffinity.{field}")


def _unknown_capabilities(process: Process, where: str) -> tuple[str, ...]:
    sets = process.capabilities
    if sets is None:
        return ()
    named = {
        *sets.effective,
        *sets.bounding,
        *sets.inheritable,
        *sets.permitted,
        *sets.ambient,
    }
    unknown = named.difference(capabilities.NAMES)
    return tuple(
        f'{where}.capabilities: unknown capability "{name}" is ignored' for name in sorted(unknown)
    )


def _known(field: str, values: Iterable[str], known: frozenset[str]) -> None:
    for value in values:
        if value not in known:
            raise InvalidArgument(f'{field}: unknown value "{value}"')


def _no_nul(field: str, value: str) -> None:
    if "\0" in value:
        raise InvalidArgument(f"{field}: contains a NUL character")


def _same_file(first: str, second: str) -> bool:
    try:
        return os.path.samestat(os.stat(first), os.stat(second))
    except OSError:
        return False  # a missing path is refused where it is opened, with its errno


def _apparmor_enabled() -> bool:
    try:
        with open("/sys/module/apparmor/parameters/enabled", "rb") as file:
            return file.read(1) == b"Y"
    except FileNotFoundError:
        return False


def _selinux_enabled() -> bool:
    return os.path.exists("/sys/fs/selinux/enforce")
