"""The default seccomp profile: what a container may ask of the kernel when nobody says otherwise.

Default deny with EPERM (ENOSYS for calls newer than the profile: see the compiler), calls grouped
by what they are for, and groups opened by the capability that makes them meaningful. The set of
allowed calls agrees with Docker's default profile (moby/profiles), so that what runs there runs
here. Of the address families ``socket`` refuses AF_ALG (38) and AF_VSOCK (40): the first reaches
kernel crypto code (CVE-2026-31431), the second the hypervisor; the answer is EAFNOSUPPORT, on
which programs fall back. 32-bit programs can still reach
them through ``socketcall``, whose arguments no filter can see.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from sampan.oci.runtime import Seccomp, SyscallArg, SyscallRule

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["default_seccomp"]

_FILES = """
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3
    faccessat faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown
    fchown32 fchownat fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64
    fsync ftruncate ftruncate64 futimesat getcwd getdents getdents64 ioctl lchown lchown32 link
    linkat _llseek lseek lstat lstat64 mkdir mkdirat mknod mknodat name_to_handle_at newfstatat
    open openat openat2 pipe pipe2 pread64 preadv preadv2 pwrite64 pwritev pwritev2 read
    readahead readlink readlinkat readv rename renameat renameat2 rmdir sendfile sendfile64
    splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range syncfs tee
    truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice
    write writev listmount statmount
"""
_ATTRIBUTES = """
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr
    listxattrat llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat
"""
_WAITING = """
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait
    epoll_wait_old eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1
    inotify_rm_watch _newselect pause poll ppoll ppoll_time64 pselect6 pselect6_time64 select
    io_cancel io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit
"""
_MEMORY = """
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock
    mlock2 mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc
    pkey_free pkey_mprotect remap_file_pages
"""
_PROCESSES = """
    capget capset execve execveat exit exit_group fork getcpu getpgid getpgrp getpid getppid
    getpriority getrlimit getrusage getsid gettid get_robust_list get_thread_area ioprio_get
    ioprio_set landlock_add_rule landlock_create_ruleset landlock_restrict_self pidfd_open
    pidfd_send_signal prctl prlimit64 process_mrelease restart_syscall riscv_hwprobe rseq
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity
    sched_setattr sched_setparam sched_setscheduler sched_yield seccomp setpgid setpriority
    setrlimit setsid set_robust_list set_thread_area set_tid_address sysinfo ugetrlimit uname
    uretprobe vfork wait4 waitid waitpid
"""
_IDENTITY = """
    getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid
    getresgid32 getresuid getresuid32 getuid getuid32 setfsgid setfsgid32 setfsuid setfsuid32
    setgid setgid32 setgroups setgroups32 setregid setregid32 setresgid setresgid32 setresuid
    setresuid32 setreuid setreuid32 setuid setuid32
"""
_SIGNALS = """
    kill rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend
    rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack signalfd signalfd4
    sigprocmask sigreturn tgkill tkill
"""
_TIME = """
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep
    setitimer time timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64
    timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
    timerfd_settime timerfd_settime64 times
"""
_LOCKS = """
    futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake
"""
_IPC = """
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop
    semtimedop_time64 shmat shmctl shmdt shmget
"""
_SOCKETS = """
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall
    socketpair
"""
_RANDOM = "getrandom"

# ptrace could get round a filter before Linux 4.8; from there on it is as safe as the rest.
_TRACING_SINCE_4_8 = "process_vm_readv process_vm_writev ptrace"

_MACHINE = {
    "x86_64": "arch_prctl modify_ldt",
    "aarch64": """
        arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls
    """,
}
_ARCHITECTURES = {
    "x86_64": ("SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"),
    "aarch64": ("SCMP_ARCH_AARCH64", "SCMP_ARCH_ARM"),
}

_BY_CAPABILITY = {
    "CAP_BPF": "bpf",
    "CAP_DAC_READ_SEARCH": "open_by_handle_at",
    "CAP_PERFMON": "perf_event_open",
    "CAP_SYSLOG": "syslog",
    "CAP_SYS_ADMIN": """
        bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie
        lsm_get_self_attr lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount
        open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog
        umount umount2 unshare
    """,
    "CAP_SYS_BOOT": "reboot",
    "CAP_SYS_CHROOT": "chroot",
    "CAP_SYS_MODULE": "delete_module finit_module init_module",
    "CAP_SYS_NICE": "get_mempolicy mbind set_mempolicy set_mempolicy_home_node",
    "CAP_SYS_PACCT": "acct",
    "CAP_SYS_PTRACE": """
        kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace
    """,
    "CAP_SYS_RAWIO": "ioperm iopl",
    "CAP_SYS_TIME": "clock_settime clock_settime64 settimeofday stime",
    "CAP_SYS_TTY_CONFIG": "vhangup",
}

_AF_ALG = 38
_AF_VSOCK = 40
# PER_LINUX, PER_LINUX32, each also with UNAME26, and the query (personality(2))
_PERSONALITIES = (0x0, 0x8, 0x20000, 0x20008, 0xFFFFFFFF)
# CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}: a thread or a child, but no new namespace
_NEW_NAMESPACES = 0x7E020000
_ENOSYS = 38
_EAFNOSUPPORT = 97


def default_seccomp(capabilities: Iterable[str], machine: str = "") -> Seccomp:
    """The profile for a container with these capabilities (bounding set, ``CAP_`` names).

    ``machine`` is uname's, this one by default.
    """
    held = frozenset(capabilities)
    machine = machine or os.uname().machine
    groups = [
        _FILES,
        _ATTRIBUTES,
        _WAITING,
        _MEMORY,
        _PROCESSES,
        _IDENTITY,
        _SIGNALS,
        _TIME,
        _LOCKS,
        _IPC,
        _SOCKETS,
        _RANDOM,
        _MACHINE.get(machine, ""),
        *(calls for name, calls in _BY_CAPABILITY.items() if name in held),
    ]
    if _kernel() >= (4, 8):
        groups.append(_TRACING_SINCE_4_8)
    names = tuple(sorted({name for group in groups for name in group.split()}))
    rules = [
        _allow(names),
        _refuse_family(_AF_ALG),
        _refuse_family(_AF_VSOCK),
        _allow(("socket",), SyscallArg(index=0, value=0, op="SCMP_CMP_GE")),
        *(
            _allow(("personality",), SyscallArg(index=0, value=value, op="SCMP_CMP_EQ"))
            for value in _PERSONALITIES
        ),
    ]
    if "CAP_SYS_ADMIN" not in held:
        no_namespace = SyscallArg(
            index=0, value=_NEW_NAMESPACES, value_two=0, op="SCMP_CMP_MASKED_EQ"
        )
        rules += [
            _allow(("clone",), no_namespace),
            # clone3's flags lie in memory, where no filter sees them: C libraries fall back.
            SyscallRule(names=("clone3",), action="SCMP_ACT_ERRNO", errno_ret=_ENOSYS),
        ]
    return Seccomp(
        default_action="SCMP_ACT_ERRNO",
        default_errno_ret=1,
        architectures=_ARCHITECTURES.get(machine, ()),
        syscalls=tuple(rules),
    )


def _refuse_family(family: int) -> SyscallRule:
    # By mask: a comparison of all 64 bits would let 1<<32|family through, which socket(2), whose
    # parameter is an int, takes for the family.
    low_word = SyscallArg(index=0, value=0xFFFFFFFF, value_two=family, op="SCMP_CMP_MASKED_EQ")
    return SyscallRule(
        names=("socket",), action="SCMP_ACT_ERRNO", errno_ret=_EAFNOSUPPORT, args=(low_word,)
    )


def _allow(names: tuple[str, ...], *arguments: SyscallArg) -> SyscallRule:
    return SyscallRule(names=names, action="SCMP_ACT_ALLOW", args=arguments)


def _kernel() -> tuple[int, int]:
    major, minor = os.uname().release.split(".")[:2]
    return int(major), int("".join(c for c in minor if c.isdigit()) or 0)
