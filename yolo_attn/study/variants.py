"""The variants of a study: the plain model, its controls, and each layer at each place, as model YAMLs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ..blocks import attention_of, with_attention
from ..errors import StudyError
from ..graft import Model, graft, split_arguments, to_yaml, without_gates
from ..host.study import models
from ..table import POINTWISE

Variant = dict[str, Any]
Say = Callable[[str], object]


def make(settings: Mapping[str, Any], data: Mapping[str, Any], say: Say) -> list[Variant]:
    """Return the variants of a study, the plain model first; each with its model YAML as ``text``.

    Args:
        settings: Settings of the study.
        data: What ``examine`` says of the data.
        say: Takes a line on what was left out.

    Raises:
        RowError: If a layer cannot be placed.
        StudyError: If two variants have one name.
    """
    classes, channels, imgsz = len(data["names"]), data["channels"], settings["imgsz"]
    name = models.stem(settings["model"])
    full = models.load(settings["model"])
    base = models.of_one_scale(full, classes, channels)
    finish = _identity if settings["pretrained"] and settings.get("gate") is None else without_gates

    plain = _variant(name, "plain", base, imgsz, "the model as it is")
    found = [plain]
    attention = []
    for place in settings["at"]:
        for layer in settings["layers"]:
            said = {"layer": layer["layer"], "place": place}
            grafted = finish(graft(base, layer["layer"], place, layer["args"]))
            what = " ".join([layer["layer"], *map(str, layer["args"]), "at", str(place)])
            attention.append(_variant(f"{name}-{layer['slug']}-{place}", "attention", grafted, imgsz, what, **said))
    if "pointwise" in settings["controls"]:
        found += _pointwise(name, base, attention, settings, finish)
    if "larger" in settings["controls"]:
        found += _larger(settings, full, classes, channels, say)
    found += attention
    for own in settings["models"]:
        model = models.of_one_scale(models.load(own, "models"), classes, channels)
        variant = _variant(models.stem(own), "own", _stated_gates(model, finish), imgsz, f"your {own}")
        if model.get("scales") and variant["scale"] != plain["scale"]:
            raise StudyError(f"models={own} has scale {variant['scale']}, and {name} has {plain['scale']}: no pair")
        found.append({**variant, "scale": plain["scale"]})
    names = [variant["name"] for variant in found]
    for twice in {one for one in names if names.count(one) > 1}:
        raise StudyError(f"two variants are called {twice}; rename the model YAML or leave one out")
    for variant in found:
        if variant["kind"] in ("attention", "pointwise") and not variant["rows"]:
            raise StudyError(f"{variant['name']}: the layer stands nowhere in the model")
    return found


def _variant(name: str, kind: str, model: Model, imgsz: int, what: str, **more: Any) -> Variant:
    parameters, gflops, rows = models.cost(model, imgsz)
    text = to_yaml(model, f"{name}: {what}. Part of a study; see study.json.")
    scale = next(iter(model.get("scales") or {"model": 0}))
    found = {
        "name": name, "kind": kind, **more, "what": what, "model": f"models/{name}.yaml", "scale": scale,
        "parameters": parameters, "gflops": round(gflops, 3), "rows": rows, "content": model, "text": text,
    }  # fmt: skip
    return found


def _pointwise(
    name: str, base: Model, attention: Sequence[Variant], settings: Mapping[str, Any], finish: Callable[[Model], Model]
) -> list[Variant]:
    """Return the controls of as many parameters: one a place, or one for each layer and place."""
    found = []
    for place in settings["at"]:
        there = [variant for variant in attention if variant["place"] == place]
        most = sorted(there, key=lambda variant: -sum(variant["rows"].values()))[:1]
        for matched in there if settings["pointwise"] == "each" else most:
            end = f"-{matched['name'].removeprefix(f'{name}-')}" if settings["pointwise"] == "each" else f"-{place}"
            model = graft(base, POINTWISE.name, place, [{"hidden": 1}])
            unit = models.cost(model, settings["imgsz"])[2]  # parameters of one hidden unit in each row
            rows = [*model["backbone"], *model["head"]]
            for index, row in enumerate(rows):
                if index in unit:
                    hidden = max(1, round(matched["rows"].get(index, 0) / unit[index]))
                    inside = attention_of(row) if row[2] != POINTWISE.name else None
                    said = [{"hidden": hidden}]  # a number alone might be the row's width
                    row[:] = with_attention(row, POINTWISE.name, said) if inside else [*row[:3], said]
            what = f"1x1 convolutions at {place} of as many parameters as {matched['layer']}"
            more = {"layer": POINTWISE.name, "place": place, "matched": matched["name"]}
            found.append(
                _variant(f"{name}-pointwise{end}", "pointwise", finish(model), settings["imgsz"], what, **more)
            )
    return found


def _larger(settings: Mapping[str, Any], full: Model, classes: int, channels: int, say: Say) -> list[Variant]:
    name = models.larger(settings["model"], full)
    if name is None:
        say(f"no control of the next larger scale: {settings['model']} has none")
        return []
    pretrained = None
    if settings["pretrained"]:
        pretrained = settings["larger_pretrained"] or models.larger_checkpoint(settings["pretrained"], name)
        if pretrained is None:
            say(
                f"no control of the next larger scale: there are no pretrained weights for {name} that are "
                f"to {settings['pretrained']} as it is to {settings['model']}; give larger_pretrained="
            )
            return []
    model = models.of_one_scale(models.load(name), classes, channels)
    what = "the next larger scale"
    return [_variant(models.stem(name), "larger", model, settings["imgsz"], what, pretrained=pretrained)]


def _identity(model: Model) -> Model:
    return model


def _stated_gates(model: Model, finish: Callable[[Model], Model]) -> Model:
    """Return a model of the user's with ``finish`` done, but for rows that say themselves whether they have a gate."""
    result = finish(model)
    for part in ("backbone", "head"):
        for row, own in zip(result[part], model[part], strict=True):
            inside = attention_of(own)
            if "gate" in split_arguments(inside[1] if inside else own[3])[1]:
                row[3] = own[3]
    return result
