"""What runs the trials of a study, by name."""

from __future__ import annotations

from ..errors import StudyError, nearest
from .pool import Backend, run_local
from .ray_pool import load, run_ray

BACKENDS: dict[str, Backend] = {"local": run_local, "ray": run_ray}


def find_backend(name: str) -> Backend:
    """Return the backend of a name.

    Raises:
        StudyError: If there is none, or what it needs is not installed.
    """
    if name not in BACKENDS:
        raise StudyError(f"backend={name}: there are {', '.join(BACKENDS)}{nearest(name, BACKENDS)}")
    if name == "ray":
        load()
    return BACKENDS[name]
