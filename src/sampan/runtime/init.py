"""A container's init, from its first instruction in new namespaces to execve.

It runs in the child that ``launch.create`` cloned and never returns. The order is what users of
other runtimes observe: stdio, namespaces, keyring, network, root file system, hooks, terminal,
pivot, host name, labels, sysctls, read-only and masked paths; then ``process.Entry`` takes over.
No module is imported once it begins, the process is not dumpable
(CVE-2016-9962), and every error goes to the parent as a message.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, NoReturn

from sampan.errors import KernelError
from sampan.kernel import keyring, netlink
from sampan.kernel import namespaces as kernel
from sampan.kernel.paths import Procfs
from sampan.kernel.processes import set_dumpable, set_parent_death_signal
from sampan.runtime import gate, hooks, pid1, rootfs, sysctl
from sampan.runtime.namespaces import become_root
from sampan.runtime.process import (
    Entry,
    become_child,
    label,
    new_terminal,
    place_stdio,
    take_terminal,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from sampan.runtime.launch import Setup

__all__ = ["main"]


class _Init:
    """The child's view of one launch."""

    __slots__ = (
        "at_fifo",
        "channel",
        "entry",
        "fifos",
        "launch",
        "plan",
        "prepared",
        "site",
        "terminal",
    )

    def __init__(self, setup: Setup) -> None:
        launch, plan, prepared = setup.launch, setup.plan, setup.prepared
        process = launch.spec.process
        assert process is not None and plan is not None and prepared is not None
        self.launch = launch
        self.plan = plan
        self.site = setup.site
        self.terminal = setup.terminal
        self.prepared = prepared
        self.channel = setup.channel
        self.fifos = setup.fifos
        self.at_fifo = False
        self.entry = Entry(
            process,
            launch.spec.linux,
            setup.channel,
            is_init=True,
            in_user_namespace=plan.user or plan.joins_user,
            seccomp_filter=setup.seccomp_filter,
            death_signal=launch.death_signal,
            kept=launch.listen_fds + launch.preserve_fds,
        )

    def run(self) -> NoReturn:
        launch, spec, plan = self.launch, self.launch.spec, self.plan
        become_child()
        if not plan.user or os.geteuid() == 0:
            # newuidmap(1) refuses a target that is root's, as a process that is not dumpable is.
            set_dumpable(False)
        if launch.group is not None:
            launch.group.enter()
        place_stdio(launch.stdio, 3 + self.entry.kept)
        os.umask(0)
        if plan.staged:
            plan.stage(self.channel)
        else:
            plan.join()
        if launch.death_signal:
            set_parent_death_signal(launch.death_signal)
        os.setsid()
        if not plan.user:
            self._isolate()
        moved = self.channel.expect(b"g")
        if plan.user or plan.joins_user:
            become_root()
            set_dumpable(False)
        if plan.user:
            self._isolate()
        if moved:
            _dress_devices(moved)
        if plan.cgroup:
            kernel.unshare(kernel.CLONE_NEWCGROUP)
        procfs = Procfs()
        if self.site is None:
            root = rootfs.build(launch, self.prepared, procfs)
        else:
            root = rootfs.complete(self.site, launch, self.prepared, procfs)
        self._run_create_hooks()
        process = self.entry.process
        if process.terminal:
            self._attach_terminal(root)
        root.enter(launch.no_pivot)
        if spec.hostname is not None:
            kernel.set_hostname(spec.hostname)
        if spec.domainname is not None:
            kernel.set_domainname(spec.domainname)
        label(procfs, process)
        sysctl.apply(spec, procfs)
        self.entry.make_cwd()
        root.finish()
        keep = [*self.channel.kept]
        if self.fifos is not None:
            keep += [self.fifos.exec_fd, self.fifos.status_fd]
        self.entry.settle(keep)
        self._wait()
        if spec.hooks is not None and spec.hooks.start_container:
            state = hooks.state_json(spec, launch.id, launch.bundle, "created", os.getpid())
            environment = tuple(f"{key}={value}" for key, value in self.entry.environment.items())
            hooks.run("startContainer", spec.hooks.start_container, state, environment)
        if launch.init_process:
            pid1.split(self._execute)
        self.entry.execute()

    def report(self, error: BaseException | None) -> None:
        """Tell the parent, or the ``start`` that released us, why this process ends."""
        if error is None or isinstance(error, SystemExit):
            return
        body = gate.encode_error(error)
        if self.at_fifo and self.fifos is not None:
            os.write(self.fifos.status_fd, body)
        else:
            self.channel.send(b"E", body)

    def _execute(self) -> NoReturn:
        """The program's side of ``--init``: its failure is reported from here."""
        try:
            self.entry.execute()
        finally:
            self.report(sys.exc_info()[1])
            os._exit(127)

    def _isolate(self) -> None:
        if not self.launch.no_new_keyring:
            _join_keyring(self.launch.id)
        if self.plan.new & kernel.CLONE_NEWNET and self.site is None:
            netlink.set_loopback_up()

    def _run_create_hooks(self) -> None:
        launch = self.launch
        wanted = launch.spec.hooks
        if wanted is None:
            return
        if wanted.prestart or wanted.create_runtime:
            self.channel.send(b"H")
            self.channel.expect(b"h")
        if wanted.create_container:
            state = hooks.state_json(launch.spec, launch.id, launch.bundle, "creating", os.getpid())
            hooks.run("createContainer", wanted.create_container, state)

    def _attach_terminal(self, root: rootfs.Root) -> None:
        terminal = self.terminal or new_terminal(root.fd, self.entry.process)
        master, slave, name = terminal
        take_terminal(slave)
        root.console(slave)
        self.channel.send(b"T", name, master)
        os.close(master)
        os.close(slave)

    def _wait(self) -> None:
        missing = json.dumps(sorted(self.entry.missing_capabilities)).encode()
        if self.fifos is None:
            self.channel.send(b"W", missing)
            self.channel.expect(b"x")
            return
        self.channel.send(b"W", missing)
        self.at_fifo = True
        self.channel.close()
        os.read(self.fifos.exec_fd, 1)
        os.close(self.fifos.exec_fd)


def main(setup: Setup, first: Callable[[], None] | None = None) -> NoReturn:
    """Be the init of ``setup``; whatever happens, this process ends here."""
    try:
        init = _Init(setup)
        try:
            if first is not None:
                first()
            init.run()
        finally:
            init.report(sys.exc_info()[1])
    finally:
        os._exit(1)


def _join_keyring(name: str) -> None:
    try:
        keyring.join_session_keyring(name)
    except KernelError as error:
        # A kernel without keys has none to share; a filter around us hides the call.
        if error.errno not in (38, 1):
            raise


def _dress_devices(body: bytes) -> None:
    """Rename the moved network devices (netDevices), restore their addresses, set them up."""
    for device in json.loads(body):
        index = netlink.link_index(device["moved_as"])
        netlink.rename_link(device["moved_as"], device["name"])
        # The name may have been a pattern ("eth%d") that the kernel filled in.
        name = next(link.name for link in netlink.links() if link.index == index)
        for address in device["addresses"]:
            netlink.add_address(name, netlink.Address(**address))
        netlink.set_link_up(name)
