"""``sampan``: the command line. Thin: parse, call the API over its socket, print.

Standard library only and no asyncio, so that a command costs an interpreter's start and little
more; each command's module is imported when it is called. Names, flags, output and exit codes are
Docker's.
"""
