"""The session keyring: one per container, or its processes could read each other's keys.

After keyctl(2), keyctl_join_session_keyring(3) and keyrings(7).
"""

from __future__ import annotations

from sampan.kernel.syscalls import c_string, syscall

KEY_SPEC_SESSION_KEYRING = -3

_KEYCTL_GET_KEYRING_ID = 0
_KEYCTL_JOIN_SESSION_KEYRING = 1
_KEYCTL_SETPERM = 5

# Possessor: everything; user: view, read, search, link. Without search by user ID, the keyring's
# own user could not find its keys in processes that came by the keyring in another way.
_PERMISSIONS = 0x3F1B0000


def join_session_keyring(name: str) -> int:
    """Leave the session keyring for a new one called ``name``; return its serial number.

    ``ENOSYS``: a kernel without keys; ``EDQUOT``: too many keys for this user. As ``name`` is a
    lookup key too (an existing keyring of that name which we may search would be joined), give
    it the container's ID.
    """
    return syscall("keyctl", _KEYCTL_JOIN_SESSION_KEYRING, c_string(name), target=name)


def session_keyring() -> int:
    """The serial number of the session keyring in use."""
    return syscall("keyctl", _KEYCTL_GET_KEYRING_ID, KEY_SPEC_SESSION_KEYRING, 0)


def grant_user(serial: int) -> None:
    """Let processes of the keyring's user view, read, search and link it."""
    syscall("keyctl", _KEYCTL_SETPERM, serial, _PERMISSIONS, target=f"key {serial}")
