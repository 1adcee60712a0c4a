"""Names of models that stand for no model: which part is wrong, and what was probably meant."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ... import registry
from ...blocks import HOLDERS
from ...errors import mistyped, nearest
from ...graft import PLACE, PLACES, split_names
from ...layers._timm import NAMES, why_not
from ...table import TIMM

Load = Callable[[str], Any]
_PLACE = re.compile(PLACE)
_KNOWN_PLACES = [*PLACES, "backbone-p4", "neck-p3"]
_SAID_FOR = {**dict.fromkeys(("block", "bottlenecks", "inside"), "blocks"), "head": "neck"}
_BLOCKS = {name.lower() for name in HOLDERS}


def stem_of(name: str) -> str:
    """Return the name of a model YAML without ``.yaml`` and folder, or "" if it is none."""
    path = Path(name)
    return path.stem if path.suffix in (".yaml", ".yml") else ""


def explain(name: str, load: Load) -> str:
    """Say what is wrong with a model's name; nothing if it has no layer of ours in it.

    Args:
        name: A name that stands for no file and no model.
        load: Loads a model YAML of the host by name.
    """
    stem = stem_of(name)
    if stem and name != Path(name).name and is_built(stem, load):
        return f": there is no such file. Without the folder, {Path(name).name!r} is built from its name"
    words = [word for word in re.split(r"[-_ ]+", stem) if word]
    if not words:
        return ""
    own = _own_problem(words, load)
    if own and own.name:
        return f": {own}"
    meant = _repaired(_parse(words), stem, load)
    wrong = "" if meant else _wrong_timm(words) or _wrong_part(words, load)
    meant = meant or ("" if wrong else _repaired(_parse(words, corrected=True), stem, load))
    return f"; did you mean '{meant}.yaml'?" if meant else wrong or (f": {own}" if own else "")


def _own_problem(words: list[str], load: Load) -> registry.Problem | None:
    """Return why an own layer that is named cannot be used, or that something else is wrong with the own layers."""
    problems = registry.problems()
    named = next((one for one in problems if one.name and one.name.lower() in map(str.lower, words)), None)
    other = next((one for one in problems if not one.name), None)
    return named or (other if other and len(words) > 1 and _exists(words[0], load) else None)


def is_built(stem: str, load: Load) -> bool:
    """Return whether a name stands for a model of the host with layers of ours."""
    return any(_exists(base, load) for base, _ in split_names(stem))


def _parse(words: list[str], corrected: bool = False) -> list[tuple[str, str]]:
    """Return the parts of a name, each with its kind: ``layer``, ``place`` or ``other``."""
    slugs = registry.slugs()
    parts: list[tuple[str, str]] = []
    while words:
        for size in (2, 1):
            part = "-".join(words[:size]).lower()
            meant = mistyped(part, slugs) if corrected and size == 1 and parts else ""
            if part in slugs or meant:
                parts.append(("layer", part if part in slugs else meant.split("'")[1]))
            elif _PLACE.fullmatch(part):
                parts.append(("place", part))
            elif size == 1:
                parts.append(("other", words[0]))
            else:
                continue
            words = words[size:]
            break
    return parts


def _repaired(parts: list[tuple[str, str]], stem: str, load: Load) -> str:
    """Return the parts in the right order behind a base that exists, or ""."""
    layers: list[list[str]] = []
    waiting = ""
    for kind, part in parts:
        if kind == "layer":
            layers.append([registry.slugs()[part].slug, *([waiting] if waiting else [])])
            waiting = ""
        elif kind == "place" and layers and len(layers[-1]) == 1:
            layers[-1].append(part)
        elif kind == "place" and layers:
            layers.append([layers[-1][0], part])
        elif kind == "place":
            waiting = part
    if not layers or waiting:
        return ""
    for base in _bases([part for kind, part in parts if kind == "other"]):
        name = "-".join([base, *(word for layer in layers for word in layer)])
        if name != stem and _exists(base, load):
            return name
    return ""


def _bases(words: list[str]) -> list[str]:
    """Return the ways to write a base that people mix up: yolov11n for yolo11n, yolo8n for yolov8n, YOLOv8-n."""
    plain = "-".join(words)
    lower = re.sub(r"^(yolov?\d+)-([nsmlx])(?![a-z])", r"\1\2", re.sub(r"^yolo-v?(?=\d)", "yolo", plain.lower()))
    return [plain, lower, *(re.sub(r"^yolov?(?=\d)", start, lower) for start in ("yolo", "yolov"))]


def _wrong_timm(words: list[str]) -> str:
    """Say what is wrong with the first name of a layer of timm; nothing if there is none or it may be used."""
    lower = [word.lower() for word in words]
    at = next((n for n in range(1, len(words)) if lower[n] in ("timm", TIMM.name.lower())), len(words))
    name = words[at + 1] if at + 1 < len(words) and not _PLACE.fullmatch(lower[at + 1]) else ""
    if at == len(words) or (name and not why_not(name)):
        return ""
    wrong = f"{name!r} {why_not(name)}" if name else "'timm' stands before the name of a layer: 'timm-eca'."
    return f": {wrong} Names: {', '.join(NAMES)}"


def _wrong_part(words: list[str], load: Load) -> str:
    cut = next((n for n in range(len(words), 0, -1) if _exists("-".join(words[:n]), load)), 0)
    if not cut:
        parts = _parse(words)
        first = next((n for n, (kind, _) in enumerate(parts) if kind == "layer"), 0)
        base = "-".join(part for _, part in parts[:first])
        hint = nearest(base, host_models(), cutoff=0.7).replace("'?", ".yaml'?")
        return f": Ultralytics has no {base}.yaml{hint}" if base else ""
    parts = _parse(words[cut:])
    unknown = next((n for n, (kind, _) in enumerate(parts) if kind == "other"), len(parts))
    if unknown == len(parts):
        return ""
    slugs = [layer.slug for layer in registry.layers()]
    word, before = parts[unknown][1], parts[unknown - 1][0] if unknown else ""
    hint = mistyped(word, registry.slugs())
    layer = next((part for kind, part in parts if kind == "layer"), "")
    if layer and word.lower() in _BLOCKS:
        one = f"{'-'.join(words[:cut])}-{registry.slugs()[layer].slug}"
        return f": {word!r} is a block. '{one}-blocks.yaml' has the layer inside its blocks, '{one}.yaml' as a row"
    meant = _SAID_FOR.get(word.lower(), "")
    if before == "place" and meant == "blocks":
        place = parts[unknown - 1][1]
        return f": '{place}-{word}' is no place for a layer; did you mean '{place}-blocks'?"
    if before == "layer" and meant:
        hint = f"; did you mean {meant!r}?"
        return f": {word!r} is no place for a layer{hint} Places: {', '.join(_KNOWN_PLACES)} and other levels"
    if before == "layer" and not hint:
        level = re.fullmatch(r"p[1-9]", word)
        hint = f"; say 'backbone-{word}' or 'neck-{word}'." if level else nearest(word, _KNOWN_PLACES)
        return f": {word!r} is no place for a layer{hint or '.'} Places: {', '.join(_KNOWN_PLACES)} and other levels"
    is_ours = hint or any(kind == "layer" for kind, _ in parts)
    return f": {word!r} is no layer{hint or '.'} Layers: {', '.join(slugs)}" if is_ours else ""


def _exists(base: str, load: Load) -> bool:
    with contextlib.suppress(FileNotFoundError):
        return bool(load(f"{base}.yaml"))
    return False


def host_models() -> list[str]:
    """Return the names of the model YAMLs that the installed Ultralytics ships, without their ending."""
    import ultralytics

    return [path.stem for path in (Path(ultralytics.__file__).parent / "cfg" / "models").rglob("*.yaml")]
