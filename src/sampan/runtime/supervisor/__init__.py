"""Zygote and monitor: the processes that stand between the daemon and a container's init.

``client`` is the daemon's side: it starts the zygote and connects to monitors. ``zygote`` forks a
``monitor`` for each container; ``loop`` is the monitor's event loop, ``streams`` its standard I/O
and attached clients, ``logfile`` the log, ``execs`` the further processes, ``messages`` and
``protocol`` what is said between it and the daemon. Only ``client`` and ``protocol`` are for
other packages.

This module stays empty of imports: the zygote loads nothing it does not need.
"""
