"""What the start-up hook costs: the same programs in fresh interpreters, with the hook's line executed and without.

Both run with ``-S``, so that no ``.pth`` file is read, on the same search path; the one with us then executes the line
that ``yolo_attn.pth`` holds, as ``site`` would.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from yolo_attn.bench.measure import quartiles, ratio
from yolo_attn.errors import HostError

HOOK = "yolo_attn.pth"
_SWITCHES = {"YOLO_ATTN_AUTOLOAD", "PYTHONDONTWRITEBYTECODE"}
PROGRAMS = {
    "yolo version": "sys.argv = ['yolo', 'version']; from ultralytics.cfg import entrypoint; entrypoint()",
    "from ultralytics import YOLO": "from ultralytics import YOLO",
    "python": "pass",
}


def measure(pairs: int = 20, seconds: float = float("inf")) -> Iterator[dict[str, Any]]:
    """Yield a row for each program: seconds with and without the hook, and their ratio, pair by pair.

    Args:
        pairs: Pairs per program.
        seconds: No pair but the first begins later than this after the call, shared evenly by the programs.

    Raises:
        HostError: If the hook is not installed, does not act, or a program fails.
    """
    hook = next((p for p in (Path(folder or ".") / HOOK for folder in sys.path) if p.is_file()), None)
    if hook is None:
        raise HostError(f"{HOOK} is in no folder of sys.path; install yolo-attn first: pip install .")
    line = hook.read_text(encoding="utf-8").strip()
    with tempfile.TemporaryDirectory() as cache:
        yield from _programs(line, pairs, seconds, cache)


def _programs(line: str, pairs: int, seconds: float, cache: str) -> Iterator[dict[str, Any]]:
    begin = time.monotonic()
    for number_of_program, (name, program) in enumerate(PROGRAMS.items(), start=1):
        end = begin + seconds * number_of_program / len(PROGRAMS)
        sources = {"with": _source(line, program), "without": _source("", program)}
        for key, source in sources.items():
            present = _run(source, cache)[1].split()[0]
            if present != str(key == "with"):
                raise HostError(f"{name}: the interpreter {key} the hook says {present} when asked for yolo_attn")
        samples: dict[str, list[float]] = {key: [] for key in sources}
        for number in range(pairs):
            if number and time.monotonic() > end:
                break
            for key in list(sources) if number % 2 else list(sources)[::-1]:
                samples[key].append(_run(sources[key], cache)[0])
        yield {
            "program": name, "pairs": len(samples["with"]), "ratio": ratio(samples["with"], samples["without"]),
            **{key: quartiles(values) for key, values in samples.items()},
        }  # fmt: skip


def _source(line: str, program: str) -> str:
    return f"import sys\nsys.path[:] = {sys.path!r}\n{line}\nprint('yolo_attn' in sys.modules)\n{program}\n"


def _run(source: str, cache: str) -> tuple[float, str]:
    """Return the seconds that a fresh interpreter takes for a source, and what it prints.

    Byte code is kept in the folder ``cache``, for all packages alike, as an installer leaves it.
    """
    environment = {key: value for key, value in os.environ.items() if key not in _SWITCHES}
    environment["PYTHONPYCACHEPREFIX"] = cache
    begin = time.perf_counter()
    done = subprocess.run([sys.executable, "-S", "-c", source], env=environment, capture_output=True, text=True)
    seconds = time.perf_counter() - begin
    if done.returncode:
        raise HostError(f"{source!r} ends with {done.returncode}: {done.stderr.strip()[-300:]}")
    return seconds, done.stdout
