"""One module a group of commands; a function a command: ``(client, argv) -> exit status``."""
