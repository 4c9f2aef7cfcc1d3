"""``config.json`` of the OCI runtime specification 1.3.0, as frozen records.

Only shapes stand here; what a value means, and which combinations are refused, is
``sampan.runtime.spec``'s. Blocks of other platforms (windows, solaris, zos, vm) are unknown
properties to us and ignored, as the specification says.

Optional numbers are ``None`` when absent: the specification tells "unset" from 0 throughout.
Units are the specification's: bytes, microseconds for CPU periods and quotas, seconds for hook
time-outs. ``fileMode`` is decimal in JSON.
"""

from __future__ import annotations

from typing import ClassVar

from sampan.oci.record import Record

__all__ = [
    "BlockIO",
    "Capabilities",
    "ConsoleSize",
    "Cpu",
    "CpuAffinity",
    "Device",
    "DeviceRule",
    "Hook",
    "Hooks",
    "HugepageLimit",
    "IOPriority",
    "IdMapping",
    "InterfacePriority",
    "Linux",
    "Memory",
    "MemoryPolicy",
    "Mount",
    "Namespace",
    "NetDevice",
    "Network",
    "Personality",
    "Pids",
    "Process",
    "Rdma",
    "Resources",
    "Rlimit",
    "Root",
    "Scheduler",
    "Seccomp",
    "Spec",
    "SyscallArg",
    "SyscallRule",
    "ThrottleDevice",
    "TimeOffset",
    "User",
    "WeightDevice",
]

SPEC_VERSION = "1.3.0"


class Root(Record):
    path: str
    readonly: bool = False


class IdMapping(Record):
    json_names: ClassVar[dict[str, str]] = {"container_id": "containerID", "host_id": "hostID"}

    container_id: int
    host_id: int
    size: int


class Mount(Record):
    """One entry of ``mounts``; also the recipe of a root file system (storage drivers)."""

    destination: str
    type: str | None = None
    source: str | None = None
    options: tuple[str, ...] = ()
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()


class ConsoleSize(Record):
    height: int
    width: int


class User(Record):
    """``username`` is ours on Linux: Docker's ``name|uid[:group|gid]``, resolved inside the
    container's root file system by its init; uid and gid are then the fallback of neither. So are
    ``additional_groups``, names of groups."""

    uid: int = 0
    gid: int = 0
    umask: int | None = None
    additional_gids: tuple[int, ...] = ()
    username: str | None = None
    additional_groups: tuple[str, ...] = ()


class Capabilities(Record):
    effective: tuple[str, ...] = ()
    bounding: tuple[str, ...] = ()
    inheritable: tuple[str, ...] = ()
    permitted: tuple[str, ...] = ()
    ambient: tuple[str, ...] = ()


class Rlimit(Record):
    type: str
    soft: int
    hard: int


class Scheduler(Record):
    policy: str
    nice: int | None = None
    priority: int | None = None
    flags: tuple[str, ...] = ()
    runtime: int | None = None
    deadline: int | None = None
    period: int | None = None


class IOPriority(Record):
    json_names: ClassVar[dict[str, str]] = {"klass": "class"}

    klass: str
    priority: int = 0


class CpuAffinity(Record):
    initial: str | None = None
    final: str | None = None


class Process(Record):
    json_names: ClassVar[dict[str, str]] = {"exec_cpu_affinity": "execCPUAffinity"}

    cwd: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    terminal: bool = False
    console_size: ConsoleSize | None = None
    user: User = User()
    capabilities: Capabilities | None = None
    rlimits: tuple[Rlimit, ...] = ()
    no_new_privileges: bool = False
    apparmor_profile: str | None = None
    oom_score_adj: int | None = None
    scheduler: Scheduler | None = None
    selinux_label: str | None = None
    io_priority: IOPriority | None = None
    exec_cpu_affinity: CpuAffinity | None = None


class Hook(Record):
    path: str
    args: tuple[str, ...] = ()
    env: tuple[str, ...] = ()
    timeout: int | None = None


class Hooks(Record):
    prestart: tuple[Hook, ...] = ()
    create_runtime: tuple[Hook, ...] = ()
    create_container: tuple[Hook, ...] = ()
    start_container: tuple[Hook, ...] = ()
    poststart: tuple[Hook, ...] = ()
    poststop: tuple[Hook, ...] = ()


class Namespace(Record):
    type: str
    path: str | None = None


class Device(Record):
    type: str
    path: str
    major: int | None = None
    minor: int | None = None
    file_mode: int | None = None
    uid: int | None = None
    gid: int | None = None


class NetDevice(Record):
    name: str | None = None


class DeviceRule(Record):
    allow: bool
    type: str | None = None
    major: int | None = None
    minor: int | None = None
    access: str | None = None


class Memory(Record):
    json_names: ClassVar[dict[str, str]] = {
        "kernel_tcp": "kernelTCP",
        "disable_oom_killer": "disableOOMKiller",
    }

    limit: int | None = None
    reservation: int | None = None
    swap: int | None = None
    kernel: int | None = None
    kernel_tcp: int | None = None
    swappiness: int | None = None
    disable_oom_killer: bool = False
    use_hierarchy: bool = False
    check_before_update: bool = False


class Cpu(Record):
    shares: int | None = None
    quota: int | None = None
    burst: int | None = None
    period: int | None = None
    realtime_runtime: int | None = None
    realtime_period: int | None = None
    cpus: str | None = None
    mems: str | None = None
    idle: int | None = None


class Pids(Record):
    limit: int | None = None


class WeightDevice(Record):
    major: int
    minor: int
    weight: int | None = None
    leaf_weight: int | None = None


class ThrottleDevice(Record):
    major: int
    minor: int
    rate: int


class BlockIO(Record):
    json_names: ClassVar[dict[str, str]] = {
        "throttle_read_iops_device": "throttleReadIOPSDevice",
        "throttle_write_iops_device": "throttleWriteIOPSDevice",
    }

    weight: int | None = None
    leaf_weight: int | None = None
    weight_device: tuple[WeightDevice, ...] = ()
    throttle_read_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_bps_device: tuple[ThrottleDevice, ...] = ()
    throttle_read_iops_device: tuple[ThrottleDevice, ...] = ()
    throttle_write_iops_device: tuple[ThrottleDevice, ...] = ()


class HugepageLimit(Record):
    page_size: str
    limit: int


class InterfacePriority(Record):
    name: str
    priority: int


class Network(Record):
    json_names: ClassVar[dict[str, str]] = {"class_id": "classID"}

    class_id: int | None = None
    priorities: tuple[InterfacePriority, ...] = ()


class Rdma(Record):
    hca_handles: int | None = None
    hca_objects: int | None = None


class Resources(Record):
    json_names: ClassVar[dict[str, str]] = {"block_io": "blockIO"}

    devices: tuple[DeviceRule, ...] = ()
    memory: Memory | None = None
    cpu: Cpu | None = None
    pids: Pids | None = None
    block_io: BlockIO | None = None
    hugepage_limits: tuple[HugepageLimit, ...] = ()
    network: Network | None = None
    rdma: dict[str, Rdma] = {}
    unified: dict[str, str] = {}


class SyscallArg(Record):
    index: int
    value: int
    op: str
    value_two: int | None = None


class SyscallRule(Record):
    names: tuple[str, ...]
    action: str
    errno_ret: int | None = None
    args: tuple[SyscallArg, ...] = ()


class Seccomp(Record):
    default_action: str
    default_errno_ret: int | None = None
    architectures: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    listener_path: str | None = None
    listener_metadata: str | None = None
    syscalls: tuple[SyscallRule, ...] = ()


class TimeOffset(Record):
    secs: int = 0
    nanosecs: int = 0


class Personality(Record):
    domain: str
    flags: tuple[str, ...] = ()


class MemoryPolicy(Record):
    mode: str
    nodes: str | None = None
    flags: tuple[str, ...] = ()


class Linux(Record):
    uid_mappings: tuple[IdMapping, ...] = ()
    gid_mappings: tuple[IdMapping, ...] = ()
    sysctl: dict[str, str] = {}
    resources: Resources | None = None
    cgroups_path: str | None = None
    namespaces: tuple[Namespace, ...] = ()
    devices: tuple[Device, ...] = ()
    net_devices: dict[str, NetDevice] = {}
    seccomp: Seccomp | None = None
    rootfs_propagation: str | None = None
    masked_paths: tuple[str, ...] = ()
    readonly_paths: tuple[str, ...] = ()
    mount_label: str | None = None
    personality: Personality | None = None
    intel_rdt: object | None = None
    memory_policy: MemoryPolicy | None = None
    time_offsets: dict[str, TimeOffset] = {}


class Spec(Record):
    oci_version: str
    root: Root | None = None
    process: Process | None = None
    mounts: tuple[Mount, ...] = ()
    hostname: str | None = None
    domainname: str | None = None
    hooks: Hooks | None = None
    annotations: dict[str, str] = {}
    linux: Linux | None = None
