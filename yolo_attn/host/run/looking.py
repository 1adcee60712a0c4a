"""``yolo-attn look``: a checkpoint sees one image, and each attention layer shows what it does there."""

from __future__ import annotations

import copy
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ...errors import CheckpointError, DataError, RowError
from ...layers.timm_attention import TimmAttention
from ...look.panels import Layer, Reading
from ...look.reading import read
from ...look.scene import Detection, Frame, Scene
from ...look.words import sentences
from ..model import blocks
from ..model.ours import describe_layers, is_attention, kind_of, repeats
from . import whole_models

HEAT = "visualize=True"
_SHOWN = 50  # detections


def look(
    checkpoint: str | Path,
    image: str | Path,
    output: str | Path | None = None,
    rows: Sequence[int] = (),
    pixel: tuple[int, int] | None = None,
    imgsz: Any = None,
    device: str | None = None,
    save: str | Path | None = None,
    force: bool = False,
    say: Callable[[str], object] = print,
) -> list[Reading]:
    """Draw what the attention of a checkpoint does on an image, and say it.

    Args:
        checkpoint: A checkpoint of Ultralytics, of any task.
        image: An image file.
        output: PNG to write; None means ``<image>-look.png`` in the working folder.
        rows: Indices of the rows to show, attention or not; none means all attention layers.
        pixel: The pixel, x and y in the image, whose weights are shown; None means the centre of what was found with
            the highest score, or of the image.
        imgsz: Size as for ``yolo predict``; None means that of training.
        device: Device as for ``yolo predict``.
        save: Folder for a PNG of each panel and the numbers of each layer as NPZ.
        force: Write over files that are there.
        say: Takes one line.

    Returns:
        The readings, one for each layer.

    Raises:
        YoloAttnError: If the checkpoint has no attention, or something cannot be used or is not to be overwritten.
    """
    from ...look.drawing import draw

    source, file = Path(image), Path(checkpoint)
    picture = Path(output) if output is not None else Path(f"{source.stem}-look.png")
    folder = Path(save) if save is not None else None
    _check_free(picture, folder, force)
    for given in (source, file):
        if picture.exists() and given.exists() and picture.samefile(given):
            raise DataError(f"-o {picture}: the picture would replace {given}; name another")
    if "://" in str(image) or not source.is_file():
        raise DataError(f"{image}: no such image; give one file")
    if device is not None:
        whole_models.select_device(device)
    model = _open(file)
    found = find_layers(model.model, file, rows)
    network = copy.deepcopy(model.model).float().eval()  # predicting folds gates that are 0
    result, seen = _predict(model, source, imgsz, device)
    scene = _scene(result, seen, model, file, source, pixel)
    maps = _maps(network.to(seen.device), seen, [path for _, path in found])
    readings = []
    for layer, path in found:
        module = blocks.ungated(network.get_submodule(path))
        readings.append(read(module, maps[path], layer, scene.frame, scene.pixel))
    shown = draw(scene, readings, picture)
    for line in scene.lines:
        say(line)
    for reading in readings:
        h, w = reading.view.size
        say(f"\n{reading.layer.label}: {reading.channels} channels, {h}x{w}")
        for sentence in sentences(reading):
            say(f"  {sentence}")
    say(f"\nOpen the picture: {picture}")
    if shown < len(readings):
        missing = ", ".join(dict.fromkeys(f"--layer {r.layer.index}" for r in readings[shown:]))
        say(f"It shows the first {shown} of {len(readings)} layers; draw the others with {missing}")
    if folder is not None:
        _save(folder, scene, readings)
        say(f"Panels and numbers: {folder}")
    command = shlex.join(["yolo", "predict", f"model={file}", f"source={source}", HEAT])
    say(f"Heat maps of what speaks for a class are Ultralytics' own: {command}")
    return readings


def find_layers(model: nn.Module, file: Path, rows: Sequence[int] = ()) -> list[tuple[Layer, str]]:
    """Return the layers to look at and their paths in the model.

    Raises:
        CheckpointError: If there is none.
        RowError: If there is no such row.
    """
    layers = getattr(model, "model", None)
    if not isinstance(layers, nn.Sequential):
        raise CheckpointError(f"{file} holds a {type(model).__name__}, which is not built of rows; look needs them")
    for row in rows:
        if not 0 <= row < len(layers):
            raise RowError(f"--layer {row}: {file} has rows 0 to {len(layers) - 1}")
    places = {entry["index"]: entry["place"] or "" for entry in describe_layers(model)}
    found: list[tuple[Layer, str]] = []
    for index, layer in enumerate(layers):
        if rows and index not in rows:
            continue
        parts = {}
        if is_attention(layer):
            stack = repeats(layer)
            parts = {"": layer} if len(stack) == 1 else {str(i): part for i, part in enumerate(stack)}
            parts = {"0": stack[0]} if len(stack) == 1 and stack[0] is not layer else parts
        elif inside := blocks.find_attention(layer):
            parts = {f"{path}.1": part for path, part in inside.items()}
        elif rows:
            parts = {"": layer}
        for path, part in parts.items():
            openness = part.openness() if isinstance(part, blocks.Gated) else None
            inner = blocks.ungated(part)
            name = f"TimmAttention {inner.name}" if isinstance(inner, TimmAttention) else kind_of(part)[0]
            entry = Layer(index, name, places.get(index, ""), path.removesuffix(".1"), openness)
            found.append((entry, f"model.{index}" + (f".{path}" if path else "")))
    if not found:
        raise CheckpointError(
            f"{file} has no attention layer of yolo-attn. Train a model that has one: "
            "yolo train model=yolov8n-cbam.yaml data=your.yaml. Or look at any row that keeps the shape of its map, "
            "such as a pasted layer, with --layer and its index"
        )
    return found


def _check_free(picture: Path, folder: Path | None, force: bool) -> None:
    """Raise if something would be overwritten, before any work is done."""
    if picture.suffix.lower() != ".png":
        raise DataError(f"-o {picture}: the picture is a PNG; name it {picture.with_suffix('.png')}")
    if not picture.parent.is_dir():
        raise DataError(f"-o {picture}: there is no folder {picture.parent}")
    if picture.exists() and (picture.is_dir() or not force):
        raise DataError(f"{picture} is there already; name another with -o, or write over it with --force")
    if folder is not None and folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not force)):
        raise DataError(f"--save {folder}: it is there and not empty; name another folder, or add --force")


def _open(file: Path) -> Any:
    from ultralytics import YOLO

    from ..opening import open_model

    if file.suffix != ".pt":
        raise DataError(f"{file} is no checkpoint: give the .pt file of the training")
    open_model(file)  # says in one line what is wrong with it
    return YOLO(str(file))


def _predict(model: Any, image: Path, imgsz: Any, device: str | None) -> tuple[Any, Tensor]:
    """Return what Ultralytics predicts on an image, and what its network saw of it."""
    import cv2
    from ultralytics.utils.patches import imread

    try:
        is_image = image.suffix.lower() == ".heic" or imread(str(image)) is not None  # that one is read by another
    except cv2.error:  # an empty file, in older versions
        is_image = False
    if not is_image:
        raise DataError(f"{image} cannot be read as an image")
    seen: list[Tensor] = []

    def listen(predictor: Any) -> None:
        predictor.model.register_forward_pre_hook(lambda _, args: seen.append(args[0].detach().clone()))

    model.add_callback("on_predict_start", listen)
    given = {"imgsz": imgsz, "device": device}
    given = {name: value for name, value in given.items() if value is not None}
    try:
        results = model.predict(str(image), verbose=False, save=False, **given)
    except (cv2.error, MemoryError) as error:
        raise DataError(f"{image} cannot be scaled to imgsz={imgsz}: give a smaller one ({error})") from error
    if len(results) != 1 or not seen:
        raise DataError(f"{image} is no single image")
    return results[0].cpu(), seen[-1].float()


def _maps(network: nn.Module, seen: Tensor, paths: Sequence[str]) -> dict[str, Tensor]:
    """Return the input of each layer."""
    maps: dict[str, Tensor] = {}

    def keep(path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], result: Any) -> None:
            x = args[0] if args else None
            if not isinstance(x, Tensor) or not isinstance(result, Tensor) or x.shape != result.shape or x.dim() != 4:
                name = type(blocks.ungated(module)).__name__
                raise RowError(f"{path.removeprefix('model.')}, {name}: it does not keep the shape of one map")
            maps.setdefault(path, x.detach().clone())

        return hook

    hooks = [network.get_submodule(path).register_forward_hook(keep(path)) for path in paths]
    try:
        with torch.no_grad():
            network(seen)
    finally:
        for hook in hooks:
            hook.remove()
    return maps


def _scene(result: Any, seen: Tensor, model: Any, file: Path, source: Path, pixel: tuple[int, int] | None) -> Scene:
    image = np.ascontiguousarray(result.orig_img)
    image = (
        image[..., 2::-1]
        if image.ndim == 3 and image.shape[2] >= 3
        else np.repeat(image.reshape(*image.shape[:2], -1)[..., :1], 3, 2)
    )
    height, width = image.shape[:2]
    found = _detections(result)
    if pixel is not None and not (0 <= pixel[0] < width and 0 <= pixel[1] < height):
        raise DataError(f"--pixel {pixel[0]},{pixel[1]}: {source} is {width} pixels wide and {height} high")
    best = max((d for d in found if len(d.outline)), key=lambda d: d.score, default=None)
    whose = "as asked for"
    if pixel is not None:
        chosen = (pixel[0] + 0.5, pixel[1] + 0.5)
    elif best is not None:
        chosen, whose = best.center, f"the centre of {best.label}, score {best.score:.2f}"
    else:
        chosen, whose = (width / 2, height / 2), "the centre of the image"
    frame = frame_of((height, width), (int(seen.shape[2]), int(seen.shape[3])), result, model)
    h, w = frame.seen
    lines = (
        f"{file} on {source}, {width}x{height}; the network sees {w}x{h}",
        f"chosen pixel: ({int(chosen[0])}, {int(chosen[1])}), {whose}; choose another with --pixel X,Y",
        f"found: {_found(result, found)}",
    )
    return Scene(image, frame, chosen, tuple(found[:_SHOWN]), lines)


def frame_of(image: tuple[int, int], seen: tuple[int, int], result: Any, model: Any) -> Frame:
    """Return where the image lies in what the network saw: letterboxed, cropped to classify, stretched for RT-DETR."""
    ratios = [n / m for n, m in zip(seen, image, strict=True)]
    if "RTDETR" in type(getattr(model, "predictor", None)).__name__:
        return Frame(image, seen, seen)
    if getattr(result, "probs", None) is not None:
        ratio = max(ratios)
        resized = [int(n * ratio) for n in image]
        top, left = (round((n - m) / 2) for n, m in zip(seen, resized, strict=True))
    else:
        ratio = min(ratios)
        resized = [max(1, round(n * ratio)) for n in image]
        top, left = (round((n - m) / 2 - 0.1) for n, m in zip(seen, resized, strict=True))
    return Frame(image, seen, (resized[0], resized[1]), top, left)


def _detections(result: Any) -> list[Detection]:
    """Return what was found, by task, the highest score first."""
    names = result.names
    boxes = result.obb if getattr(result, "obb", None) is not None else result.boxes
    if boxes is None:
        return []
    outlines = boxes.xyxyxyxy.numpy() if boxes is result.obb else [_corners(box) for box in boxes.xyxy.numpy()]
    if getattr(result, "masks", None) is not None:
        outlines = [o if len(m) == 0 else m for o, m in zip(outlines, result.masks.xy, strict=True)]
    points = None
    if getattr(result, "keypoints", None) is not None:
        points = [p[(p > 0).any(1)] for p in result.keypoints.xy.numpy()]
    found = [
        Detection(str(names[int(c)]), float(s), np.asarray(o), points[i] if points else None)
        for i, (c, s, o) in enumerate(zip(boxes.cls.tolist(), boxes.conf.tolist(), outlines, strict=True))
    ]
    return sorted(found, key=lambda detection: -detection.score)


def _corners(box: np.ndarray) -> np.ndarray:
    x0, y0, x1, y1 = box
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _found(result: Any, found: Sequence[Detection]) -> str:
    probs = getattr(result, "probs", None)
    if probs is not None:
        return ", ".join(f"{result.names[i]} {float(probs.data[i]):.2f}" for i in probs.top5)
    counts: dict[str, int] = {}
    for detection in found:
        counts[detection.label] = counts.get(detection.label, 0) + 1
    return ", ".join(f"{count} x {label}" for label, count in counts.items()) or "nothing above the threshold"


def _save(folder: Path, scene: Scene, readings: Sequence[Reading]) -> None:
    from ...look.drawing import draw_alone, draw_image, file_name

    folder.mkdir(parents=True, exist_ok=True)
    draw_image(scene, folder / "image.png")
    for reading in readings:
        numbers: Any = dict(reading.raw)
        for count, panel in enumerate(reading.panels, start=1):
            name = file_name(panel, count)
            draw_alone(scene, reading, panel, folder / f"{reading.layer.key}-{name}.png")
            numbers.update({f"{name}.{key}": value for key, value in panel.raw.items()})
        np.savez_compressed(folder / f"{reading.layer.key}.npz", **numbers)
