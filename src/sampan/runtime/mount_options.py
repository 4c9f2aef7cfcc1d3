"""The options of a ``mounts`` entry, sorted into what the kernel's calls take.

After the runtime specification ("Linux mount options"), mount(8), mount(2), mount_setattr(2). One
list of words mixes five things: attributes of the mount (``nosuid``), flags of the superblock
(``sync``), propagation (``rslave``), attributes for a whole tree (``rro``), and the file system's
own data (``size=64k``), which is every word nobody else claims. A later word wins over an earlier
one about the same attribute.

``tmpcopyup`` is runc's: a fresh tmpfs is first filled with what the root file system has at the
destination. One word is ours: ``subpath=PATH`` on a bind or overlay mount, to mount what is at
PATH inside the source, resolved by the kernel below it: no link there leads out.
"""

from __future__ import annotations

from sampan.errors import InvalidArgument
from sampan.kernel import mounts as km

__all__ = ["NAMES", "MountOptions", "parse"]

# word: (MOUNT_ATTR_* to set, MOUNT_ATTR_* to clear). Of the time modes only one can hold, so each
# of their words clears them all; relatime is the mode with no bit, the kernel's default.
_TIME = km.MOUNT_ATTR__ATIME
_ATTRIBUTES: dict[str, tuple[int, int]] = {
    "ro": (km.MOUNT_ATTR_RDONLY, 0),
    "rw": (0, km.MOUNT_ATTR_RDONLY),
    "nosuid": (km.MOUNT_ATTR_NOSUID, 0),
    "suid": (0, km.MOUNT_ATTR_NOSUID),
    "nodev": (km.MOUNT_ATTR_NODEV, 0),
    "dev": (0, km.MOUNT_ATTR_NODEV),
    "noexec": (km.MOUNT_ATTR_NOEXEC, 0),
    "exec": (0, km.MOUNT_ATTR_NOEXEC),
    "nodiratime": (km.MOUNT_ATTR_NODIRATIME, 0),
    "diratime": (0, km.MOUNT_ATTR_NODIRATIME),
    "nosymfollow": (km.MOUNT_ATTR_NOSYMFOLLOW, 0),
    "symfollow": (0, km.MOUNT_ATTR_NOSYMFOLLOW),
    "relatime": (0, _TIME),
    "norelatime": (0, _TIME),
    "noatime": (km.MOUNT_ATTR_NOATIME, _TIME),
    "atime": (0, _TIME),
    "strictatime": (km.MOUNT_ATTR_STRICTATIME, _TIME),
    "nostrictatime": (0, _TIME),
}
_RECURSIVE: dict[str, tuple[int, int]] = {f"r{word}": bits for word, bits in _ATTRIBUTES.items()}

# Superblock flags: word -> (mount(2) flag, wanted). fsconfig(2) knows them by the same words, but
# for those in _OLD_CALL_ONLY, which need mount(2).
_SUPERBLOCK: dict[str, tuple[int, bool]] = {
    "sync": (km.MS_SYNCHRONOUS, True),
    "async": (km.MS_SYNCHRONOUS, False),
    "dirsync": (km.MS_DIRSYNC, True),
    "lazytime": (km.MS_LAZYTIME, True),
    "nolazytime": (km.MS_LAZYTIME, False),
    "mand": (km.MS_MANDLOCK, True),
    "nomand": (km.MS_MANDLOCK, False),
    "iversion": (km.MS_I_VERSION, True),
    "noiversion": (km.MS_I_VERSION, False),
    "silent": (km.MS_SILENT, True),
    "loud": (km.MS_SILENT, False),
}
_OLD_CALL_ONLY = km.MS_I_VERSION | km.MS_SILENT

_PROPAGATION: dict[str, tuple[int, bool]] = {
    "shared": (km.MS_SHARED, False),
    "rshared": (km.MS_SHARED, True),
    "slave": (km.MS_SLAVE, False),
    "rslave": (km.MS_SLAVE, True),
    "private": (km.MS_PRIVATE, False),
    "rprivate": (km.MS_PRIVATE, True),
    "unbindable": (km.MS_UNBINDABLE, False),
    "runbindable": (km.MS_UNBINDABLE, True),
}

_WORDS = ("bind", "defaults", "idmap", "rbind", "remount", "ridmap", "tmpcopyup")

NAMES: tuple[str, ...] = tuple(
    sorted({*_ATTRIBUTES, *_RECURSIVE, *_SUPERBLOCK, *_PROPAGATION, *_WORDS})
)
"""Every word with a meaning here, sorted: ``mountOptions`` of the features document."""

# Attributes of a mount and the flags of mount(2) that say the same.
_OLD_FLAGS = (
    (km.MOUNT_ATTR_RDONLY, km.MS_RDONLY),
    (km.MOUNT_ATTR_NOSUID, km.MS_NOSUID),
    (km.MOUNT_ATTR_NODEV, km.MS_NODEV),
    (km.MOUNT_ATTR_NOEXEC, km.MS_NOEXEC),
    (km.MOUNT_ATTR_NODIRATIME, km.MS_NODIRATIME),
    (km.MOUNT_ATTR_NOSYMFOLLOW, km.MS_NOSYMFOLLOW),
    (km.MOUNT_ATTR_NOATIME, km.MS_NOATIME),
    (km.MOUNT_ATTR_STRICTATIME, km.MS_STRICTATIME),
)


class MountOptions:
    """Options sorted by kind; see ``parse``. ``MOUNT_ATTR_*`` bits unless said otherwise."""

    __slots__ = (
        "bind",
        "clear",
        "copyup",
        "data",
        "idmap",
        "old_clear",
        "old_set",
        "propagation",
        "recursive",
        "recursive_clear",
        "recursive_set",
        "remount",
        "set",
        "subpath",
        "superblock",
    )

    def __init__(self) -> None:
        self.bind = False
        self.recursive = False  # the bind takes what is mounted below it along
        self.remount = False
        self.set = self.clear = 0
        self.recursive_set = self.recursive_clear = 0
        self.superblock: list[str] = []  # words fsconfig(2) takes as flags
        self.old_set = self.old_clear = 0  # superblock flags as MS_*
        self.propagation: list[tuple[int, bool]] = []  # (MS_SHARED ..., the whole tree), in order
        self.data: list[str] = []
        self.idmap = ""  # "", "idmap" or "ridmap"
        self.copyup = False  # tmpcopyup
        self.subpath = ""

    @property
    def wants_old_call(self) -> bool:
        """A flag was given that only mount(2) can set."""
        return bool(self.old_set & _OLD_CALL_ONLY)

    def old_flags(self, current: int = 0) -> int:
        """``MS_*`` flags for mount(2): ``current`` ones, changed by these options."""
        flags = current
        if self.clear & _TIME:
            flags &= ~(km.MS_NOATIME | km.MS_STRICTATIME | km.MS_RELATIME)
        for attribute, old in _OLD_FLAGS:
            if self.clear & attribute and not attribute & _TIME:
                flags &= ~old
            if self._sets(attribute):
                flags |= old
        return flags & ~self.old_clear | self.old_set

    def _sets(self, attribute: int) -> bool:
        if attribute & _TIME:
            return self.set & _TIME == attribute
        return bool(self.set & attribute)


def parse(words: tuple[str, ...], fstype: str | None, where: str) -> MountOptions:
    """Sort ``words``; ``where`` (the mount's destination) is named in errors.

    ``InvalidArgument``: data, copy-up or a subpath where it has no meaning, contradictions.
    """
    result = MountOptions()
    for word in words:
        if word in _ATTRIBUTES:
            on, off = _ATTRIBUTES[word]
            result.set = result.set & ~(off | on) | on
            result.clear = result.clear & ~on | off
        elif word in _PROPAGATION:
            result.propagation.append(_PROPAGATION[word])
        elif word in _RECURSIVE:
            on, off = _RECURSIVE[word]
            result.recursive_set = result.recursive_set & ~(off | on) | on
            result.recursive_clear = result.recursive_clear & ~on | off
        elif word in _SUPERBLOCK:
            flag, wanted = _SUPERBLOCK[word]
            result.old_set = result.old_set | flag if wanted else result.old_set & ~flag
            result.old_clear = result.old_clear & ~flag if wanted else result.old_clear | flag
            if not flag & _OLD_CALL_ONLY:
                result.superblock.append(word)
        elif word in ("bind", "rbind"):
            result.bind = True
            result.recursive = result.recursive or word == "rbind"
        elif word == "remount":
            result.remount = True
        elif word in ("idmap", "ridmap"):
            result.idmap = word
        elif word == "tmpcopyup":
            result.copyup = True
        elif word.startswith("subpath="):
            result.subpath = word.removeprefix("subpath=")
        elif word and word != "defaults":
            result.data.append(word)
    result.bind = result.bind or fstype in ("bind", "rbind")
    result.recursive = result.recursive or fstype == "rbind"
    if result.bind and result.data:
        raise InvalidArgument(
            f"mount {where}: option {result.data[0]!r} is data for a file system, "
            "which a bind mount does not take"
        )
    if result.idmap and not result.bind:
        raise InvalidArgument(f"mount {where}: {result.idmap} is for bind mounts only")
    if result.copyup and (result.bind or fstype != "tmpfs"):
        raise InvalidArgument(f"mount {where}: tmpcopyup is for tmpfs mounts only")
    if result.subpath and not (result.bind or fstype == "overlay"):
        raise InvalidArgument(f"mount {where}: subpath is for bind and overlay mounts only")
    return result
