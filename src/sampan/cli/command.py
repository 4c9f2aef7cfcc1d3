"""The table of commands, and what each command's module offers.

A module of ``sampan.cli.commands`` defines functions ``name(client, argv) -> exit status``. The
table says which, so that a command imports its own module and no other.
"""

from __future__ import annotations

__all__ = ["COMMANDS", "GROUPS", "SUMMARIES"]

# command: module under sampan.cli.commands, function
COMMANDS: dict[str, tuple[str, str]] = {
    "attach": ("attach", "attach"),
    "create": ("run", "create"),
    "daemon": ("daemon", "daemon"),
    "exec": ("execute", "execute"),
    "history": ("images", "history"),
    "images": ("images", "images"),
    "import": ("archives", "import_"),
    "info": ("system", "info"),
    "inspect": ("inspect", "inspect"),
    "kill": ("lifecycle", "kill"),
    "load": ("archives", "load"),
    "logs": ("logs", "logs"),
    "pause": ("lifecycle", "pause"),
    "ps": ("listing", "ps"),
    "rename": ("lifecycle", "rename"),
    "rm": ("lifecycle", "remove"),
    "rmi": ("images", "remove"),
    "run": ("run", "run"),
    "save": ("archives", "save"),
    "start": ("lifecycle", "start"),
    "stop": ("lifecycle", "stop"),
    "tag": ("images", "tag"),
    "unpause": ("lifecycle", "unpause"),
    "version": ("system", "version"),
    "wait": ("lifecycle", "wait"),
}

SUMMARIES = {
    "attach": "Attach local standard input, output, and error streams to a running container",
    "create": "Create a new container",
    "daemon": "Run the daemon",
    "exec": "Execute a command in a running container",
    "history": "Show the history of an image",
    "images": "List images",
    "import": "Import the contents from a tarball to create a filesystem image",
    "info": "Display system-wide information",
    "inspect": "Return low-level information on objects",
    "kill": "Kill one or more running containers",
    "load": "Load an image from a tar archive or STDIN",
    "logs": "Fetch the logs of a container",
    "pause": "Pause all processes within one or more containers",
    "ps": "List containers",
    "rename": "Rename a container",
    "rm": "Remove one or more containers",
    "rmi": "Remove one or more images",
    "run": "Create and run a new container from an image",
    "save": "Save one or more images to a tar archive (streamed to STDOUT by default)",
    "start": "Start one or more stopped containers",
    "stop": "Stop one or more running containers",
    "tag": "Create a tag TARGET_IMAGE that refers to SOURCE_IMAGE",
    "unpause": "Unpause all processes within one or more containers",
    "version": "Show the version information",
    "wait": "Block until one or more containers stop, then print their exit codes",
}

# `sampan container ls` is `sampan ps`: a group's subcommand names a command of the table.
_CONTAINER = """attach create exec inspect kill logs pause rename rm run start stop unpause
wait""".split()
GROUPS: dict[str, dict[str, str]] = {
    "container": {
        **{name: name for name in _CONTAINER},
        **dict.fromkeys(("ls", "list", "ps"), "ps"),
        "remove": "rm",
    },
    "image": {
        **{name: name for name in ("history", "import", "inspect", "load", "save", "tag")},
        **dict.fromkeys(("ls", "list"), "images"),
        **dict.fromkeys(("rm", "remove"), "rmi"),
    },
    "system": {"info": "info"},
}
