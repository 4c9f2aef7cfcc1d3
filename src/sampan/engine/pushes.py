"""Push: layers side by side, then the configuration, then the manifest (docs/registry.md)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sampan.engine.transfers import short
from sampan.errors import NotFound, SampanError
from sampan.image.types import check_platform
from sampan.kernel.footprint import give_back
from sampan.registry.carrier import messages

if TYPE_CHECKING:
    from sampan.engine.core import Engine
    from sampan.engine.progress import Reporter
    from sampan.image.leaving import Departure, Parcel
    from sampan.oci.platform import Platform
    from sampan.oci.reference import Reference
    from sampan.registry.types import Credentials

__all__ = ["push"]


async def push(
    engine: Engine,
    name: Reference,
    platform: Platform | None,
    credentials: Credentials | None,
    report: Reporter,
) -> None:
    """Send an image, or every tag of a repository (a name without tag). Raises SampanError."""
    report.say(f"The push refers to repository [{name.name}]")
    tags = await asyncio.to_thread(engine.image_store.tags_of, name)
    if not tags:
        raise NotFound(
            f"An image does not exist locally with the tag: {name.familiar_name}; give it one "
            "with tag"
        )
    if name.tag is not None:
        if name not in tags:
            raise NotFound(f"tag does not exist: {name.familiar}")
        tags = [name]
    for tag in tags:
        await _push(engine, tag, platform, credentials, report)


async def _push(
    engine: Engine,
    name: Reference,
    platform: Platform | None,
    credentials: Credentials | None,
    report: Reporter,
) -> None:
    from sampan.image.leaving import depart

    store = engine.image_store
    image = await asyncio.to_thread(store.resolve, name.familiar)
    if platform is not None:
        check_platform(image.document, platform, name.familiar)
    where = engine.transfers.where(name, credentials)
    with store.layers.hold() as hold:
        departure = await asyncio.to_thread(depart, store, image, name)
        for parcel in departure.parcels:
            hold.pin(parcel.blob)
        hold.pin(image.id)
        sent = await _send(engine, departure, where, report)
        document = await asyncio.to_thread(departure.document, store, sent)
        request = messages.PutManifest(
            number=0, where=where, reference=name.tag or document.digest, document=document
        )
        await engine.transfers.ask(request, messages.Stored)
        await asyncio.to_thread(departure.arrived, store, name, document, sent)
    engine.images.changed()
    give_back()
    report.say(f"{name.tag}: digest: {document.digest} size: {len(document.data)}")
    report.hand_over({"Tag": name.tag, "Digest": document.digest, "Size": len(document.data)})
    await engine.images.tell("push", name.familiar, name.familiar_name)


async def _send(
    engine: Engine, departure: Departure, where: messages.Where, report: Reporter
) -> dict[str, tuple[str, int]]:
    """Every layer and the configuration; digest and size of what each diff ID went as."""
    sent: dict[str, tuple[str, int]] = {}

    async def one(parcel: Parcel) -> None:
        sent[parcel.diff_id] = await _layer(engine, parcel, where, report)

    for parcel in reversed(departure.parcels):
        report.say("Preparing", short(parcel.diff_id))
    try:
        async with asyncio.TaskGroup() as group:
            for parcel in reversed(departure.parcels):
                group.create_task(one(parcel))
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from errors
    config = departure.image.id
    request = messages.Send(
        number=0,
        where=where,
        choices=(messages.Choice(config, departure.config_size),),
        blob=config,
    )
    await engine.transfers.ask(request, messages.Sent)
    return sent


async def _layer(
    engine: Engine, parcel: Parcel, where: messages.Where, report: Reporter
) -> tuple[str, int]:
    name = short(parcel.diff_id)
    total = parcel.size
    report.say("Waiting", name)

    def heard(event: messages.Event) -> None:
        nonlocal total
        match event:
            case messages.Packing():
                report.advance("Preparing", name, event.offset, event.total)
            case messages.Packed():
                total = event.size
            case messages.Grown():
                report.advance("Pushing", name, event.offset, total)
            case messages.Waiting():
                seconds = max(round(event.seconds), 1)
                report.say(f"Retrying in {seconds} second{'s' if seconds > 1 else ''}", name)
            case _:
                raise AssertionError(event)

    request = messages.Send(
        number=0,
        where=where,
        choices=tuple(messages.Choice(*known) for known in parcel.known),
        blob=parcel.blob,
        pack=parcel.pack,
    )
    try:
        sent = await engine.transfers.ask(request, messages.Sent, heard)
    except SampanError as error:
        raise type(error)(f"layer {name}: {error}") from error
    if sent.state == "mounted":
        report.say(f"Mounted from {sent.origin}", name)
    else:
        report.say("Layer already exists" if sent.state == "exists" else "Pushed", name)
    return sent.digest, sent.size
