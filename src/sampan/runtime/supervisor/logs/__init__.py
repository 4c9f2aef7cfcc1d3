"""A container's log, written by its monitor (docs/logs.md).

``log`` is what the monitor holds: it splits streams into entries, gives them to a driver, and
decides what becomes of what the driver does not take. Drivers: ``jsonfile``, ``local``, ``syslog``,
``journald``; the last two are imported by those monitors only that need them.
"""
