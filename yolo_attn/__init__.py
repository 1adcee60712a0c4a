"""yolo-attn: verified attention layers for Ultralytics YOLO, placed by a YAML row.

Importing this package arms the joint with Ultralytics (see ``yolo_attn.host``) and loads neither torch nor ultralytics.
It runs at the start of every interpreter of an environment that has it, so it imports nothing else either.
"""

from .host import startup as _startup

TYPE_CHECKING = False  # the name type checkers know; importing typing would cost more than all the rest
if TYPE_CHECKING:
    from ._version import __version__ as __version__
    from .host.install import install, installed, uninstall
    from .registry import create, list_layers, register, unregister

__all__ = ["create", "install", "installed", "list_layers", "register", "uninstall", "unregister"]
_HOST = {"install", "installed", "uninstall"}


def __getattr__(name):
    if name == "__version__":
        from . import _version as room
    elif name not in __all__:
        return _layer(name)
    elif name in _HOST:
        from .host import install as room
    else:
        from . import registry as room
    return getattr(room, name)


def _layer(name):
    """Return the class of a layer by any of its names: ``from yolo_attn import SEAttention``."""
    # A plain word in small letters is a module of ours that is not imported yet.
    if not name.startswith("_") and not (name.isalpha() and name.islower()):
        from . import layers

        found = getattr(layers, name, None)
        if found is not None:
            return found
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted([*globals(), *__all__, "__version__"])


_startup.arm()
