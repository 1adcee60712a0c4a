"""``yolo-attn verify``: a checkpoint is exported as users export it, run, and compared with itself in PyTorch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ...errors import DataError, HostError, YoloAttnError, nearest
from ..opening import is_restricted, open_checkpoint
from .export_check import FP32, HALF, ROUNDINGS, Case, Row, check_apart
from .runtimes import known_formats, missing_packages

# Checked where their packages are installed, unless formats are named.
FORMATS = ("torchscript", "onnx", "openvino", "mnn", "ncnn", "litert", "executorch")
IMAGES = 4
_EVERYWHERE = {"half", "quantize", "nms"}  # the host says itself which format has none of it
_SUFFIXES = {".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"}


def verify(
    checkpoint: str | Path,
    formats: Sequence[str] | None = None,
    sizes: Sequence[Sequence[int]] | None = None,
    source: str | Path | None = None,
    dynamic: bool = False,
    half: bool = False,
    arguments: Mapping[str, Any] | None = None,
    say: Callable[[str], object] = print,
) -> int:
    """Export a checkpoint to formats, compare each with the checkpoint on images, and print a table.

    Raw outputs are compared by their largest difference over their largest entry, detections by class and overlap.
    Nothing is written beside the checkpoint, and nothing is installed.

    Args:
        checkpoint: A checkpoint of Ultralytics.
        formats: Export formats as in ``yolo export format=``; None means those of ``FORMATS`` that can run here.
        sizes: Heights and widths; None means the size of training.
        source: An image or a folder; None means images of the checkpoint's data, or Ultralytics' own.
        dynamic: Export once, for every size; a second size is added if there is one.
        half: Export in half precision.
        arguments: More arguments of the export, such as ``opset=13``, for the formats that take them.
        say: Takes one line.

    Returns:
        1 if an exported model differs, or a format named could not be checked, else 0.

    Raises:
        YoloAttnError: If the checkpoint, a format, a size or the source cannot be used.
    """
    import torch
    import ultralytics

    file = Path(checkpoint)
    model = _open(file)
    known, named = known_formats(), formats is not None
    chosen = list(dict.fromkeys(formats if formats is not None else [f for f in FORMATS if f in known]))
    for form in chosen:
        if form not in known:
            raise HostError(f"Ultralytics {ultralytics.__version__} has no format {form!r}{nearest(form, known)}")
    extra = dict(arguments or {}) | ({"quantize": 16} if half and _has_quantize() else {"half": True} if half else {})
    taken = {name for form in chosen for name in known[form]} | _EVERYWHERE
    for name in extra.keys() - taken:
        raise HostError(f"none of {', '.join(chosen)} takes {name!r}{nearest(name, taken)}")
    chosen_sizes = [list(size) for size in sizes or [_trained_size(model)]]
    images = find_images(source, model.overrides.get("data"))
    say(
        f"{file}: {len(images)} images of {images[0].parent}, Ultralytics {ultralytics.__version__}, "
        f"torch {torch.__version__}"
    )
    say(f"{'format':13}{'size':20}{'difference':>12}{'allowed':>9}{'detections':>14}  ")
    wrong = 0
    for form in chosen:
        missing = missing_packages(form)
        if missing:
            say(f"{form:13}not installed: pip install {' '.join(missing)}")
            wrong += named
            continue
        is_dynamic = dynamic and "dynamic" in known[form]
        groups = [_two_sizes(chosen_sizes)] if is_dynamic else [[size] for size in chosen_sizes]
        for group in groups:
            words = {name: value for name, value in extra.items() if name in {*known[form], *_EVERYWHERE}}
            words |= {"dynamic": True} if is_dynamic else {}
            case = Case(str(file.resolve()), model.task, form, group, [str(i) for i in images], words)
            row = check_apart(case)
            say(line(case, row))
            wrong += row.state == "differs" or (row.state == "failed" and named)
    say(
        f"Allowed: {FP32:g} of the largest entry, {HALF:g} in half precision, or {ROUNDINGS} times what "
        "float32 itself loses here. Detections: same class, overlap 0.9, score within 0.05."
    )
    return 1 if wrong else 0


def line(case: Case, row: Row) -> str:
    """Return a row of the table."""
    size = ", ".join(f"{h}x{w}" for h, w in case.sizes)
    start = f"{case.form:13}{size:20}"
    if row.state == "failed":
        return f"{start}failed: {row.note}"
    found = f"{row.matched} of {row.detections}" if row.detections else "none"
    difference = "-" if row.difference is None else f"{row.difference:.1e}"
    verdict = f"differs, first at {row.layer}" if row.state == "differs" else "same"
    return f"{start}{difference:>12}{row.allowed:>9.0e}{found:>14}  {verdict}" + (f" ({row.note})" if row.note else "")


def find_images(source: str | Path | None, data: str | Path | None = None) -> list[Path]:
    """Return a few images: of a source, else of the data a checkpoint names, else those that Ultralytics ships."""
    if source is not None:
        found = _images_in(Path(source))
        if not found:
            raise DataError(f"--source {source}: no image there (looked for {', '.join(sorted(_SUFFIXES))})")
        return found
    from ultralytics.utils import ASSETS

    from ...coco.shapes import ensure_shapes

    return _images_of(data) or _images_in(Path(ASSETS)) or _images_in(ensure_shapes() / "images/val")


def _images_in(path: Path) -> list[Path]:
    found = [path] if path.is_file() else sorted(path.rglob("*"))
    images = [file.resolve() for file in found if file.suffix.lower() in _SUFFIXES]
    return images[:: max(1, len(images) // IMAGES)][:IMAGES]


def _images_of(data: str | Path | None) -> list[Path]:
    """Return validation images of a data YAML if it and they are still there; nothing is downloaded."""
    if not data or "://" in str(data) or Path(data).suffix.lower() not in (".yaml", ".yml"):
        return []
    from ultralytics.data import utils

    try:
        described = utils.check_det_dataset(str(data), autodownload=False)
    except (OSError, SyntaxError, TypeError, YoloAttnError):
        return []
    folders = described.get("coco", {}).get("val", {}).get("images") or described.get("val") or []
    for place in [folders] if isinstance(folders, (str, Path)) else folders:
        path = Path(place)
        listed = path.suffix == ".txt" and path.is_file()
        found = _listed(path) if listed else _images_in(path) if path.exists() else []
        if found:
            return found
    return []


def _listed(file: Path) -> list[Path]:
    lines = [text.strip() for text in file.read_text(encoding="utf-8").splitlines() if text.strip()]
    paths = [file.parent / text[2:] if text.startswith("./") else Path(text) for text in lines]
    return [path.resolve() for path in paths if path.is_file()][:IMAGES]


def _open(file: Path) -> Any:
    from ultralytics import YOLO

    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    if file.suffix != ".pt":
        raise DataError(f"{file} is no checkpoint: give the .pt file, it is exported here")
    if is_restricted():
        open_checkpoint(file)  # says in one line why it is refused
    return YOLO(str(file))


def _trained_size(model: Any) -> list[int]:
    size = model.overrides.get("imgsz", 640)
    return [size, size] if isinstance(size, int) else list(size)


def _two_sizes(sizes: list[list[int]]) -> list[list[int]]:
    """Return the sizes, and one more if there is only one: one size says nothing about others."""
    (height, width), *more = sizes
    return sizes if more else [*sizes, [max(32, height // 2 // 32 * 32), width]]


def _has_quantize() -> bool:
    from ultralytics.cfg import DEFAULT_CFG_DICT

    return "quantize" in DEFAULT_CFG_DICT
