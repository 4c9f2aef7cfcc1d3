"""The flags of ``run``, ``create`` and ``update`` (Docker's names).

What the daemon does not do yet it refuses by name; flags refused here are those that have no
field to send, or that could not be acted on by any engine on this system.
"""

from __future__ import annotations

from sampan.cli.flags import Flag

__all__ = ["CREATE", "RUN", "UPDATE"]

_WINDOWS = "only means something to Windows containers"
_KERNEL_MEMORY = "Linux has no limit of its own for kernel memory any more: --memory covers it"
_GPUS = "giving containers GPUs is not supported: pass the device files with --device"
_API_SOCKET = (
    "whoever has the daemon's socket has the machine: bind it by name (-v) where that is wanted"
)

_LIMITS = [
    Flag("blkio-weight", "int", "Share of block I/O, 10 to 1000; 0 for the usual", hint="weight"),
    Flag("cpu-period", "int", "CFS period in microseconds", hint="us"),
    Flag("cpu-quota", "int", "CPU time a CFS period may use, in microseconds", hint="us"),
    Flag("cpu-rt-period", "int", "Real-time period in microseconds", hint="us"),
    Flag("cpu-rt-runtime", "int", "Real-time CPU time a period may use", hint="us"),
    Flag("cpu-shares", "int", "Share of CPU time where it is short (1024)", short="c"),
    Flag("cpus", "str", "At most so many CPUs' time, such as 1.5", hint="number"),
    Flag("cpuset-cpus", "str", "Run on these CPUs only (0-3, 0,1)", hint="list"),
    Flag("cpuset-mems", "str", "Memory of these NUMA nodes only (0-3, 0,1)", hint="list"),
    Flag("memory", "bytes", "Limit of memory", short="m"),
    Flag("memory-reservation", "bytes", "Memory it may keep where memory is short"),
    Flag("memory-swap", "str", "Limit of memory and swap together; -1: no limit", hint="bytes"),
    Flag("pids-limit", "int", "Limit of processes and threads; -1: none"),
    Flag("restart", "str", "When to start again: no, on-failure[:n], always, unless-stopped"),
]
UPDATE = [
    *_LIMITS,
    Flag("kernel-memory", "bytes", "", refused=_KERNEL_MEMORY),
]
CREATE = [
    *UPDATE,
    Flag("add-host", "list", "A line of /etc/hosts, host:address", hint="host:ip"),
    Flag("annotation", "list", "key=value for the OCI runtime", hint="map"),
    Flag("attach", "list", "Streams to attach to: stdin, stdout, stderr", short="a"),
    Flag("blkio-weight-device", "list", "Share of a device's I/O, /dev/x:weight"),
    Flag("cap-add", "list", "Give a capability, or ALL"),
    Flag("cap-drop", "list", "Take a capability away, or ALL"),
    Flag("cgroup-parent", "str", "Make its cgroup below this one", hint="path"),
    Flag("cgroupns", "str", "Cgroup namespace: host or private"),
    Flag("cidfile", "str", "Write the container's ID to this file", hint="file"),
    Flag("cpu-count", "int", "", refused=_WINDOWS),
    Flag("cpu-percent", "int", "", refused=_WINDOWS),
    Flag("device", "list", "A device of this machine's, /dev/x[:/dev/y[:rwm]]"),
    Flag("device-cgroup-rule", "list", "A rule of allowed devices, such as 'c 1:3 rwm'"),
    Flag("device-read-bps", "list", "Limit of bytes read a second, /dev/x:10mb"),
    Flag("device-read-iops", "list", "Limit of reads a second, /dev/x:100"),
    Flag("device-write-bps", "list", "Limit of bytes written a second, /dev/x:10mb"),
    Flag("device-write-iops", "list", "Limit of writes a second, /dev/x:100"),
    Flag("disable-content-trust", "bool", ""),
    Flag("dns", "list", "A name server", hint="ip"),
    Flag("dns-option", "list", "An option of resolv.conf", old="dns-opt"),
    Flag("dns-search", "list", "A domain to look names up in"),
    Flag("domainname", "str", "NIS domain name"),
    Flag("entrypoint", "str", "Program to run in place of the image's entry point"),
    Flag("env", "list", "NAME=value; NAME alone takes this shell's value", short="e"),
    Flag("env-file", "list", "Read environment variables from a file", hint="file"),
    Flag("expose", "list", "A port, or a range, that it listens on"),
    Flag("gpus", "str", "", refused=_GPUS),
    Flag("group-add", "list", "A further group of its processes"),
    Flag("health-cmd", "str", "Shell command that tells whether it is healthy", hint="command"),
    Flag("health-interval", "duration", "Time between two checks (30s)"),
    Flag("health-retries", "int", "Failures in a row that make it unhealthy (3)"),
    Flag("health-start-interval", "duration", "Time between two checks while it starts (5s)"),
    Flag("health-start-period", "duration", "Time it has to start; failures do not count"),
    Flag("health-timeout", "duration", "Longest time a check may take (30s)"),
    Flag("hostname", "str", "Host name", short="h"),
    Flag("init", "bool", "An init of ours as process 1, which reaps and hands signals on"),
    Flag("interactive", "bool", "Keep standard input open", short="i"),
    Flag("io-maxbandwidth", "bytes", "", refused=_WINDOWS),
    Flag("io-maxiops", "int", "", refused=_WINDOWS),
    Flag("ip", "str", "IPv4 address"),
    Flag("ip6", "str", "IPv6 address"),
    Flag("ipc", "str", "IPC namespace: private, shareable, host, none, container:NAME"),
    Flag("isolation", "str", "", refused=_WINDOWS),
    Flag("label", "list", "key=value to remember", short="l"),
    Flag("label-file", "list", "Read labels from a file", hint="file"),
    Flag("link", "list", "Know another container by name, NAME[:ALIAS]"),
    Flag("link-local-ip", "list", "A link-local address", hint="ip"),
    Flag("log-driver", "str", "What becomes of its output: json-file, local, none, …"),
    Flag("log-opt", "list", "An option of the log driver, key=value"),
    Flag("mac-address", "str", "MAC address"),
    Flag("memory-swappiness", "int", "How readily its memory is swapped, 0 to 100"),
    Flag("mount", "list", "A mount: type=bind|volume|tmpfs|image,src=…,dst=…,…", hint="mount"),
    Flag("name", "str", "Its name; otherwise one is made up"),
    Flag("network", "list", "none, host, container:NAME, or a network's name", old="net"),
    Flag("network-alias", "list", "A further name on the network", old="net-alias"),
    Flag("no-healthcheck", "bool", "Leave the image's health check out"),
    Flag("oom-kill-disable", "bool", "Do not kill when the memory limit is met: wait"),
    Flag("oom-score-adj", "int", "How readily it is killed when memory ends, -1000 to 1000"),
    Flag("pid", "str", "PID namespace: private, host, container:NAME"),
    Flag("platform", "str", "os[/arch[/variant]] of the image"),
    Flag("privileged", "bool", "Everything root may: all capabilities and devices"),
    Flag("publish", "list", "Reach a port from outside, [address:][port:]port[/proto]", short="p"),
    Flag("publish-all", "bool", "Reach every exposed port from outside", short="P"),
    Flag("pull", "str", "When to fetch the image: always, missing, never"),
    Flag("quiet", "bool", "Say nothing of the fetching", short="q"),
    Flag("read-only", "bool", "Nothing in its root file system can be written"),
    Flag("rm", "bool", "Remove it, and its nameless volumes, when it ends"),
    Flag("runtime", "str", "OCI runtime to use"),
    Flag("security-opt", "list", "A security option: seccomp=FILE, no-new-privileges, …"),
    Flag("shm-size", "bytes", "Size of /dev/shm (64m)"),
    Flag("stop-signal", "str", "Signal that asks it to end", hint="signal"),
    Flag("stop-timeout", "int", "Seconds it has to end before it is killed"),
    Flag("storage-opt", "list", "An option of the storage driver, key=value"),
    Flag("sysctl", "list", "key=value of a namespaced kernel parameter", hint="map"),
    Flag("tmpfs", "list", "An empty file system in memory, PATH[:OPTIONS]"),
    Flag("tty", "bool", "Give it a terminal", short="t"),
    Flag("ulimit", "list", "A resource limit, name=soft[:hard]"),
    Flag("use-api-socket", "bool", "", refused=_API_SOCKET),
    Flag("user", "str", "User and group, names or numbers", short="u", hint="name[:group]"),
    Flag("userns", "str", "User namespace: host, or the daemon's"),
    Flag("uts", "str", "UTS namespace: host, or its own"),
    Flag("volume", "list", "A mount: [SOURCE:]PATH[:ro,…]", short="v"),
    Flag("volume-driver", "str", "Driver of volumes that are made for it"),
    Flag("volumes-from", "list", "The mounts of another container, NAME[:ro]"),
    Flag("workdir", "str", "Working directory", short="w", hint="path"),
]
RUN = [
    *CREATE,
    Flag("detach", "bool", "Do not wait: print its ID and leave it running", short="d"),
    Flag("detach-keys", "str", "Keys that leave it running (ctrl-p,ctrl-q)", hint="keys"),
    Flag("sig-proxy", "bool", "Hand signals on to it (the default without -t)"),
]
