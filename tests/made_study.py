"""Studies that look real: folders of plain files as a study writes them, with scores drawn from a seeded generator."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

NAMES = ("crazing", "inclusion", "patches", "pitted_surface", "rolled-in_scale", "scratches")
LAYERS = ("SE", "CBAM", "CoordAtt", "BiFormer")
PLACES = ("backbone", "neck")
COCO = ("AP", "AP50", "AP75", "APs", "APm", "APl")
HEAD = "epoch,time,train/box_loss,metrics/precision(B),metrics/recall(B),metrics/mAP50(B),metrics/mAP50-95(B),lr/pg0\n"
VERSIONS = {"yolo-attn": "0.4.0", "ultralytics": "8.4.190", "torch": "2.14.1", "python": "3.11.9"}
GAINS = {"yolov8s": 0.021, "yolov8n-coordatt-neck": 0.012, "yolov8n-biformer-backbone": -0.009}


def variants(
    layers: Sequence[str] = LAYERS, places: Sequence[str] = PLACES, controls: bool = True
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = [{"name": "yolov8n", "kind": "plain"}]
    if controls:
        rows += [{"name": f"yolov8n-pointwise-{place}", "kind": "pointwise", "place": place} for place in places]
        rows += [{"name": "yolov8s", "kind": "larger"}]
    rows += [
        {"name": f"yolov8n-{layer.lower()}-{place}", "kind": "attention", "layer": layer, "place": place}
        for place in places
        for layer in layers
    ]
    for row in rows:
        name = row["name"]
        row |= {
            "model": f"models/{name}.yaml",
            "parameters": 11_130_000 if name == "yolov8s" else 3_010_000 + len(name) * 500,
        }
    return rows


def save(file: Path, content: Any) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")


def make(
    folder: Path,
    rows: Sequence[dict[str, Any]] | None = None,
    seeds: Sequence[int] = (0, 1, 2),
    *,
    names: Sequence[str] = NAMES,
    coco: bool = True,
    cost: bool = True,
    epochs: int = 30,
    noise: float = 0.002,
    gains: Mapping[str, float] = GAINS,
) -> Path:
    """Write a finished study; small objects are in none of its images."""
    rows = variants() if rows is None else rows
    settings = {
        "data": "neu.yaml", "model": "yolov8n", "layers": list(LAYERS), "at": list(PLACES), "seeds": list(seeds),
        "epochs": epochs, "batch": 16, "imgsz": 224, "pretrained": None, "controls": True,
        "train": {"optimizer": "SGD"},
    }  # fmt: skip
    save(folder / "study.json", {
        "schema": 1, "name": folder.name, "created": "2026-11-28T10:00:00+00:00", "settings": settings,
        "command": ["yolo-attn", "study", "data=neu.yaml", "model=yolov8n", "layers=se,cbam,coordatt,biformer",
                    "at=backbone,neck", f"seeds={len(seeds)}", f"epochs={epochs}"],
        "variants": list(rows), "versions": VERSIONS,
        "data": {"file": "neu.yaml", "fingerprint": "sha256:" + "ab" * 32, "images": {"train": 1170, "val": 292},
                 "instances": {"train": 2726, "val": 671}, "names": list(names)},
        "machine": {"processor": "AMD EPYC 7763", "cores": 2, "devices": ["cpu"]},
    })  # fmt: skip
    plans = {row["name"]: {"seconds_per_epoch": 20.0, "seconds": 600.0, "parameters": row["parameters"],
                           "memory": 2**30, "gflops": gflops(row)} for row in rows}  # fmt: skip
    save(folder / "plan.json", {"variants": plans, "seconds": 600.0 * len(plans) * len(seeds)})
    for row in rows:
        for seed in seeds:
            trial(folder, row, seed, names, coco, epochs, noise, gains.get(row["name"], 0.0))
    if cost:
        save(folder / "cost.json", costs(rows))
    return folder


def gflops(row: Mapping[str, Any]) -> float:
    return 28.6 if row["name"] == "yolov8s" else round(8.2 + len(row["name"]) * 0.03, 2)


def costs(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    measured: dict[str, Any] = {"imgsz": 224, "batch": 1, "device": "cpu", "processor": "AMD EPYC 7763"}
    for row in rows:
        ratio = 1.0 if row["kind"] == "plain" else gflops(row) / 8.0 - 0.05
        latency = {"median": 0.0123 * ratio, "q1": 0.0120 * ratio, "q3": 0.0131 * ratio}
        ratios = {"median": ratio, "q1": ratio * 0.98, "q3": ratio * 1.03}
        measured[row["name"]] = {
            "parameters": row["parameters"], "gflops": gflops(row), "latency": latency, "latency_ratio": ratios,
        }  # fmt: skip
    return measured


def trial(
    folder: Path,
    row: Mapping[str, Any],
    seed: int,
    names: Sequence[str] = NAMES,
    coco: bool = True,
    epochs: int = 30,
    noise: float = 0.002,
    gain: float = 0.0,
) -> Path:
    """Write the folder of one finished trial; its results.csv, coco_metrics.json and trial.json agree."""
    name = row["name"]
    drawn = np.random.default_rng([seed, *name.encode()])
    shared = np.random.default_rng(seed).normal(0, 0.006)
    top = 0.40 + shared + gain + drawn.normal(0, noise)
    curve = top * (1 - np.exp(-np.arange(1, epochs + 1) / max(1, epochs / 5))) + drawn.normal(0, 0.003, epochs)
    best = int(np.argmax(curve)) + 1
    host = {"map": float(curve[best - 1]), "map50": float(curve[best - 1] * 1.8), "precision": 0.71, "recall": 0.66}
    official = {key: float(host["map"] * k + drawn.normal(0, noise / 2)) for key, k in
                zip(COCO, (0.985, 1.77, 0.83, 0, 0.93, 1.1), strict=True)}  # fmt: skip
    official["APs"] = -1.0
    classes = {c: {"map": float(host["map"] + drawn.normal(0.01 * (i % 5 - 2), noise * 2)),
                   "map50": float(host["map50"])} for i, c in enumerate(names)}  # fmt: skip
    run = folder / "trials" / name / f"seed{seed}"
    run.mkdir(parents=True, exist_ok=True)
    lines = [f"{i},{20.5 * i},1.2,0.71,0.66,{x * 1.8!r},{x!r},0.01\n" for i, x in enumerate(map(float, curve), start=1)]
    (run / "results.csv").write_text(HEAD + "".join(lines))
    if coco:
        save(run / "coco_metrics.json", {"bbox": {"numbers": official}})
    scale = "yolov8s" if row["kind"] == "larger" else "yolov8n"
    save(run / "trial.json", {
        "schema": 1, "variant": name, "seed": seed, "state": "finished", "error": None, "attempts": 1,
        "started": "2026-11-28T10:00:00+00:00", "ended": "2026-11-28T10:10:00+00:00", "seconds": 600.0 + seed,
        "command": f"yolo train model=models/{name}.yaml data=neu.yaml seed={seed} epochs={epochs}",
        "batches": f"sha256:{seed:064x}", "start": f"sha256:{scale}{seed}",
        "epochs": [{"epoch": i, "map": x, "map50": x * 1.8, "seconds": 20.5}
                   for i, x in enumerate(map(float, curve), start=1)],
        "best_epoch": best, "memory": 2**30, "parameters": row.get("parameters"), "gflops": gflops(row),
        "device": "cpu", "versions": VERSIONS,
        "metrics": {"ultralytics": host, "per_class": classes,
                    "coco": {k: None if v < 0 else v for k, v in official.items()} if coco else None},
    })  # fmt: skip
    return run


def fail(folder: Path, name: str, seed: int, error: str) -> None:
    """Turn a finished trial into a failed one."""
    file = folder / "trials" / name / f"seed{seed}" / "trial.json"
    record = json.loads(file.read_text(encoding="utf-8"))
    save(file, record | {"state": "failed", "error": error, "metrics": None, "epochs": []})


def change(file: Path, **changes: Any) -> None:
    """Replace some fields of a JSON file."""
    save(file, json.loads(file.read_text(encoding="utf-8")) | changes)
