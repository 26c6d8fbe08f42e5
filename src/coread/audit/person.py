"""Who asks, at the command line."""

import getpass
import os
import platform


def who_asks() -> str:
    """The system's user as ``login@machine``, the form of PS3.15 A.5.2.1."""
    try:
        login = getpass.getuser()
    except (KeyError, OSError):  # a container may run as a user that has no name
        login = f"uid{os.getuid()}"
    return f"{login}@{platform.node()}"
