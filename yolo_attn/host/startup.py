"""The start-up hook: a finder that patches Ultralytics' modules right after they are imported, and is inert until then.

It runs in every interpreter of the environment, so it uses what every interpreter has loaded; the joints are read when
a module of the host is imported, the patches when one of them is to be put in.
"""

import _thread
import sys

_LOADER = "ultralytics.nn.tasks", "torch_safe_load"


class _Finder:
    """Meta path finder that lets the others find a watched module and adds a step after its execution."""

    def __init__(self, watched, step):
        self.watched = watched
        self.step = step
        self.asked = set()

    def find_spec(self, name, path=None, target=None):
        # Another finder may ask all others as this one does: then this one has nothing to add.
        asking = name, _thread.get_ident()
        if not name.startswith("ultralytics.") or asking in self.asked or name not in self.watched():
            return None
        self.asked.add(asking)
        try:
            for finder in list(sys.meta_path):
                find_spec = None if finder is self else getattr(finder, "find_spec", None)
                spec = find_spec and find_spec(name, path, target)
                if spec is not None:
                    _follow(spec, name, self.step)
                    return spec
        finally:
            self.asked.discard(asking)
        return None


def _watched():
    """Return the names of the host's modules that have joints."""
    try:
        from .joints import JOINTS
    except Exception as error:
        _warn("Ultralytics", error)
        return ()
    return JOINTS


def _follow(spec, name, step):
    """Take a step once the loader of module ``name`` has executed it; the loader keeps its type."""
    loader = spec.loader
    execute = getattr(loader, "exec_module", None)
    if execute is None:
        return
    before = getattr(loader, "__dict__", {}).get("exec_module")  # another finder follows the same loader

    def exec_module(module):
        if before is None:
            del loader.exec_module
        else:
            loader.exec_module = before
        execute(module)
        if module.__name__ == name:  # a loader may serve many modules, and a spec may be asked for in vain
            step(name)

    try:
        loader.exec_module = exec_module
    except AttributeError as error:  # a loader without room
        _warn(name, error)


def _apply(name):
    try:
        from . import patch

        patch.apply(name, strict=False)
    except Exception as error:
        _warn(name, error)


def _warn(where, error):
    # Whatever breaks here is ours; the user's program and the host's import go on without us.
    import warnings

    said = f"yolo-attn is not active in {where}: {error!r}. Run: yolo-attn doctor"
    try:
        warnings.warn(said, stacklevel=3)
    except Warning:  # python -W error
        print(said, file=sys.stderr)


_finder = _Finder(_watched, _apply)


def _is_ours(finder):
    """Tell whether a finder is one of this module, as it is or as it was before it was imported anew."""
    return type(finder).__module__ == __name__ and type(finder).__name__ == "_Finder"


def arm():
    """Patch the watched modules that are loaded and those that will be."""
    disarm()
    sys.meta_path.insert(0, _finder)
    if "ultralytics" not in sys.modules:
        return
    for name in _watched():
        # A module still being executed is patched when its loader is done.
        module = sys.modules.get(name)
        if module is not None and not getattr(getattr(module, "__spec__", None), "_initializing", False):
            _apply(name)


def disarm():
    """Leave modules that are imported from now on alone."""
    sys.meta_path[:] = [finder for finder in sys.meta_path if not _is_ours(finder)]


def explain_only():
    """Be off but for one sentence: what a checkpoint that restricted loading refuses because we are off needs.

    The package is forgotten, so that ``import yolo_attn`` turns it on as ever.
    """
    disarm()
    sys.meta_path.insert(0, _Finder(lambda: _LOADER[:1], _explain))
    for name in [name for name in sys.modules if name.partition(".")[0] == "yolo_attn"]:
        del sys.modules[name]


def _explain(name):
    tasks = sys.modules[name]
    load = getattr(tasks, _LOADER[1], None)
    if load is None:
        return

    def torch_safe_load(weight, *args, **kwargs):
        try:
            return load(weight, *args, **kwargs)
        except TypeError as error:
            if "yolo_attn." not in str(error.__cause__) or "yolo_attn" in sys.modules:
                raise
            raise TypeError(
                f"{weight} has layers of yolo-attn, which YOLO_ATTN_AUTOLOAD turns off, so ULTRALYTICS_SAFE_LOAD "
                "refuses them. Unset YOLO_ATTN_AUTOLOAD, or `import yolo_attn` before you load the checkpoint."
            ) from error

    torch_safe_load.__dict__["__wrapped__"] = load  # its signature is the host's
    setattr(tasks, _LOADER[1], torch_safe_load)
