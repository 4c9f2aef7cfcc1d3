"""``sampan-runtime``: an OCI runtime with runc's command line, one command per module.

It is executed for every step of a container's life, so each module imports what its own command
needs and no more; argparse alone would cost as much as ``state`` does.
"""
