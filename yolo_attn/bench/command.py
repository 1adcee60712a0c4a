"""``yolo-attn bench``: what each layer costs at each place, as a table, files and a plot."""

from __future__ import annotations

import itertools
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import registry, tabular
from ..cache import write_text
from ..errors import YoloAttnError, nearest
from ..graft import graft
from ..host.run import whole_models
from . import cost, exported, picture, summary

WORDS = {
    "model": "yolov8n", "layers": "all", "at": "backbone,neck", "imgsz": "640", "batch": "1", "device": "",
    "threads": "", "formats": "", "rounds": "", "minutes": "4.5", "clock": "wall",
}  # fmt: skip
CLOCKS = ("wall", "cpu")
FOLDER = Path("runs/bench")
FILES = ("bench.csv", "bench.json", "bench.md", "bench.png", "bench.pdf")
NOT_INSTALLED, NOT_MEASURED = "not installed", "not measured"

Row = dict[str, Any]
Say = Callable[[str], object]


def bench(
    words: Sequence[str], output: str | None = None, force: bool = False, width: int = 80, say: Say = print,
    progress: Say = lambda _: None,
) -> Path:  # fmt: skip
    """Measure layers in a model, print a table and write files.

    Args:
        words: ``key=value``, of ``WORDS``.
        output: Folder to write to. Default: a new one in ``FOLDER``, named after the model.
        force: Write over files of an earlier bench there.
        width: Of the terminal, in characters.
        say: Takes lines of the result.
        progress: Takes the line that says how far it is.

    Returns:
        The folder.

    Raises:
        YoloAttnError: If a word, a layer, a place, a model or a device cannot be used, or the folder has files of a
            bench.
    """
    begin = time.monotonic()
    given = _read(words)
    end = begin + 60 * _number("minutes", given["minutes"], 0, float)
    plan_words = {
        name: _number(name, given[name], 1) for name in ("imgsz", "batch", "threads", "rounds") if given[name]
    }
    plain, groups, places = _models(given["model"], given["layers"], given["at"])
    asked = _formats(given["formats"])
    if given["clock"] not in CLOCKS:
        raise YoloAttnError(f"clock={given['clock']}: give {' or '.join(CLOCKS)}")
    plan = cost.make_plan(next(iter(plain.values())), device=given["device"], clock=given["clock"], **plan_words)
    folder = _folder(output, next(iter(plain)), force)
    rows: dict[str, Row] = {name: {"model": name, **places[name]} for name in (*plain, *places)}
    about: Row = {
        "imgsz": plan.imgsz, "batch": plan.batch, "training_batch": plan.training_batch, "threads": plan.threads,
        "clock": plan.clock, **whole_models.machine(plan.device),
    }  # fmt: skip

    # Formats that are asked for get half of the time; others what is left.
    half = begin + (end - begin) / 2 if asked else end
    for found in cost.compare(plain, groups, lambda config: cost.in_pytorch(config, plan), plan, half, progress):
        _add(rows, found)
    _write_tables(folder, list(rows.values()), about)  # what is measured stays, whatever an exporter does
    _measure_formats(plain, groups, asked, plan, rows, end, progress)
    if any(summary.is_measured(row, "openvino") for row in rows.values()):
        about["openvino_precision"] = exported.openvino_precision()
    about["seconds"] = round(time.monotonic() - begin, 1)
    progress("")
    _write_tables(folder, list(rows.values()), about)
    for suffix in ("png", "pdf"):
        picture.plot(list(rows.values()), about, folder / f"bench.{suffix}")
    for line in summary.text(list(rows.values()), about, width):
        say(line)
    say(f"Written to {folder}: {', '.join(FILES)}")
    return folder


def _read(words: Sequence[str]) -> dict[str, str]:
    given = dict(WORDS)
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise YoloAttnError(f"{word!r} is not key=value; bench takes {', '.join(WORDS)}")
        if name not in WORDS:
            raise YoloAttnError(f"bench has no {name!r}{nearest(name, WORDS) or '; it takes ' + ', '.join(WORDS)}")
        given[name] = value.strip()
    return given


def _number(name: str, text: str, least: float, kind: Callable[[str], Any] = int) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = math.nan
    if not least <= value < math.inf:
        raise YoloAttnError(f"{name}={text}: give {'a whole' if kind is int else 'a'} number from {least:g} on")
    return value


def _listed(name: str, text: str) -> list[str]:
    found = [part.strip() for part in text.strip("[]()").split(",") if part.strip()]
    if not found:
        raise YoloAttnError(f"{name}={text}: name at least one, such as {name}={WORDS[name]}")
    return list(dict.fromkeys(found))


def _models(model: str, layers: str, at: str) -> tuple[dict[str, Row], list[dict[str, Row]], dict[str, Row]]:
    """Return the plain model, those of each layer, and of every one of these its layer and place."""
    named = registry.TABLE if layers == "all" else [_layer(name) for name in _listed("layers", layers)]
    places = _listed("at", at)
    base, stem = whole_models.read_config(model), Path(model).stem
    groups, described = [], {}
    for layer in dict.fromkeys(named):
        group = {}
        for place in places:
            name = f"{stem}-{layer.slug}-{place}"
            word = layer.slug if layer.given else layer.name
            group[name] = graft(base, word, int(place) if place.isdecimal() else place)
            described[name] = {"layer": word, "place": place}
        groups.append(group)
    return {stem: base}, groups, {stem: {"layer": "none", "place": ""}, **described}


def _layer(name: str) -> Any:
    return registry.slugs().get(name.lower()) or registry.find(name)


def _formats(text: str) -> list[str] | None:
    """Return the formats that are asked for; None if nothing is said."""
    if not text:
        return None
    if text == "none":
        return []
    for name in (found := _listed("formats", text)):
        if name not in exported.FORMATS:
            known = [*exported.FORMATS, "none"]
            raise YoloAttnError(f"formats={text}: {name!r} is none of {', '.join(known)}{nearest(name, known)}")
    return found


def _folder(output: str | None, stem: str, force: bool) -> Path:
    """Return the folder to write to, made; a new one if none is named."""
    if output is None:
        taken = (FOLDER / f"{stem}{number}" for number in itertools.chain([""], itertools.count(2)))
        folder = next(path for path in taken if not path.exists())
    else:
        folder = Path(output)
        if not force:
            tabular.check_absent(folder / name for name in FILES)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _add(rows: dict[str, Row], found: Mapping[str, Row]) -> None:
    for name, row in found.items():
        rows[name] |= row


def _measure_formats(
    plain: cost.Group, groups: Sequence[cost.Group], asked: list[str] | None, plan: cost.Plan, rows: dict[str, Row],
    end: float, progress: Say,
) -> None:  # fmt: skip
    """Add to each row what its exported models cost, or why that is not known."""
    forms = list(exported.FORMATS) if asked is None else asked
    missing = {form: packages for form in exported.FORMATS if (packages := exported.missing_packages(form))}
    states = {form: f"{NOT_INSTALLED}: pip install {' '.join(packages)}" for form, packages in missing.items()}
    chosen = [form for form in forms if form not in missing]
    good = [{name: c for name, c in group.items() if "error" not in rows[name]} for group in groups]
    try:
        if chosen and asked is None:
            ratios = [rows[name][cost.PYTORCH]["latency_ratio"]["median"] for group in good for name in group]
            left = end - time.monotonic()
            chosen, needed = cost.which_fit(next(iter(plain.values())), ratios, len(good), chosen, plan, left)
            more = f"formats={','.join(f for f in forms if f not in missing)} takes about {needed / 60:.0f} min more"
            states |= {form: f"{NOT_MEASURED}: {more}" for form in forms if form not in (*chosen, *missing)}
        if chosen:
            for found in cost.measure_exported(plain, good, chosen, plan, end, progress):
                _add(rows, {name: _of_forms(row, chosen) for name, row in found.items()})
    except Exception as error:  # the plain model cannot be exported
        states |= dict.fromkeys(chosen, f"failed: {error}")
    for row in rows.values():
        for form in exported.FORMATS:
            cell = row.setdefault(form, {})
            failed = f"failed: {cell.pop('error', '')}"
            cell["state"] = "measured" if cell else states.get(form, NOT_MEASURED if failed == "failed: " else failed)


def _of_forms(row: Row, forms: Sequence[str]) -> Row:
    """Return a row of exported models, where an export that failed is the finding of every format."""
    return {form: {"error": row["error"]} for form in forms} if "error" in row else row


def _write_tables(folder: Path, rows: Sequence[Row], about: Mapping[str, Any]) -> None:
    write_text(folder / "bench.csv", tabular.to_csv({**row, **about} for row in rows))
    content = {"schema": 1, "about": about, "rows": rows}
    write_text(folder / "bench.json", json.dumps(content, indent=1) + "\n")
    write_text(folder / "bench.md", summary.markdown(rows, about))
