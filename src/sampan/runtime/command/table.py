"""Every command and option of ``sampan-runtime``: runc's, as its callers use them."""

from __future__ import annotations

from sampan.runtime.command.options import FLAG, MANY, NUMBER, TEXT, Command, Option

__all__ = ["COMMANDS", "GLOBAL"]

GLOBAL = (
    Option("root", TEXT, "directory for the containers' state"),
    Option("log", TEXT, "file to append messages to (default: standard error)"),
    Option("log-format", TEXT, "text or json"),
    Option("debug", FLAG, "also say what is done"),
    Option("systemd-cgroup", FLAG, "cgroupsPath is slice:prefix:name"),
    Option("rootless", TEXT, "true, false or auto: go on without cgroups one may not make"),
    Option("version", FLAG, "print the version", "v"),
    Option("help", FLAG, "print this help", "h"),
)

_BUNDLE = Option("bundle", TEXT, "the bundle's directory (default: the current one)", "b")
_CONSOLE = Option("console-socket", TEXT, "socket that takes the terminal's master")
_PIDFD = Option("pidfd-socket", TEXT, "socket that takes a pidfd of the process")
_PID_FILE = Option("pid-file", TEXT, "file to write the process's ID to")
_DETACH = Option("detach", FLAG, "return when the process runs", "d")
_PRESERVE = Option("preserve-fds", NUMBER, "how many descriptors from 3 on the process keeps")
_NO_PIVOT = Option("no-pivot", FLAG, "move the root mount instead of pivot_root (less safe)")

_CREATE = (
    _BUNDLE,
    _CONSOLE,
    _PIDFD,
    _PID_FILE,
    _NO_PIVOT,
    Option("no-new-keyring", FLAG, "keep the caller's session keyring"),
    _PRESERVE,
)
_NO_SUBREAPER = Option("no-subreaper", FLAG, "do not take over the container's orphans")

_EXEC = (
    _CONSOLE,
    _PIDFD,
    Option("cwd", TEXT, "working directory in the container"),
    Option("env", MANY, "environment variable NAME=VALUE", "e"),
    Option("tty", FLAG, "give it a terminal", "t"),
    Option("user", TEXT, "uid[:gid], or names of the container's", "u"),
    Option("additional-gids", MANY, "further group ID", "g"),
    Option("process", TEXT, "file with the process as JSON", "p"),
    _DETACH,
    _PID_FILE,
    Option("process-label", TEXT, "SELinux label"),
    Option("apparmor", TEXT, "AppArmor profile"),
    Option("no-new-privs", FLAG, "set no_new_privs"),
    Option("cap", MANY, "further capability", "c"),
    _PRESERVE,
    Option("cgroup", MANY, "[CONTROLLER[,CONTROLLER]:]PATH below the container's cgroup"),
    Option("ignore-paused", FLAG, "also in a paused container, where it starts paused"),
)

_UPDATE = (
    Option("resources", TEXT, "file with resources as JSON, - for standard input", "r"),
    Option("blkio-weight", NUMBER, "weight of block I/O, 10 to 1000"),
    Option("cpu-period", NUMBER, "CFS period in microseconds"),
    Option("cpu-quota", NUMBER, "CFS quota in microseconds"),
    Option("cpu-burst", NUMBER, "CFS burst in microseconds"),
    Option("cpu-share", NUMBER, "CPU shares"),
    Option("cpu-rt-period", NUMBER, "real-time period in microseconds"),
    Option("cpu-rt-runtime", NUMBER, "real-time runtime in microseconds"),
    Option("cpuset-cpus", TEXT, "CPUs to run on"),
    Option("cpuset-mems", TEXT, "memory nodes to use"),
    Option("cpu-idle", NUMBER, "1: run only when the CPU is idle"),
    Option("memory", TEXT, "memory limit in bytes (k, m, g; -1: none)"),
    Option("memory-reservation", TEXT, "soft limit in bytes"),
    Option("memory-swap", TEXT, "limit of memory and swap together in bytes"),
    Option("pids-limit", NUMBER, "most processes"),
    Option("l3-cache-schema", TEXT, "not supported: intelRdt"),
    Option("mem-bw-schema", TEXT, "not supported: intelRdt"),
    Option("kernel-memory", TEXT, "ignored", hidden=True),
    Option("kernel-memory-tcp", TEXT, "ignored", hidden=True),
)

_CHECKPOINT = (
    *(
        Option(name, TEXT, "")
        for name in (
            "image-path",
            "work-path",
            "parent-path",
            "status-fd",
            "page-server",
            "manage-cgroups-mode",
            "lsm-profile",
            "lsm-mount-context",
        )
    ),
    *(
        Option(name, FLAG, "")
        for name in (
            "leave-running",
            "tcp-established",
            "tcp-skip-in-flight",
            "link-remap",
            "ext-unix-sk",
            "shell-job",
            "lazy-pages",
            "file-locks",
            "pre-dump",
            "auto-dedup",
        )
    ),
    Option("empty-ns", MANY, ""),
)

_FORMAT = Option("format", TEXT, "table or json", "f")
_ONE = (1, 1)

COMMANDS = {
    command.name: command
    for command in (
        Command("checkpoint", "checkpoint", "ID", _ONE, "not supported", options=_CHECKPOINT),
        Command(
            "create", "create", "ID", _ONE, "make a container that waits to start", options=_CREATE
        ),
        Command(
            "delete",
            "delete",
            "ID",
            _ONE,
            "remove a container that has ended",
            options=(Option("force", FLAG, "also one that runs, and no error without one", "f"),),
        ),
        Command(
            "events",
            "events",
            "ID",
            _ONE,
            "print usage at intervals, and when memory runs out",
            options=(
                Option("interval", TEXT, "time between two lines (default: 5s)"),
                Option("stats", FLAG, "print usage once"),
            ),
        ),
        Command(
            "exec",
            "exec",
            "ID COMMAND [ARG...] | -p FILE ID",
            (1, None),
            "run another process in a container",
            options=_EXEC,
            stops=True,
        ),
        Command("features", "features", "", (0, 0), "print what this runtime can do, as JSON"),
        Command(
            "kill",
            "kill",
            "ID [SIGNAL]",
            (1, 2),
            "send a signal (default: TERM) to a container's init",
            options=(Option("all", FLAG, "to every process of the container", "a"),),
        ),
        Command(
            "list",
            "list",
            "",
            (0, 0),
            "list the containers",
            options=(_FORMAT, Option("quiet", FLAG, "IDs only", "q")),
        ),
        Command("pause", "pause", "ID", _ONE, "freeze all processes of a container"),
        Command(
            "ps",
            "ps",
            "ID [PS OPTIONS]",
            (1, None),
            "list a container's processes",
            options=(_FORMAT,),
            stops=True,
        ),
        Command(
            "restore",
            "checkpoint",
            "ID",
            _ONE,
            "not supported",
            options=(*_CHECKPOINT, _BUNDLE, _CONSOLE, _DETACH, _PID_FILE, _NO_SUBREAPER, _NO_PIVOT),
        ),
        Command("resume", "pause", "ID", _ONE, "let a paused container go on"),
        Command(
            "run",
            "run",
            "ID",
            _ONE,
            "create and start a container",
            options=(
                *_CREATE,
                _DETACH,
                Option("keep", FLAG, "do not delete it when it has ended"),
                _NO_SUBREAPER,
            ),
        ),
        Command(
            "spec",
            "template",
            "",
            (0, 0),
            "write a config.json to start from",
            options=(_BUNDLE, Option("rootless", FLAG, "for a user without privileges")),
        ),
        Command("start", "start", "ID", _ONE, "start a container that was created"),
        Command("state", "state", "ID", _ONE, "print a container's state as JSON"),
        Command("update", "update", "ID", _ONE, "change a container's limits", options=_UPDATE),
    )
}
