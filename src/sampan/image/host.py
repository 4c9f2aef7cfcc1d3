"""The ``host`` image: this machine's own system directories, copy-on-write, with no download.

Its root is a *skeleton*: a small layer made when it is first asked for, and again when the
machine's ``/etc`` changed. It holds the usual empty directories and an allow-listed copy of
``/etc``; over it each system directory (``/usr``, and ``/bin``, ``/sbin``, ``/lib*`` where they are
no links into ``/usr``) is laid as an overlay of its own, whose upper directory is the container's.
So writes never reach the machine, and what is not named here cannot appear: ``/root``, ``/home``,
``/var``, ``/srv`` or a new top-level directory are no part of any lower. The packages' database is
a system directory too, so that dpkg, apt and rpm know what is there.

Of ``/etc`` only what everybody may read is copied, and of that nothing that holds a secret by its
name or by its content (``secret_name``, ``_SECRET_CONTENT``). That is care, not a boundary: what an
administrator left readable under ``/usr/local`` is in the container as it is for every local user,
and files below ``/usr`` that only root may read are readable to the container's root.
"""

from __future__ import annotations

import os
import re
import stat
import threading
from errno import EINVAL, ELOOP, ENOENT, ENOTDIR
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from sampan.image.types import Image, timestamp, to_seconds
from sampan.oci import digest as digests
from sampan.oci import image as oci
from sampan.oci import platform as platforms

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from sampan.oci.reference import Reference
    from sampan.storage.drivers.base import SnapshotDriver
    from sampan.storage.layers import LayerStore

__all__ = ["HostImage", "Machine", "describe", "digest", "fill", "is_host", "secret_name"]

NAME = "host:latest"
_PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_LINKED = ("bin", "sbin", "lib", "lib32", "lib64", "libx32")
_PACKAGES = ("var/lib/dpkg", "var/lib/rpm")
_SIZE_LIMIT = 16 << 20
_CHANGED = (ENOENT, ENOTDIR, ELOOP, EINVAL)
"""What calls for a path say when it is not any more, or is something else, than it was."""

_DIRECTORIES = (
    ("boot", 0o755),
    ("dev", 0o755),
    ("etc", 0o755),
    ("home", 0o755),
    ("media", 0o755),
    ("mnt", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("run/lock", 0o1777),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr", 0o755),
    ("var", 0o755),
    ("var/cache", 0o755),
    ("var/cache/apt", 0o755),
    ("var/cache/apt/archives", 0o755),
    ("var/cache/apt/archives/partial", 0o755),
    ("var/lib", 0o755),
    ("var/lib/apt", 0o755),
    ("var/lib/apt/lists", 0o755),
    ("var/lib/apt/lists/partial", 0o755),
    ("var/log", 0o755),
    ("var/spool", 0o755),
    ("var/tmp", 0o1777),
)
_LINKS = (("var/run", "/run"), ("var/lock", "/run/lock"), ("etc/mtab", "/proc/mounts"))
# The engine mounts its own over these; they must be plain files, whatever they are here.
_PLAIN = ("etc/hostname", "etc/hosts", "etc/resolv.conf")

# Paths below /etc, as shell patterns in which "*" does not match a slash; a directory's pattern
# keeps out all below it.
_SECRETS = (
    "*.jks",
    "*.kdbx",
    "*.key",
    "*.keytab",
    "*.p12",
    "*.pfx",
    "*.psk",
    ".git-credentials",
    ".netrc",
    ".pgpass",
    "NetworkManager",
    "ansible",
    "apt/auth.conf*",
    "aws",
    "azure",
    "boto.cfg",
    "chef",
    "cloud",
    "cni",
    "containerd",
    "containers",
    "credstore*",
    "crypttab",
    "cups",
    "davfs2",
    "docker",
    "fstab",
    "group-",
    "gshadow*",
    "ipsec.d",
    "ipsec.secrets",
    "iscsi",
    "krb5.keytab",
    "kubernetes",
    "ldap.secret",
    "letsencrypt",
    "libvirt",
    "machine-id",
    "munge",
    "netplan",
    "npmrc",
    "openvpn",
    "passwd-",
    "pki/*/private",
    "pki/private",
    "ppp",
    "puppet",
    "rancher",
    "s3cfg",
    "salt",
    "samba",
    "shadow*",
    "snmp",
    "ssh/ssh_host_*",
    "ssl/private",
    "subgid-",
    "subuid-",
    "sudoers",
    "sudoers.d",
    "vault*",
    "wireguard",
    "wpa_supplicant",
)
# A private key, or a password inside a URL.
_SECRET_CONTENT = re.compile(
    rb"-----BEGIN [A-Z0-9 ]*PRIVATE KEY|://[^/\s:@\"']+:[^/\s@\"']+@", re.IGNORECASE
)


def is_host(reference: Reference) -> bool:
    """Whether a name is the host image's."""
    return reference.familiar_name == "host" and reference.tag in (None, "latest")


def _matcher() -> Callable[[str], re.Match[str] | None]:
    anywhere: list[str] = []
    anchored: list[str] = []
    for pattern in _SECRETS:
        text = re.escape(pattern).replace(r"\*", "[^/]*")
        # A pattern of one component counts in every directory, as keys are put anywhere.
        (anchored if "/" in pattern else anywhere).append(text)
    return re.compile(rf"(?:(?:.*/)?(?:{'|'.join(anywhere)})|{'|'.join(anchored)})(?:/|$)").match


_is_secret = _matcher()


def secret_name(path: str) -> bool:
    """Whether a path below ``/etc`` (``ssh/ssh_host_rsa_key``) is kept out by its name."""
    return _is_secret(path) is not None


class Entry(NamedTuple):
    """One file of the skeleton: its path, its mode with type, owner, and bytes or link target."""

    path: str
    mode: int
    uid: int
    gid: int
    mtime: int
    content: bytes


class Machine:
    """What of a machine goes into the skeleton; ``root`` is "/" but in tests."""

    def __init__(self, root: str = "/") -> None:
        self.root = root.rstrip("/")

    def system(self) -> tuple[str, ...]:
        """Directories to be laid over the skeleton, as paths in the container."""
        found = ["/usr"]
        found += [f"/{name}" for name in _LINKED if self._is_plain_directory(name)]
        found += [f"/{name}" for name in _PACKAGES if self._is_plain_directory(name)]
        return tuple(found)

    def entries(self) -> list[Entry]:
        """The skeleton, directories before what is in them."""
        made = [Entry(path, stat.S_IFDIR | mode, 0, 0, 0, b"") for path, mode in _DIRECTORIES]
        made += [self._link(path, target) for path, target in _LINKS]
        for name in _LINKED:
            path = f"{self.root}/{name}"
            if os.path.islink(path):
                made.append(self._link(name, os.readlink(path)))
        known = {entry.path for entry in made}
        for place in (path[1:] for path in self.system()):
            if place not in known:
                made.append(Entry(place, stat.S_IFDIR | 0o755, 0, 0, 0, b""))
        made += [Entry(path, stat.S_IFREG | 0o644, 0, 0, 0, b"") for path in _PLAIN]
        made += self._etc("")
        return made

    def signature(self) -> tuple[int, ...]:
        """Changes when /etc probably did: cheap enough for every use."""
        marks = []
        for name in ("etc", "etc/passwd", "etc/group", "etc/ld.so.cache", "etc/nsswitch.conf"):
            try:
                marks.append(os.stat(f"{self.root}/{name}").st_ctime_ns)
            except FileNotFoundError:
                marks.append(0)
        return tuple(marks)

    def shell(self) -> str:
        return "bash" if os.path.exists(f"{self.root}/usr/bin/bash") else "sh"

    def _link(self, path: str, target: str) -> Entry:
        return Entry(path, stat.S_IFLNK | 0o777, 0, 0, 0, os.fsencode(target))

    def _is_plain_directory(self, name: str) -> bool:
        try:
            status = os.lstat(f"{self.root}/{name}")
        except FileNotFoundError:
            return False
        return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_IXOTH)

    def _etc(self, below: str) -> Iterator[Entry]:
        with os.scandir(f"{self.root}/etc/{below}") as found:
            names = sorted(entry.name for entry in found)
        for name in names:
            path = f"{below}/{name}" if below else name
            place = f"etc/{path}"
            if place in _PLAIN or place in dict(_LINKS) or secret_name(path):
                continue
            try:
                yield from self._entry(place, path)
            except OSError as error:
                # A package is being installed. What a file has become is seen at the next look,
                # which the change of its directory asks for.
                if error.errno not in _CHANGED:
                    raise

    def _entry(self, place: str, path: str) -> Iterator[Entry]:
        status = os.lstat(f"{self.root}/{place}")
        owner = (status.st_uid, status.st_gid, status.st_mtime_ns)
        if stat.S_ISLNK(status.st_mode):
            target = os.readlink(f"{self.root}/{place}")
            yield Entry(place, status.st_mode, *owner, os.fsencode(target))
        elif stat.S_ISDIR(status.st_mode):
            if status.st_mode & 0o005 == 0o005:
                yield Entry(place, status.st_mode, *owner, b"")
                yield from self._etc(path)
        elif stat.S_ISREG(status.st_mode) and status.st_mode & stat.S_IROTH:
            content = self._content(place)
            if content is not None:
                yield Entry(place, status.st_mode, *owner, content)

    def _content(self, place: str) -> bytes | None:
        # What holds is what the file is now, not what lstat saw: it may be a directory, or a pipe.
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        fd = os.open(f"{self.root}/{place}", flags)
        try:
            if not stat.S_ISREG(os.fstat(fd).st_mode):
                return None
            with open(fd, "rb", closefd=False) as file:
                content = file.read(_SIZE_LIMIT + 1)
        finally:
            os.close(fd)
        if len(content) > _SIZE_LIMIT or _SECRET_CONTENT.search(content):
            return None
        return content


def digest(entries: list[Entry]) -> str:
    """The chain ID of a skeleton."""
    running = digests.new_hash()
    for entry in entries:
        head = f"{entry.mode:o} {entry.uid} {entry.gid} {len(entry.content)} "
        running.update(head.encode() + os.fsencode(entry.path) + b"\0" + entry.content)
    return f"sha256:{running.hexdigest()}"


def fill(fd: int, entries: list[Entry]) -> int:
    """Make the entries below a directory; the bytes of files."""
    size = 0
    for entry in entries:
        kind = stat.S_IFMT(entry.mode)
        if kind == stat.S_IFDIR:
            os.mkdir(entry.path, 0o700, dir_fd=fd)
        elif kind == stat.S_IFLNK:
            os.symlink(entry.content, os.fsencode(entry.path), dir_fd=fd)
        else:
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with open(os.open(entry.path, flags, 0o600, dir_fd=fd), "wb") as file:
                file.write(entry.content)
            size += len(entry.content)
        if entry.uid or entry.gid:
            os.chown(entry.path, entry.uid, entry.gid, dir_fd=fd, follow_symlinks=False)
        if kind != stat.S_IFLNK:
            os.chmod(entry.path, stat.S_IMODE(entry.mode), dir_fd=fd)
    for entry in reversed(entries):
        times = (entry.mtime, entry.mtime)
        os.utime(entry.path, ns=times, dir_fd=fd, follow_symlinks=False)
    return size


def describe(machine: Machine, entries: list[Entry], chain_id: str) -> Image:
    """The image that stands on a skeleton."""
    platform = platforms.machine()
    newest = timestamp(max(entry.mtime for entry in entries) / 1e9)
    document = oci.Image(
        architecture=platform.architecture,
        os=platform.os,
        variant=platform.variant,
        created=newest,
        config=oci.ImageConfig(env=(_PATH,), cmd=(machine.shell(),)),
        rootfs=oci.RootFS(diff_ids=(chain_id,)),
        history=(oci.History(created=newest, comment="this machine's system directories"),),
    )
    return Image(
        id=digests.of(msgspec.json.encode(document.to_json(), order="sorted")),
        document=document,
        chain=(chain_id,),
        references=(NAME,),
        size=sum(len(entry.content) for entry in entries if stat.S_ISREG(entry.mode)),
        created=to_seconds(newest),
        system=machine.system(),
    )


class HostImage:
    """The image, and its skeleton among the driver's layers."""

    def __init__(
        self, driver: SnapshotDriver, layers: LayerStore, machine: Machine | None = None
    ) -> None:
        self._driver = driver
        self._layers = layers
        self._machine = machine or Machine()
        self._lock = threading.Lock()
        self._image: Image | None = None
        self._signature: tuple[int, ...] = ()

    def known(self) -> Image | None:
        """The image if it was asked for before: an ID of it can only come from there."""
        return self._image

    def image(self) -> Image:
        """The image as the machine is now; its skeleton is a layer of the driver."""
        with self._lock:
            signature = self._machine.signature()
            if self._image is None or signature != self._signature:
                image = self._make()
                if self._image is not None:
                    self._layers.release(self._image.chain)
                self._image, self._signature = image, signature
                # Skeletons of what the machine was before, but for those containers stand on.
                self._layers.collect(adopted=True)
            return self._image

    def _make(self) -> Image:
        entries = self._machine.entries()
        chain_id = digest(entries)
        # Pinned until the machine changes; containers hold it by standing on it.
        self._layers.pin(chain_id)
        try:
            if not self._driver.has_layer(chain_id):
                self._unpack(chain_id, entries)
        except BaseException:
            self._layers.release((chain_id,))
            raise
        return describe(self._machine, entries, chain_id)

    def _unpack(self, chain_id: str, entries: list[Entry]) -> None:
        staging = self._driver.prepare_layer(chain_id, None)
        try:
            size = fill(staging.fd, entries)
        except BaseException:
            self._driver.discard_layer(staging)
            raise
        self._layers.adopt(staging, chain_id, size)
