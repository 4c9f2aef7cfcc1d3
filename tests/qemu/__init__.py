"""The pure cgroup v2 lane: the tests marked ``v2`` on a machine of their own, in QEMU.

``python -m tests.qemu [pytest arguments]`` boots Debian's cloud kernel from nothing, with cgroup v2
only, runs pytest there, prints its output as it comes and exits with its status. No KVM is needed.
``-m ""`` with a file's name runs all tests of that file, ``v2`` or not.
See ``docs/decisions/0004-qemu-lane.md``.
"""
