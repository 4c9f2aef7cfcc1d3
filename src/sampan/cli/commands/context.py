"""``context``: daemons by name. The store is Docker's client's own, so that both see the same."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

from sampan.cli.commands.common import FORMAT, TEMPLATE, read, report
from sampan.cli.contexts import Context, Store, valid_name
from sampan.cli.flags import Flag, UsageError
from sampan.cli.output import print_rows, warn
from sampan.cli.settings import DEFAULT_HOST
from sampan.errors import Conflict, InvalidArgument, SampanError

if TYPE_CHECKING:
    from sampan.cli.client import Client
    from sampan.cli.flags import Values
    from sampan.cli.settings import Settings

__all__ = ["create", "inspect", "listing", "name", "remove", "update", "use"]

_DESCRIPTION = Flag("description", "str", "What it is for")
_DOCKER = Flag(
    "docker",
    "list",
    "host=…,ca=FILE,cert=FILE,key=FILE,skip-tls-verify=true, or from=CONTEXT",
    hint="map",
)
_DEFAULT = "Current DOCKER_HOST based configuration"


def create(client: Client, argv: list[str]) -> int:
    """Make a context."""
    flags = read(
        "context create",
        "[OPTIONS] CONTEXT",
        "Give a daemon a name",
        [_DESCRIPTION, _DOCKER, Flag("from", "str", "Like this context", hint="context")],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    new = valid_name(flags.arguments[0])
    store = Store(client.settings.directory)
    if flags.text("from") and flags.items("docker"):
        raise UsageError("--from and --docker contradict each other: --docker from=CONTEXT")
    if flags.items("docker"):
        made = _endpoint(client.settings, store, new, flags)
    else:
        model = flags.text("from") or client.settings.context_name()
        made = _load(client.settings, store, model)
        made.name = new
    if flags.given("description"):
        made.description = flags.text("description")
    store.put(made)
    return _done(new, "created")


def update(client: Client, argv: list[str]) -> int:
    """Change a context."""
    flags = read(
        "context update",
        "[OPTIONS] CONTEXT",
        "Change what a context says",
        [_DESCRIPTION, _DOCKER],
        argv,
        least=1,
        most=1,
    )
    if flags is None:
        return 0
    changed = valid_name(flags.arguments[0])
    store = Store(client.settings.directory)
    made = store.get(changed)
    if flags.items("docker"):
        description = made.description
        made = _endpoint(client.settings, store, changed, flags)
        made.description = description
    if flags.given("description"):
        made.description = flags.text("description")
    store.put(made, replace=True)
    return _done(changed, "updated")


def _done(changed: str, what: str) -> int:
    print(changed, flush=True)
    print(f'Successfully {what} context "{changed}"', file=sys.stderr)
    return 0


def _load(settings: Settings, store: Store, wanted: str) -> Context:
    if wanted == "default":
        return Context("default", settings.host_override() or DEFAULT_HOST)
    return store.get(wanted)


_FILES = {"ca": "ca.pem", "cert": "cert.pem", "key": "key.pem"}


def _endpoint(settings: Settings, store: Store, new: str, flags: Values) -> Context:
    """What ``--docker`` says. Raises UsageError, InvalidArgument, NotFound."""
    from sampan.cli.container_values import fields

    keys: dict[str, str] = {}
    for item in flags.items("docker"):
        for part in fields(item, "--docker"):
            key, equals, value = part.partition("=")
            if not equals or key not in ("from", "host", "skip-tls-verify", *_FILES):
                raise UsageError(f"--docker: {part!r}: expected {_DOCKER.help}")
            keys[key] = value
    if "from" in keys:
        if len(keys) > 1:
            raise UsageError("--docker: from=CONTEXT stands alone")
        made = _load(settings, store, keys["from"])
        made.name = new
        return made
    host = keys.get("host", "")
    if host.partition("://")[0] not in ("unix", "tcp", "http", "https", "ssh") or "://" not in host:
        raise InvalidArgument(
            f"unable to parse docker host `{host}`: expected unix://, tcp:// or ssh://"
        )
    skip = keys.get("skip-tls-verify", "false").lower() in ("1", "t", "true")
    tls = {file: _read(keys[key]) for key, file in _FILES.items() if keys.get(key)}
    return Context(new, host, "", skip, tls)


def _read(path: str) -> bytes:
    try:
        with open(os.path.expanduser(path), "rb") as file:
            data = file.read(1 << 20)
    except OSError as error:
        raise InvalidArgument(f"--docker: {path}: {error.strerror}") from error
    if b"-----BEGIN " not in data:
        raise InvalidArgument(f"--docker: {path} is not a PEM file")
    return data


def listing(client: Client, argv: list[str]) -> int:
    """List contexts."""
    flags = read(
        "context ls",
        "[OPTIONS]",
        "List contexts",
        [FORMAT, Flag("quiet", "bool", "Names only", short="q")],
        argv,
        most=0,
    )
    if flags is None:
        return 0
    settings, store = client.settings, Store(client.settings.directory)
    current = settings.context_name()
    rows = [_row(settings, store, known, current) for known in sorted([*store.names(), "default"])]
    if current not in [row["Plain"] for row in rows]:
        rows.append(_row(settings, store, current, current))
    if flags.flag("quiet"):
        for row in rows:
            print(row["Plain"])
        return _told(settings)
    layout = flags.text("format")
    marked = layout in ("", "table")
    for row in rows:
        plain = row.pop("Plain")
        row["Name"] = f"{plain} *" if marked and row["Current"] else plain
    columns = [("NAME", "Name"), ("DESCRIPTION", "Description")]
    columns += [("DOCKER ENDPOINT", "DockerEndpoint"), ("ERROR", "Error")]
    print_rows(rows, columns, layout, headings={"Current": "CURRENT"})
    return _told(settings)


def _told(settings: Settings) -> int:
    if settings.environment_host():
        warn(f"Warning: {_overridden('a context')}")
    return 0


def _overridden(what: str) -> str:
    variable = "SAMPAN_HOST" if os.environ.get("SAMPAN_HOST") else "DOCKER_HOST"
    return (
        f"{variable} environment variable overrides the active context. To use {what}, either set "
        f"the global --context flag, or unset {variable} environment variable."
    )


def _row(settings: Settings, store: Store, known: str, current: str) -> dict[str, Any]:
    error = ""
    try:
        context = _load(settings, store, known)
    except SampanError as problem:
        context, error = Context(known, ""), problem.message
    description = _DEFAULT if known == "default" else context.description
    return {
        "Plain": known,
        "Current": known == current,
        "Description": description,
        "DockerEndpoint": context.host,
        "Error": error,
    }


def inspect(client: Client, argv: list[str]) -> int:
    """All of contexts; the current one where none is named."""
    from sampan import template
    from sampan.cli.commands.inspect import print_objects

    summary = "Show all that is known of contexts"
    synopsis = "[OPTIONS] [CONTEXT...]"
    flags = read("context inspect", synopsis, summary, [TEMPLATE], argv)
    if flags is None:
        return 0
    settings, store = client.settings, Store(client.settings.directory)

    def one(wanted: str) -> dict[str, Any]:
        context = _load(settings, store, wanted)
        place = "<IN MEMORY>"
        stored = wanted != "default"
        return {
            **context.document,
            "Metadata": template.Map(context.document["Metadata"]),
            "Endpoints": template.Map(context.document["Endpoints"]),
            "TLSMaterial": template.Map({"docker": sorted(context.tls)} if context.tls else {}),
            "Storage": {
                "MetadataPath": store.meta_path(wanted) if stored else place,
                "TLSPath": store.tls_path(wanted) if stored else place,
            },
        }

    names = flags.arguments or [settings.context_name()]
    return print_objects(names, flags.text("format"), one, html=True)


def name(client: Client, argv: list[str]) -> int:
    """The name of the context in use."""
    summary = "Print the name of the context in use"
    if read("context show", "", summary, [], argv, most=0) is None:
        return 0
    print(client.settings.context_name())
    return 0


def use(client: Client, argv: list[str]) -> int:
    """Make a context the one that is talked to."""
    summary = "Make a context the one that is talked to"
    flags = read("context use", "CONTEXT", summary, [], argv, least=1, most=1)
    if flags is None:
        return 0
    wanted, settings = flags.arguments[0], client.settings
    _load(settings, Store(settings.directory), wanted)
    _remember(settings, wanted)
    print(wanted, flush=True)
    if settings.environment_host() and wanted != "default":
        quoted = f'"{wanted}"'
        warn(f"Warning: {_overridden(quoted)}")
    print(f'Current context is now "{wanted}"', file=sys.stderr)
    return 0


def _remember(settings: Settings, wanted: str) -> None:
    config = {k: v for k, v in settings.config().items() if k != "currentContext"}
    if wanted != "default":
        config["currentContext"] = wanted
    if config != settings.config():
        settings.save(config)


def remove(client: Client, argv: list[str]) -> int:
    """Remove contexts."""
    flags = read(
        "context rm",
        "CONTEXT [CONTEXT...]",
        "Remove contexts",
        [Flag("force", "bool", "Even the one in use", short="f")],
        argv,
        least=1,
    )
    if flags is None:
        return 0
    settings, store = client.settings, Store(client.settings.directory)
    status = 0
    for wanted in flags.arguments:
        try:
            _remove(settings, store, wanted, flags.flag("force"))
        except SampanError as error:
            report(error)
            status = 1
            continue
        print(wanted)
    return status


def _remove(settings: Settings, store: Store, wanted: str, force: bool) -> None:
    if wanted == "default":
        raise InvalidArgument('context "default" cannot be removed')
    if settings.context_name() == wanted:
        if not force:
            raise Conflict(f'context "{wanted}" is in use: use another one first, or -f')
        _remember(settings, "default")
    store.remove(wanted)
