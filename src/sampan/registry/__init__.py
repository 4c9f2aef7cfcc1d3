"""Images over the network (docs/registry.md): ``client/`` speaks the distribution protocol,
``carrier/`` is the process that does so for the daemon.
"""
