"""manifest create, annotate, inspect, push and rm: lists of images for several platforms.

No daemon has a part in this: the list is made here (``sampan.cli.manifests``), and the registry is
asked from here, with this user's credentials. What does that is imported when it is needed only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sampan.cli.commands.common import read, report
from sampan.cli.flags import Flag
from sampan.cli.manifests import ImageManifest, ManifestStore, assembled, indented, named, safe_html
from sampan.errors import Conflict, InvalidArgument, NotFound, SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.oci.reference import Reference

__all__ = ["annotate", "create", "inspect", "push", "remove"]

_INSECURE = Flag("insecure", "bool", "Take any certificate, and plain HTTP, from the registry")


def create(client: Client, argv: list[str]) -> int:
    """Begin a list of images that are in the registry."""
    flags = read(
        "manifest create",
        "[OPTIONS] MANIFEST_LIST MANIFEST [MANIFEST...]",
        "Make a list of images for several platforms, to be pushed",
        [Flag("amend", "bool", "Add to a list that is there", short="a"), _INSECURE],
        argv,
        least=2,
    )
    if flags is None:
        return 0
    target = _parsed(flags.arguments[0], "manifest list")
    images = [named(text) for text in flags.arguments[1:]]
    store = ManifestStore(client.settings.directory)
    if store.has(target) and not flags.flag("amend"):
        raise Conflict(
            f"refusing to amend an existing manifest list with no --amend flag: {target}"
        )
    found, missing = [], []
    for image in images:
        try:
            found.append(store.get(target, image))
        except NotFound:
            missing.append(image)
    if missing:
        from sampan.cli.commands import manifest_registry

        insecure = flags.flag("insecure")
        found += manifest_registry.images(client.settings, missing, insecure=insecure)
    store.save(target, found)
    print(f"Created manifest list {target}")
    return 0


def annotate(client: Client, argv: list[str]) -> int:
    """Say what platform an image of a list is for."""
    flags = read(
        "manifest annotate",
        "[OPTIONS] MANIFEST_LIST MANIFEST",
        "Say more of the platform of an image in a list that is not pushed yet",
        [
            Flag("arch", "str", "Its architecture (arm64)"),
            Flag("os", "str", "Its operating system (linux)"),
            Flag("os-features", "strings", "Features of the operating system it needs"),
            Flag("os-version", "str", "The operating system's version it needs"),
            Flag("variant", "str", "The architecture's variant (v8)"),
        ],
        argv,
        least=2,
        most=2,
    )
    if flags is None:
        return 0
    target = _parsed(flags.arguments[0], "manifest list", "annotate: ")
    image = _parsed(flags.arguments[1], "manifest", "annotate: ")
    store = ManifestStore(client.settings.directory)
    try:
        manifest = store.get(target, image)
    except NotFound:
        raise NotFound(
            f"manifest for image {flags.arguments[1]} does not exist in {flags.arguments[0]}"
        ) from None
    changes = {
        "architecture": flags.text("arch"),
        "os": flags.text("os"),
        "os.version": flags.text("os-version"),
        "variant": flags.text("variant"),
    }
    manifest.annotate(changes, flags.items("os-features"))
    store.save(target, [manifest])
    return 0


def inspect(client: Client, argv: list[str]) -> int:
    """Show a manifest or a list: one that is being made here, or else the registry's."""
    flags = read(
        "manifest inspect",
        "[OPTIONS] [MANIFEST_LIST] MANIFEST",
        "Show an image's manifest, or a list of them, of this client or of a registry",
        [_INSECURE, Flag("verbose", "bool", "Layers and platforms too", short="v")],
        argv,
        least=1,
        most=2,
    )
    if flags is None:
        return 0
    verbose = flags.flag("verbose")
    image = named(flags.arguments[-1])
    store = ManifestStore(client.settings.directory)
    if len(flags.arguments) == 2:
        manifest = store.get(named(flags.arguments[0]), image)
        print(manifest.text("\t") if verbose else safe_html(_document(manifest)))
        return 0
    if store.has(image):
        _print_list(image, store.members(image), verbose)
        return 0
    from sampan.cli.commands import manifest_registry

    found = manifest_registry.look_up(client.settings, image, insecure=flags.flag("insecure"))
    if isinstance(found, list):
        _print_list(image, found, verbose)
    else:
        print(found.text("\t") if verbose else _document(found))
    return 0


def push(client: Client, argv: list[str]) -> int:
    """Send a list to its registry, and what it names from other repositories there."""
    flags = read(
        "manifest push",
        "[OPTIONS] MANIFEST_LIST",
        "Send a list to its registry",
        [_INSECURE, Flag("purge", "bool", "Forget the list here once it is there", short="p")],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    target = named(flags.arguments[0])
    store = ManifestStore(client.settings.directory)
    manifests = store.members(target)
    for manifest in manifests:
        if not (manifest.platform.get("os") and manifest.platform.get("architecture")):
            raise InvalidArgument(
                f"manifest {manifest.reference} must have an OS and Architecture to be pushed to a "
                "registry: see 'sampan manifest annotate --help'"
            )
    kind, text = assembled(target, manifests)
    from sampan.cli.commands import manifest_registry

    insecure = flags.flag("insecure")
    manifest_registry.push(client.settings, target, manifests, (kind, text), insecure=insecure)
    if flags.flag("purge"):
        store.remove(target)
    return 0


def remove(client: Client, argv: list[str]) -> int:
    """Forget lists that are not pushed, or not any more wanted here."""
    flags = read(
        "manifest rm",
        "MANIFEST_LIST [MANIFEST_LIST...]",
        "Forget lists here; what was pushed of them stays in the registry",
        [],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    store = ManifestStore(client.settings.directory)
    status = 0
    for text in flags.arguments:
        try:
            store.remove(named(text))
        except SampanError as error:
            report(error)
            status = 1
    return status


def _parsed(text: str, what: str, doing: str = "") -> Reference:
    try:
        return named(text)
    except InvalidArgument as error:
        raise InvalidArgument(f"{doing}error parsing name for {what} {text}: {error}") from error


def _document(manifest: ImageManifest) -> str:
    return indented(manifest.raw.decode(), "\t")


def _print_list(target: Reference, manifests: list[ImageManifest], verbose: bool) -> None:
    if verbose:
        whole = ",".join(manifest.text(None) for manifest in manifests)
        print(indented(f"[{whole}]", "\t"))
    else:
        print(assembled(target, manifests)[1])
