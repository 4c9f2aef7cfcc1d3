"""``python -m sampan.storage.unpacking FD``: a child for each layer, until the socket closes.

The server has no threads, so that forking it is safe, and has loaded what a layer may need. It has
given up what unpacking does not take: most capabilities (CAP_DAC_READ_SEARCH too, which opens files
by handle: "shocker"), new privileges, memory beyond the largest window of a decompressor, and the
system calls that make more of CAP_SYS_ADMIN than attributes. A child ends at once when its asker
is gone: a few bytes may unpack to hours of zeros.
"""

from __future__ import annotations

import gc
import os
import resource
import select
import signal
import socket
import sys
import threading
import time

from sampan.errors import SampanError
from sampan.kernel import capabilities, seccomp
from sampan.kernel.processes import (
    close_range,
    set_no_new_privileges,
    set_parent_death_signal,
    set_process_name,
)
from sampan.oci.runtime import Seccomp, SyscallRule
from sampan.storage.archive import compression
from sampan.storage.archive.apply import apply_layer
from sampan.storage.unpacking import messages

__all__ = ["main"]

MEMORY = 768 << 20
"""Bytes of RLIMIT_DATA: a zstd window has 128 MiB at most, an xz dictionary 256."""
_TELL_SECONDS = 0.05
_KEPT = """CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_MKNOD CAP_SETFCAP
CAP_SYS_ADMIN""".split()
"""Owners, modes, devices, file capabilities; trusted.* attributes, which overlayfs uses, are
CAP_SYS_ADMIN's."""
_REFUSED = """add_key bpf chroot connect delete_module execve execveat fanotify_init finit_module
fsconfig fsmount fsopen fspick init_module io_uring_setup kexec_file_load kexec_load keyctl mount
mount_setattr move_mount name_to_handle_at open_by_handle_at open_tree perf_event_open
pidfd_getfd pivot_root process_vm_readv process_vm_writev ptrace quotactl quotactl_fd reboot
request_key setdomainname sethostname setns socket swapoff swapon umount2 unshare
userfaultfd""".split()
"""What CAP_SYS_ADMIN, or an owner of 0, would otherwise reach from here."""


def main(argv: list[str]) -> int:
    """Serve until the asker is gone."""
    close_range(int(argv[0]) + 1)  # what the daemon's own starter forgot is nothing for us
    set_process_name("sampan-unpack")
    # No parent-death signal for us: it is sent when the *thread* ends that started us. The socket's
    # end says that the asker is gone.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # children are reaped by the kernel
    compression.preload()
    _give_up()
    gc.collect()
    gc.freeze()
    control = socket.socket(fileno=int(argv[0]))
    while True:
        data, fds, _, _ = socket.recv_fds(control, 16, 2)
        if not data:
            return 0
        try:
            pid = os.fork()
        except OSError as error:
            # Only this one fails: its asker sees that nobody has its socket.
            sys.stderr.write(f"sampan-unpack: fork: {error.strerror}\n")
            pid = -1
        if pid == 0:
            control.close()
            status = 1
            try:
                status = _child(fds[0])
            except BaseException as error:  # noqa: BLE001 - told, in a process that ends here
                sys.excepthook(type(error), error, error.__traceback__)
            finally:
                os._exit(status)
        for fd in fds:
            os.close(fd)


def _give_up() -> None:
    set_no_new_privileges()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
    had = capabilities.get()
    kept = had.permitted & {capabilities.number(name) for name in _KEPT}
    bounding = kept if capabilities.CAP_SETPCAP in had.permitted else had.bounding
    capabilities.apply(capabilities.Caps(effective=kept, permitted=kept, bounding=bounding))
    rule = SyscallRule(names=tuple(_REFUSED), action="SCMP_ACT_ERRNO")
    rules = Seccomp(default_action="SCMP_ACT_ALLOW", syscalls=(rule,))
    seccomp.load(seccomp.compiled(rules))


def _follow(sock: socket.socket) -> None:
    """End with the asker, whatever we are at."""
    watched = select.poll()
    watched.register(sock, select.POLLRDHUP)
    watched.poll()
    os._exit(1)


def _child(fd: int) -> int:
    """Unpack one layer. Whatever else came with ``fd`` stays open until our end, which it tells."""
    set_parent_death_signal(signal.SIGKILL)
    with socket.socket(fileno=fd) as sock:
        threading.Thread(target=_follow, args=(sock,), daemon=True).start()
        job, fds = _orders(sock)
        source = _Source(sock, fds[0], job)
        answer: messages.Done | messages.Failed
        try:
            applied = apply_layer(
                source,
                fds[1],
                style=job.style,
                diff_id=job.diff_id,
                lower=fds[2:],
                require_end=job.require_end,
                relative_names=job.relative_names,
                loose=job.loose,
            )
            answer = messages.Done(applied)
        except SampanError as error:
            answer = _failed(error)
        except OSError as error:
            answer = _failed(SampanError(f"{error.strerror or error}"))
        except MemoryError:
            answer = _failed(SampanError("the layer takes too much memory to unpack"))
        try:
            messages.send(sock, answer)
        except OSError:
            return 1  # nobody wants to know any more
        return 0


def _orders(sock: socket.socket) -> tuple[messages.Job, list[int]]:
    job: messages.Job | None = None
    fds: list[int] = []
    while True:
        data, more, _, _ = socket.recv_fds(sock, messages.LIMIT, messages.FDS)
        if not data:
            os._exit(1)
        order = messages.decode_order(data)
        fds += more
        if isinstance(order, messages.Job):
            job = order
        elif isinstance(order, messages.Go) and job is not None:
            return job, fds


def _failed(error: SampanError) -> messages.Failed:
    kind = next(one for one in type(error).__mro__ if one.__module__ == SampanError.__module__)
    return messages.Failed(kind.__name__, error.message)


class _Source:
    """The blob's bytes, as far as they are there; read by the thread that unpacks them."""

    def __init__(self, sock: socket.socket, fd: int, job: messages.Job) -> None:
        self._sock = sock
        self._fd = fd
        self._available = job.available
        self._final = job.final
        self._position = 0
        self._told = time.monotonic()

    def read(self, count: int, /) -> bytes:
        while not self._final and self._position >= self._available:
            self._ask()
        if not self._final:
            count = min(count, self._available - self._position)
        data = os.pread(self._fd, count, self._position)
        self._position += len(data)
        now = time.monotonic()
        if now - self._told >= _TELL_SECONDS:
            self._told = now
            self._tell(messages.Position(self._position))
        return data

    def _ask(self) -> None:
        self._tell(messages.Need(self._position))
        try:
            data = self._sock.recv(messages.LIMIT)
        except ConnectionResetError:
            data = b""  # the asker has gone, without having read where we are
        if not data:
            raise SampanError("cancelled")
        order = messages.decode_order(data)
        assert isinstance(order, messages.Available)
        self._available, self._final = order.offset, order.final

    def _tell(self, answer: messages.Need | messages.Position) -> None:
        try:
            messages.send(self._sock, answer)
        except OSError as error:
            raise SampanError("cancelled") from error
