"""Mounts: the descriptor-based calls (Linux 5.2 to 5.12), the old ones, and what is mounted.

After mount(2), umount2(2), pivot_root(2), open_tree(2), move_mount(2), mount_setattr(2), fsopen(2),
fsconfig(2), fsmount(2) and proc_pid_mountinfo(5). With the descriptor-based calls a mount is
configured while nobody can reach it and attached by descriptor, so there is no path for anyone to
swap between a check and its use.

``fsopen`` errors carry the kernel's own words: a file system context keeps log lines ("overlay:
upperdir is in-use ..."), which are read and put into the error's text.
"""

from __future__ import annotations

import os
import struct
from errno import E2BIG

from sampan.errors import KernelError
from sampan.kernel.syscalls import AT_EMPTY_PATH, AT_FDCWD, buffer, c_string, syscall

# mount(2)
MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_SYNCHRONOUS = 0x10
MS_REMOUNT = 0x20
MS_MANDLOCK = 0x40
MS_DIRSYNC = 0x80
MS_NOSYMFOLLOW = 0x100
MS_NOATIME = 0x400
MS_NODIRATIME = 0x800
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_SILENT = 0x8000
MS_POSIXACL = 0x10000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000
MS_RELATIME = 0x200000
MS_I_VERSION = 0x800000
MS_STRICTATIME = 0x1000000
MS_LAZYTIME = 0x2000000

# umount2(2)
MNT_FORCE = 0x1
MNT_DETACH = 0x2
MNT_EXPIRE = 0x4
UMOUNT_NOFOLLOW = 0x8

# open_tree(2); the AT_* flags go into the same argument
OPEN_TREE_CLONE = 0x1
OPEN_TREE_CLOEXEC = os.O_CLOEXEC
AT_SYMLINK_NOFOLLOW = 0x100
AT_NO_AUTOMOUNT = 0x800
AT_RECURSIVE = 0x8000

# move_mount(2)
MOVE_MOUNT_F_SYMLINKS = 0x1
MOVE_MOUNT_F_AUTOMOUNTS = 0x2
MOVE_MOUNT_F_EMPTY_PATH = 0x4
MOVE_MOUNT_T_SYMLINKS = 0x10
MOVE_MOUNT_T_AUTOMOUNTS = 0x20
MOVE_MOUNT_T_EMPTY_PATH = 0x40
MOVE_MOUNT_SET_GROUP = 0x100
MOVE_MOUNT_BENEATH = 0x200

# mount_setattr(2), fsmount(2)
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

# fsopen(2), fspick(2), fsconfig(2), fsmount(2)
_FSOPEN_CLOEXEC = 0x1
_FSMOUNT_CLOEXEC = 0x1
_FSPICK_CLOEXEC = 0x1
FSPICK_EMPTY_PATH = 0x8
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_SET_FD = 5
_FSCONFIG_CMD_CREATE = 6
_FSCONFIG_CMD_RECONFIGURE = 7

# statfs(2), f_type
PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
OVERLAYFS_SUPER_MAGIC = 0x794C7630
DEVPTS_SUPER_MAGIC = 0x1CD1
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
NSFS_MAGIC = 0x6E736673
MQUEUE_MAGIC = 0x19800202
KERNEL_FILE_SYSTEMS = frozenset(
    {
        PROC_SUPER_MAGIC,
        SYSFS_MAGIC,
        DEVPTS_SUPER_MAGIC,
        CGROUP_SUPER_MAGIC,
        CGROUP2_SUPER_MAGIC,
        NSFS_MAGIC,
        MQUEUE_MAGIC,
        0x64626720,  # debugfs
        0x74726163,  # tracefs
        0x73636673,  # securityfs
        0x62656570,  # configfs
        0xCAFE4A11,  # bpf
        0x6165676C,  # pstore
        0xDE5E81E4,  # efivarfs
        0x42494E4D,  # binfmt_misc
        0xF97CFF8C,  # selinuxfs
        0x65735543,  # fusectl
    }
)
"""Whose files are the kernel's words, not anybody's data."""

_PAGE = os.sysconf("SC_PAGE_SIZE")

Path = str | bytes


def mount(
    source: Path | None,
    target: Path,
    fstype: str | None,
    flags: int = 0,
    data: Path | None = None,
) -> None:
    """mount(2). ``E2BIG`` for data of a page or more, which the kernel would cut off silently."""
    described = f"{fstype or _operation(flags)} on {os.fsdecode(target)}"
    if source and fstype is None and flags & (MS_BIND | MS_MOVE):
        described = f"{_operation(flags)} {os.fsdecode(source)} on {os.fsdecode(target)}"
    options = None if data is None else c_string(data)
    if options is not None and len(options) >= _PAGE:
        raise KernelError("mount", E2BIG, f"{described} ({len(options)} bytes of options)")
    syscall(
        "mount",
        None if source is None else c_string(source),
        c_string(target),
        None if fstype is None else c_string(fstype),
        flags,
        options,
        target=described,
    )


def umount(target: Path, flags: int = 0) -> None:
    """umount2(2); see ``MNT_DETACH`` and ``UMOUNT_NOFOLLOW``."""
    syscall("umount2", c_string(target), flags, target=os.fsdecode(target))


def pivot_root(new: Path, old: Path) -> None:
    """pivot_root(2). With ``(".", ".")`` the old root is stacked on the new: unmount "." next."""
    syscall("pivot_root", c_string(new), c_string(old), target=os.fsdecode(new))


def open_tree(dirfd: int, path: Path, flags: int) -> int:
    """A descriptor of the mount at ``path``: with ``OPEN_TREE_CLONE``, of a detached copy."""
    return syscall(
        "open_tree",
        dirfd,
        c_string(path),
        flags | OPEN_TREE_CLOEXEC | (AT_EMPTY_PATH if not path else 0),
        target=_at(dirfd, path),
    )


def clone_tree(fd: int, recursive: bool) -> int:
    """A detached copy (a bind mount not yet anywhere) of what is at descriptor ``fd``."""
    return open_tree(fd, "", OPEN_TREE_CLONE | (AT_RECURSIVE if recursive else 0))


def move_mount(from_fd: int, from_path: Path, to_fd: int, to_path: Path, flags: int = 0) -> None:
    """move_mount(2); an empty path stands for the descriptor itself."""
    if not from_path:
        flags |= MOVE_MOUNT_F_EMPTY_PATH
    if not to_path:
        flags |= MOVE_MOUNT_T_EMPTY_PATH
    syscall(
        "move_mount",
        from_fd,
        c_string(from_path),
        to_fd,
        c_string(to_path),
        flags,
        target=f"{_at(from_fd, from_path)} to {_at(to_fd, to_path)}",
    )


def attach(mount_fd: int, target_fd: int) -> None:
    """Put the detached mount ``mount_fd`` on the file or directory ``target_fd``, O_PATH or not."""
    move_mount(mount_fd, "", target_fd, "")


def mount_setattr(
    dirfd: int,
    path: Path,
    flags: int,
    set: int = 0,
    clear: int = 0,
    *,
    propagation: int = 0,
    userns_fd: int = -1,
) -> None:
    """mount_setattr(2): set and clear ``MOUNT_ATTR_*``; ``AT_RECURSIVE`` in ``flags`` for a tree.

    Where ``set`` has a time mode, ``clear`` gets ``MOUNT_ATTR__ATIME`` as the kernel demands.
    ``propagation`` is one of ``MS_SHARED``, ``MS_SLAVE``, ``MS_PRIVATE``, ``MS_UNBINDABLE``.
    ``userns_fd`` goes with ``MOUNT_ATTR_IDMAP`` (a detached mount that was never attached).
    """
    if set & MOUNT_ATTR__ATIME:
        clear |= MOUNT_ATTR__ATIME
    attributes = struct.pack("QQQQ", set, clear, propagation, max(userns_fd, 0))
    syscall(
        "mount_setattr",
        dirfd,
        c_string(path),
        flags | (AT_EMPTY_PATH if not path else 0),
        buffer(attributes),
        len(attributes),
        target=_at(dirfd, path),
    )


def fsopen(fstype: str) -> int:
    """A new file system context. ``ENODEV``: the kernel has no such file system."""
    return syscall("fsopen", c_string(fstype), _FSOPEN_CLOEXEC, target=fstype)


def fspick(dirfd: int, path: Path) -> int:
    """A context to reconfigure the file system at ``path``: see ``fsconfig_reconfigure``."""
    flags = _FSPICK_CLOEXEC | (FSPICK_EMPTY_PATH if not path else 0)
    return syscall("fspick", dirfd, c_string(path), flags, target=_at(dirfd, path))


def fsconfig_string(fd: int, key: str, value: Path) -> None:
    """Set option ``key`` to ``value``."""
    shown = f"{key}={os.fsdecode(value)}"
    _fsconfig(fd, _FSCONFIG_SET_STRING, c_string(key), c_string(value), 0, shown=shown)


def fsconfig_flag(fd: int, key: str) -> None:
    """Set the option ``key`` that takes no value."""
    _fsconfig(fd, _FSCONFIG_SET_FLAG, c_string(key), None, 0, shown=key)


def fsconfig_fd(fd: int, key: str, value: int) -> None:
    """Set option ``key`` to descriptor ``value`` (what takes descriptors depends on the kernel)."""
    _fsconfig(fd, _FSCONFIG_SET_FD, c_string(key), None, value, shown=f"{key}=<fd {value}>")


def fsconfig_create(fd: int) -> None:
    """Make the file system's superblock from what was configured."""
    _fsconfig(fd, _FSCONFIG_CMD_CREATE, None, None, 0, shown="create")


def fsconfig_reconfigure(fd: int) -> None:
    """Apply what was configured to the file system ``fspick`` found."""
    _fsconfig(fd, _FSCONFIG_CMD_RECONFIGURE, None, None, 0, shown="reconfigure")


def fsmount(fd: int, attributes: int = 0) -> int:
    """A detached mount of the created file system, with ``MOUNT_ATTR_*``; ``attach`` puts it up."""
    try:
        return syscall("fsmount", fd, _FSMOUNT_CLOEXEC, attributes)
    except KernelError as error:
        raise _with_log(error, fd) from None


def filesystem_magic(fd: int) -> int:
    """The type of the file system that holds ``fd``: ``f_type`` of statfs(2)."""
    result = buffer(120)
    syscall("fstatfs", fd, result, target=f"fd {fd}")
    magic: int = struct.unpack_from("l", result)[0]
    return magic & 0xFFFFFFFF


class MountInfo:
    """One line of proc_pid_mountinfo(5)."""

    __slots__ = (
        "fstype",
        "id",
        "major",
        "master",
        "minor",
        "mount_point",
        "options",
        "parent",
        "propagate_from",
        "root",
        "shared",
        "source",
        "super_options",
        "unbindable",
    )

    id: int
    parent: int
    major: int
    minor: int
    root: str
    mount_point: str
    options: tuple[str, ...]
    shared: int | None
    master: int | None
    propagate_from: int | None
    unbindable: bool
    fstype: str
    source: str
    super_options: tuple[str, ...]

    def __init__(self, line: str) -> None:
        fields = line.split(" ")
        # The optional fields end with a lone hyphen; a mount point cannot be one: it has a slash.
        end = fields.index("-", 6)
        self.id, self.parent = int(fields[0]), int(fields[1])
        major, _, minor = fields[2].partition(":")
        self.major, self.minor = int(major), int(minor)
        self.root, self.mount_point = _unescape(fields[3]), _unescape(fields[4])
        self.options = tuple(fields[5].split(","))
        tags = dict(field.partition(":")[::2] for field in fields[6:end])
        self.shared = int(tags["shared"]) if "shared" in tags else None
        self.master = int(tags["master"]) if "master" in tags else None
        self.propagate_from = int(tags["propagate_from"]) if "propagate_from" in tags else None
        self.unbindable = "unbindable" in tags
        self.fstype, self.source = _unescape(fields[end + 1]), _unescape(fields[end + 2])
        self.super_options = tuple(_unescape(" ".join(fields[end + 3 :])).split(","))

    def __repr__(self) -> str:
        return f"<{self.fstype} on {self.mount_point} ({self.propagation})>"

    @property
    def propagation(self) -> str:
        """``shared``, ``slave``, ``shared,slave``, ``unbindable`` or ``private``."""
        if self.unbindable:
            return "unbindable"
        kinds = (("shared", self.shared), ("slave", self.master))
        return ",".join(name for name, group in kinds if group is not None) or "private"


def mountinfo(text: str | None = None) -> list[MountInfo]:
    """The mounts of this process's namespace that its root can reach, in the kernel's order."""
    if text is None:
        with open("/proc/thread-self/mountinfo", "rb") as file:
            text = os.fsdecode(file.read())
    return [MountInfo(line) for line in text.split("\n") if line]


def _unescape(field: str) -> str:
    if "\\" not in field:
        return field
    raw = os.fsencode(field)
    parts = raw.split(b"\\")
    plain = bytearray(parts[0])
    for part in parts[1:]:
        digits = part[:3]
        if len(digits) == 3 and all(0x30 <= digit <= 0x37 for digit in digits):
            plain.append(int(digits, 8) & 0xFF)
            plain += part[3:]
        else:
            plain += b"\\" + part
    return os.fsdecode(bytes(plain))


def _fsconfig(
    fd: int,
    command: int,
    key: bytes | None,
    value: bytes | None,
    auxiliary: int,
    *,
    shown: str,
) -> None:
    try:
        syscall("fsconfig", fd, command, key, value, auxiliary, target=shown)
    except KernelError as error:
        raise _with_log(error, fd) from None


def _with_log(error: KernelError, fd: int) -> KernelError:
    """The same error with the context's log lines: a read(2) gives one, ENODATA after the last."""
    lines = []
    while True:
        try:
            line = os.read(fd, 4096)
        except OSError:
            break
        lines.append(line.decode(errors="replace").strip().partition(" ")[2])
    if not lines:
        return error
    said = "; ".join(lines)
    return KernelError(error.call, error.errno or 0, f"{error.target} [{said}]".lstrip())


def _at(dirfd: int, path: Path) -> str:
    shown = os.fsdecode(path)
    if dirfd == AT_FDCWD or shown.startswith("/"):
        return shown
    return f"fd {dirfd}" + (f" {shown}" if shown else "")


def _operation(flags: int) -> str:
    for flag, name in (
        (MS_REMOUNT, "remount"),
        (MS_BIND, "bind"),
        (MS_MOVE, "move"),
        (MS_SHARED, "shared"),
        (MS_SLAVE, "slave"),
        (MS_PRIVATE, "private"),
        (MS_UNBINDABLE, "unbindable"),
    ):
        if flags & flag:
            return name
    return "no type"
