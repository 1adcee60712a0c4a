"""The way in and out that users call: all joints at once, and none."""

from __future__ import annotations

import importlib

from ..errors import HostError
from . import patch, startup
from .joints import JOINTS


def install() -> None:
    """Import Ultralytics and make it know our layers, model names and data formats. Calling it again changes nothing.

    Raises:
        HostError: If the installed Ultralytics cannot be patched safely; nothing is patched then.
    """
    if not patch.is_sound():
        uninstall()
    try:
        for module_name in JOINTS:
            importlib.import_module(module_name)
            patch.apply(module_name)
    except HostError:
        uninstall()
        raise
    startup.arm()


def uninstall() -> None:
    """Put every object of Ultralytics back as it was and leave modules imported later alone."""
    startup.disarm()
    patch.take_out()


def installed() -> bool:
    """Return whether every joint is in place in the running Ultralytics."""
    return all(map(patch.is_in_place, JOINTS)) and not patch.problems
