"""The start-up hook: a finder that patches Ultralytics' modules right after they are imported, and is inert until then.

It runs in every interpreter of the environment, so it uses ``sys`` alone; the joints are read when a module of the host
is imported, the patches when one of them is to be put in.
"""

import sys


class _Finder:
    """Meta path finder that lets the others find a watched module and adds a step after its execution."""

    def find_spec(self, name, path=None, target=None):
        if not name.startswith("ultralytics.") or name not in _watched():
            return None
        for finder in sys.meta_path:
            spec = None if finder is self else finder.find_spec(name, path, target)
            if spec is not None:
                _follow(spec, name)
                return spec
        return None


def _watched():
    """Return the names of the host's modules that have joints."""
    try:
        from .joints import JOINTS
    except Exception as error:
        _warn("Ultralytics", error)
        return ()
    return JOINTS


def _follow(spec, name):
    """Apply the patches of module ``name`` once its loader has executed it; the loader keeps its type."""
    loader = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return

    def exec_module(module):
        del loader.exec_module
        execute(module)
        _apply(name)

    loader.exec_module = exec_module


def _apply(name):
    try:
        from . import patch

        patch.apply(name, strict=False)
    except Exception as error:
        _warn(name, error)


def _warn(where, error):
    # Whatever breaks here is ours; the user's program and the host's import go on without us.
    import warnings

    warnings.warn(f"yolo-attn is not active in {where}: {error!r}. Run: yolo-attn doctor", stacklevel=3)


_finder = _Finder()


def arm():
    """Patch the watched modules that are loaded and those that will be."""
    if _finder not in sys.meta_path:
        sys.meta_path.insert(0, _finder)
    if "ultralytics" not in sys.modules:
        return
    for name in _watched():
        # A module still being executed is patched when its loader is done.
        if name in sys.modules and not getattr(sys.modules[name].__spec__, "_initializing", False):
            _apply(name)


def disarm():
    """Leave modules that are imported from now on alone."""
    if _finder in sys.meta_path:
        sys.meta_path.remove(_finder)
