"""What ``image copy`` and ``registry rm`` ask of registries, as ``manifest_registry`` does
(docs/decisions/0021).

Blobs go through files below the user's cache directory: one that a broken copy left there is gone
on with by the next, and what nobody came back for in a day is removed.
"""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import TYPE_CHECKING

from sampan.cli.commands.manifest_registry import Registries
from sampan.cli.output import short_id
from sampan.cli.progress import Display
from sampan.errors import NotSupported, SampanError
from sampan.registry.client.copying import Copy
from sampan.registry.client.errors import Refused
from sampan.registry.client.spool import spool
from sampan.registry.policy import Policy

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sampan.cli.settings import Settings
    from sampan.oci.reference import Reference

__all__ = ["copy", "remove"]


class _Listener:
    def __init__(self, display: Display) -> None:
        self._display = display

    def state(self, digest: str, words: str) -> None:
        self._display.feed({"id": short_id(digest), "status": words})

    def moved(self, digest: str, words: str, offset: int, size: int) -> None:
        self._display.feed(
            {
                "id": short_id(digest),
                "status": words,
                "progressDetail": {"current": offset, "total": size},
            }
        )


def copy(
    settings: Settings,
    source: Reference,
    target: Reference,
    *,
    whole: bool,
    platform: str,
    with_referrers: bool,
    insecure: bool,
    quiet: bool,
) -> None:
    """Copy an image, or all of a repository's (``whole``), and print what each is called."""

    async def work() -> None:
        registries = Registries(settings, insecure)
        display = Display(quiet=quiet)
        try:
            here, there = await registries.repository(source), await registries.repository(target)
            names = [source.digest or source.tag or ""]
            if whole:
                names = await registries.tried(source, here.tags)
            for name in names:
                called = target.replace(tag=name) if whole else target
                document = await Copy(
                    here,
                    there,
                    same=source.domain == target.domain,
                    spool=spool(_cache()),
                    listener=_Listener(display),
                    attempts=Policy().attempts,
                ).run(
                    name,
                    called.digest or called.tag or "",
                    platform=platform,
                    with_referrers=with_referrers,
                )
                display.end()
                size = len(document.data)
                more = "" if quiet else f": digest: {document.digest} size: {size}"
                print(f"{called}{more}", flush=True)
        except SampanError as error:
            raise registries.explained(error, source, target) from error
        finally:
            display.end()
            registries.close()

    asyncio.run(work())


def remove(settings: Settings, names: Sequence[Reference], *, insecure: bool) -> None:
    """Remove tags, or manifests by digest, from their registries, and print each that is gone."""

    async def work() -> None:
        registries = Registries(settings, insecure)
        try:
            for name in names:
                repository = await registries.repository(name)
                which = name.digest or name.tag or ""
                try:
                    await registries.tried(name, partial(repository.delete, which))
                except Refused as error:
                    if name.digest or error.code not in (400, 405):
                        raise
                    raise NotSupported(
                        f"{error}: it removes no tag alone, but a manifest with all of them: "
                        f"'sampan registry rm {name.name}@DIGEST'"
                    ) from error
                print(f"Deleted: {name}", flush=True)
        finally:
            registries.close()

    asyncio.run(work())


def _cache() -> str:
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    return os.path.join(base, "sampan", "copy")
