"""The process that moves images over the network for the daemon (docs/registry.md).

``messages`` is what the two say to each other, ``server`` the process, ``handle`` the daemon's end.
"""
