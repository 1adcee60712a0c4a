"""``yolo-attn doctor``: what is patched, what was added, and what is wrong if something is."""

from __future__ import annotations

import importlib.metadata
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .. import registry
from .._version import __version__
from ..errors import HostError
from ..switches import is_off
from .joints import JOINTS, SUPPORTED, is_supported

_SWITCH = "YOLO_ATTN_AUTOLOAD"
_PROBE = (
    "import sys, ultralytics.nn.tasks as t\n"
    "m = sys.modules.get('yolo_attn.host.names')\n"
    "print('armed' if m and m.added() else 'off')"
)


def examine(say: Callable[[str], object]) -> int:
    """Say what a user needs to know about this installation.

    Args:
        say: Takes one line.

    Returns:
        0 if everything works, else 1.
    """
    wrong = []
    say(f"yolo-attn    {__version__}  {Path(registry.__file__).parent}")
    say(f"python       {sys.version.split()[0]}  {sys.executable}")
    try:
        import torch

        found = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
        say(f"torch        {torch.__version__}  device: {', '.join(found) or 'cpu'}")
    except Exception as error:  # a broken torch raises anything; the doctor must go on
        wrong.append(f"torch cannot be imported: {error}. Reinstall it: https://pytorch.org/get-started")
    try:
        import ultralytics

        from . import install, names

        say(f"ultralytics  {ultralytics.__version__}  {Path(ultralytics.__file__).parent}")
        if not is_supported(ultralytics.__version__):
            wrong.append(f"Ultralytics {ultralytics.__version__} is outside {SUPPORTED}, the versions we test")
        install.install()
        say(f"patched      {', '.join(f'{m}.{f}' for m, fs in JOINTS.items() for f in fs)}")
        say(f"layers       {', '.join(names.added())}")
        broken = registry.broken()
        own = [f"{layer.name} ({layer.source})" for layer in registry.layers() if layer.source]
        if own:
            say(f"own layers   {', '.join(one for one in own if one.split()[0] not in broken) or 'none works'}")
        wrong += map(str, [*broken.values(), *registry.problems()])
    except HostError as error:
        wrong.append(str(error))
    except Exception as error:  # as above: whatever the host raises is the finding
        wrong.append(f"ultralytics cannot be imported: {type(error).__name__}: {error}")
    hook, complaint = _start_up_hook()
    say(f"start-up     {hook}")
    wrong += [complaint] if complaint else []
    for problem in wrong:
        say(f"WRONG        {problem}")
    if not wrong:
        say("All is well.")
    return 1 if wrong else 0


def _start_up_hook() -> tuple[str, str]:
    """Return the state of the hook in a fresh interpreter and a complaint, or two strings of which one is empty."""
    if is_off(_SWITCH):
        return f"off ({_SWITCH}={os.environ[_SWITCH]}): only programs that import yolo_attn know its layers", ""
    fresh = subprocess.run([sys.executable, "-c", _PROBE], capture_output=True, text=True, cwd=Path(sys.prefix))
    if fresh.returncode == 0 and fresh.stdout.strip().endswith("armed"):
        return "on: every Python of this environment knows the layers", ""
    try:
        importlib.metadata.distribution("yolo-attn")
        advice = "reinstall it: pip install --force-reinstall --no-deps yolo-attn"
    except importlib.metadata.PackageNotFoundError:
        advice = "yolo-attn is not installed, only importable; install it: pip install yolo-attn"
    detail = f" ({fresh.stderr.strip().splitlines()[-1]})" if fresh.stderr.strip() else ""
    return "off", f"a fresh interpreter does not know the layers{detail}: {advice}"
