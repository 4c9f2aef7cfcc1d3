"""login and logout: credentials tried at a registry, and kept or forgotten here."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from sampan.cli import autostart
from sampan.cli.client import ApiError
from sampan.cli.commands.common import read
from sampan.cli.credentials import HUB, Credentials, Keeper
from sampan.cli.flags import Flag
from sampan.errors import InvalidArgument

if TYPE_CHECKING:
    from sampan.cli.client import Client

__all__ = ["login", "logout"]

_HUB_NAMES = ("docker.io", "index.docker.io", "registry-1.docker.io", "hub.docker.com")


def _server(argument: str) -> str:
    """The key credentials are kept by."""
    host = argument.removeprefix("https://").removeprefix("http://").partition("/")[0]
    return HUB if not host or host in _HUB_NAMES else host


def login(client: Client, argv: list[str]) -> int:
    """Try credentials at a registry, and keep what it took."""
    flags = read(
        "login",
        "[OPTIONS] [SERVER]",
        "Log in to a registry: Docker Hub, if none is named",
        [
            Flag("password", "str", "The password, for everybody to see who lists processes",
                 short="p"),
            Flag("password-stdin", "bool", "Read the password from standard input"),
            Flag("username", "str", "The user's name", short="u"),
        ],
        argv,
        most=1,
    )  # fmt: skip
    if flags is None:
        return 0
    server = _server(flags.arguments[0] if flags.arguments else "")
    user, password = flags.text("username"), flags.text("password")
    if flags.flag("password-stdin"):
        if flags.given("password"):
            raise InvalidArgument("--password and --password-stdin are mutually exclusive")
        if not user:
            raise InvalidArgument("Must provide --username with --password-stdin")
        password = sys.stdin.readline().rstrip("\r\n")
    elif password:
        print(
            "WARNING! Using --password via the CLI is insecure. Use --password-stdin.",
            file=sys.stderr,
        )
    autostart.ensure(client.host)
    keeper = Keeper(client.settings)
    known = keeper.get(server) if not (user or password) else None
    if known is not None:
        print("Authenticating with existing credentials...")
        try:
            return _try(client, keeper, server, known)
        except ApiError as error:
            if error.status != 401:
                raise
            print("Login did not succeed, error:", error.message, file=sys.stderr)
    user, password = _asked(server, user, password, known.username if known else "")
    return _try(client, keeper, server, Credentials(user, password))


def _asked(server: str, user: str, password: str, default: str) -> tuple[str, str]:
    """What is missing, from the terminal. Raises InvalidArgument where there is none."""
    if user and password:
        return user, password
    if not sys.stdin.isatty():
        raise InvalidArgument("Cannot perform an interactive login from a non TTY device")
    try:
        return _typed(server, user, password, default)
    except KeyboardInterrupt:
        print()
        raise


def _typed(server: str, user: str, password: str, default: str) -> tuple[str, str]:
    import getpass

    if not user:
        shown = f" ({default})" if default else ""
        print(f"Username{shown}: ", end="", flush=True)
        user = sys.stdin.readline().strip() or default
        if not user:
            raise InvalidArgument("username is required")
    password = password or getpass.getpass("Password: ")
    if not password:
        raise InvalidArgument(f"password is required to log in to {server}")
    return user, password


def _try(client: Client, keeper: Keeper, server: str, credentials: Credentials) -> int:
    answer = client.call("POST", "/auth", None, credentials.request(server))
    token = str(answer.get("IdentityToken") or "")
    kept = Credentials(credentials.username, token=token) if token else credentials
    if keeper.put(server, kept):
        print(
            f"\nWARNING! Your credentials are stored unencrypted in "
            f"'{client.settings.config_path}'.\n"
            "Configure a credential helper (credsStore) to keep them elsewhere.\n",
            file=sys.stderr,
        )
    print(answer.get("Status") or "Login Succeeded")
    return 0


def logout(client: Client, argv: list[str]) -> int:
    """Forget the credentials for a registry."""
    flags = read(
        "logout",
        "[SERVER]",
        "Log out from a registry: Docker Hub, if none is named",
        [],
        argv,
        most=1,
    )
    if flags is None:
        return 0
    server = _server(flags.arguments[0] if flags.arguments else "")
    if not Keeper(client.settings).erase(server):
        print(f"Not logged in to {server}")
        return 0
    print(f"Removing login credentials for {server}")
    return 0
