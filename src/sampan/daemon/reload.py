"""SIGHUP: take up what may change while containers and clients are here.

The command line stays, the configuration file is read again. What is wrong in it is logged, and
everything stays as it was; what cannot change without a new start is named and stays too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from sampan.daemon.configuration import merge
from sampan.daemon.keys import KEYS
from sampan.daemon.options import resolve
from sampan.engine.log import log
from sampan.errors import SampanError

if TYPE_CHECKING:
    from sampan.daemon.configuration import Given
    from sampan.daemon.options import Options
    from sampan.engine.core import Engine

__all__ = ["Reloader"]

_RELOADED = tuple(key.name for key in KEYS if key.reload)
_FIXED = tuple(key.name for key in KEYS if not key.reload and not key.why)


class Reloader:
    """``options`` are what holds now."""

    def __init__(self, given: Given, options: Options, engine: Engine) -> None:
        self._given = given
        self._engine = engine
        self._values = merge(given)
        self.options = options

    def reload(self) -> None:
        try:
            values = merge(self._given)
            fixed = [name for name in _FIXED if values[name] != self._values[name]]
            taken = {**self._values, **{name: values[name] for name in _RELOADED}}
            options = resolve(taken)
        except SampanError as error:
            log.error("the configuration stays as it was", error=error.message)
            return
        if fixed:
            log.warn("these take a new start of the daemon to change", keys=", ".join(fixed))
        self._values, self.options = taken, options
        log.set_level(options.log_level)
        self._engine.settings = options.settings
        shown = {name: _shown(taken[name]) for name in _RELOADED}
        log.info("configuration reloaded", **shown)
        self._engine.events.publish("daemon", "reload", self._engine.identity, shown)


def _shown(value: object) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()
