"""The table of commands, and where each one's code is.

A module of ``sampan.cli.commands`` defines functions ``name(client, argv) -> exit status``. A
command imports its own module and no other, so that the table is what every start pays for. One
row a command; a group's subcommand names a row, so that ``container ls`` is ``ps``.
"""

from __future__ import annotations

__all__ = ["COMMANDS", "COMMON", "GROUPS", "HIDDEN", "LATER", "NEVER", "SUMMARIES", "names_of"]

# command: module under sampan.cli.commands, function, summary
COMMANDS: dict[str, tuple[str, str, str]] = {
    "attach": ("attach", "attach", "Bring a running container's streams to this terminal"),
    "commit": ("commit", "commit", "Make an image of a container's changes"),
    "builder prune": ("prune", "cache", "Remove what building images has kept"),
    "__complete": ("completion", "complete", "Candidates for a shell"),
    "completion": ("completion", "completion", "Print a script that completes in a shell"),
    "container inspect": ("inspect", "container", "Show all the daemon knows of containers"),
    "container prune": ("prune", "containers", "Remove every container that does not run"),
    "context create": ("context", "create", "Give a daemon a name"),
    "context export": ("context_files", "export", "Write a context, keys included, as a tar"),
    "context import": ("context_files", "load", "Make a context of an exported one"),
    "context inspect": ("context", "inspect", "Show all that is known of contexts"),
    "context ls": ("context", "listing", "List contexts"),
    "context rm": ("context", "remove", "Remove contexts"),
    "context show": ("context", "name", "Print the name of the context in use"),
    "context update": ("context", "update", "Change what a context says"),
    "context use": ("context", "use", "Make a context the one that is talked to"),
    "cp": ("copy", "copy", "Copy files between a container and this machine"),
    "create": ("run", "create", "Make a container from an image without starting it"),
    "daemon": ("daemon", "daemon", "Run the daemon"),
    "diff": ("copy", "diff", "Show what a container has changed"),
    "events": ("events", "events", "Print what happens as it happens"),
    "exec": ("execute", "execute", "Run a command in a running container"),
    "export": ("copy", "export", "Write a container's file system as a tar"),
    "history": ("images", "history", "Show an image's layers and what made them"),
    "image copy": ("image_copy", "copy", "Copy an image from one registry to another"),
    "image inspect": ("inspect", "image", "Show all the daemon knows of images"),
    "image prune": ("prune", "images", "Remove images that have no name"),
    "images": ("images", "images", "List images"),
    "import": ("archives", "import_", "Make an image from a root file system's tar"),
    "info": ("system", "info", "Show what the daemon has and what the machine offers"),
    "inspect": ("inspect", "inspect", "Show all the daemon knows of objects"),
    "kill": ("lifecycle", "kill", "Send containers a signal, SIGKILL unless told otherwise"),
    "load": ("archives", "load", "Load images from an archive"),
    "login": ("login", "login", "Log in to a registry"),
    "logout": ("login", "logout", "Log out from a registry"),
    "logs": ("logs", "logs", "Print what a container has written"),
    "manifest annotate": ("manifest", "annotate", "Say more of the platform of an image in a list"),
    "manifest create": ("manifest", "create", "Make a list of images for several platforms"),
    "manifest inspect": ("manifest", "inspect", "Show an image's manifest, or a list of them"),
    "manifest push": ("manifest", "push", "Send a list to its registry"),
    "manifest rm": ("manifest", "remove", "Forget lists here"),
    "network connect": ("network_changes", "connect", "Put a container on a network"),
    "network create": ("network_changes", "create", "Make a network"),
    "network disconnect": ("network_changes", "disconnect", "Take a container off a network"),
    "network inspect": ("networks", "inspect", "Show all the daemon knows of networks"),
    "network ls": ("networks", "listing", "List networks"),
    "network prune": ("prune", "networks", "Remove every network without a container"),
    "network rm": ("network_changes", "remove", "Remove networks"),
    "pause": ("lifecycle", "pause", "Freeze every process of containers"),
    "port": ("port", "port", "Show where a container's ports are reached from outside"),
    "ps": ("listing", "ps", "List containers"),
    "pull": ("pull", "pull", "Fetch an image from a registry"),
    "push": ("push", "push", "Send an image to a registry"),
    "registry account": ("registry_account", "account", "Add an account to a registry's file"),
    "registry fsck": ("registry", "fsck", "Hold a registry's bytes against their digests"),
    "registry gc": ("registry", "gc", "Remove from a registry what nothing uses"),
    "registry ls": ("registry_lists", "repositories", "List what a registry has"),
    "registry retention": ("registry", "retention", "Remove from a registry tags by rules"),
    "registry rm": ("registry_lists", "remove", "Remove tags and manifests from a registry"),
    "registry serve": ("registry", "serve", "Be a private registry"),
    "registry tags": ("registry_lists", "tags", "List a repository's tags, newest version first"),
    "rename": ("lifecycle", "rename", "Give a container another name"),
    "restart": ("lifecycle", "restart", "Stop containers and start them again"),
    "rm": ("lifecycle", "remove", "Remove containers"),
    "rmi": ("images", "remove", "Remove images"),
    "run": ("run", "run", "Make a container from an image and run it"),
    "save": ("archives", "save", "Write images as an archive"),
    "search": ("search", "search", "Search a registry"),
    "stats": ("stats", "stats", "Show what containers use, again and again"),
    "start": ("lifecycle", "start", "Start containers that do not run"),
    "stop": ("lifecycle", "stop", "Ask containers to end, and end them after a time-out"),
    "system df": ("disk", "usage", "Show what the daemon keeps on the disk"),
    "system dial-stdio": ("dial", "dial", "Join standard input and output to the daemon"),
    "system prune": ("prune", "system", "Remove what nothing uses"),
    "tag": ("images", "tag", "Give an image another name"),
    "top": ("stats", "top", "Show the processes of a container"),
    "unpause": ("lifecycle", "unpause", "Thaw containers"),
    "update": ("lifecycle", "update", "Change the limits and the restart policy of containers"),
    "version": ("system", "version", "Show the versions of client and daemon"),
    "volume create": ("volumes", "create", "Make a volume"),
    "volume inspect": ("volumes", "inspect", "Show all the daemon knows of volumes"),
    "volume ls": ("volumes", "listing", "List volumes"),
    "volume prune": ("prune", "volumes", "Remove volumes that no container uses"),
    "volume rm": ("volumes", "remove", "Remove volumes"),
    "wait": ("lifecycle", "wait", "Wait for containers to end and print their exit statuses"),
}

# Listed first in the help: what a first hour needs.
COMMON = ("run", "exec", "ps", "logs", "images", "pull", "load", "import", "rm", "version", "info")

# For other programs, not for the help.
HIDDEN = ("__complete", "system dial-stdio")

_CONTAINER = """attach commit cp create diff exec export kill logs pause port rename restart rm run
start stats stop top unpause update wait""".split()
_CONTEXT = "create export import inspect ls rm show update use".split()
_MANIFEST = "annotate create inspect push rm".split()
_NETWORK = "connect create disconnect inspect ls prune rm".split()
GROUPS: dict[str, dict[str, str]] = {
    "builder": {"prune": "builder prune"},
    "container": {
        **{name: name for name in _CONTAINER},
        **dict.fromkeys(("ls", "list", "ps"), "ps"),
        "remove": "rm",
        "inspect": "container inspect",
        "prune": "container prune",
    },
    "context": {
        **{name: f"context {name}" for name in _CONTEXT},
        "list": "context ls",
        "remove": "context rm",
    },
    "image": {
        **{name: name for name in "history import load pull push save tag".split()},
        "copy": "image copy",
        "inspect": "image inspect",
        "prune": "image prune",
        **dict.fromkeys(("ls", "list"), "images"),
        **dict.fromkeys(("rm", "remove"), "rmi"),
    },
    "manifest": {name: f"manifest {name}" for name in _MANIFEST},
    "network": {
        **{name: f"network {name}" for name in _NETWORK},
        "list": "network ls",
        "remove": "network rm",
    },
    "registry": {
        name: f"registry {name}" for name in "account fsck gc ls retention rm serve tags".split()
    },
    "system": {
        "df": "system df",
        "dial-stdio": "system dial-stdio",
        "events": "events",
        "info": "info",
        "prune": "system prune",
    },
    "volume": {
        **{name: f"volume {name}" for name in ("create", "inspect", "ls", "prune", "rm")},
        "list": "volume ls",
        "remove": "volume rm",
    },
}
SUMMARIES = {
    "builder": "What building images keeps",
    "container": "Manage containers",
    "context": "Daemons by name",
    "image": "Manage images",
    "manifest": "Images for several platforms under one name",
    "network": "Manage networks",
    "registry": "A registry of one's own",
    "system": "The daemon and what it keeps",
    "volume": "Manage volumes",
}

# Docker's commands that have no door here yet, or never will: refused by name, with the reason.
_NO_SWARM = "this engine runs on one machine: it has no swarm"
_NO_PLUGINS = "this engine has no plugins"
_NO_NOTARY = "image signatures by Notary are not supported"
LATER: dict[str, str] = {
    "build": "building images is not there yet: import or load one",
    "builder build": "building images is not there yet: import or load one",
    "bake": "building images is not there yet: import or load one",
    "buildx": "building images is not there yet: import or load one",
    "image build": "building images is not there yet: import or load one",
    "checkpoint": "checkpoints are not there yet",
    "compose": "use docker-compose, with DOCKER_HOST=unix:///run/sampan/sampan.sock",
}
NEVER: dict[str, str] = {
    **dict.fromkeys(("config", "node", "secret", "service", "stack", "swarm"), _NO_SWARM),
    "plugin": _NO_PLUGINS,
    "trust": _NO_NOTARY,
    "volume update": "cluster volumes: " + _NO_SWARM,
}


def names_of(row: str) -> list[str]:
    """Every way to call a command: ``ps`` is ``container ls``, ``list`` and ``ps`` too."""
    return [row] * (row in COMMANDS) + [
        f"{group} {sub}"
        for group, commands in GROUPS.items()
        for sub, command in commands.items()
        if command == row
    ]
