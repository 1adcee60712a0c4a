"""An edited Ultralytics: run as a script it saves checkpoints of models with pasted classes, and what their rows give.

The classes live under paths of the host or of a module ``pasted_attention``, and in no other process.
"""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pasted_classes
import torch
from torch import nn
from ultralytics.nn import tasks
from ultralytics.nn.modules import conv

CLASSES = [cls for cls in vars(pasted_classes).values() if getattr(cls, "__module__", "") == pasted_classes.__name__]
ELSEWHERE = {
    "CoordAtt", "TripletAttention", "Plane", "Attention", "SimAM", "GAM", "Focus2", "Own", "BAMBlock", "ChannelBranch",
    "SpatialBranch", "DAttention",
}  # fmt: skip
ROWS = {
    "many": (
        ["SEAttention", [64, 8]], ["CBAMBlock", [64, 4, 5]], ["CoordAtt", [64, 64, 4]],
        ["EfficientChannelAttention", [64]], ["TripletAttention", [64]], ["ELA", [64]], ["Attention", [64, 4]],
        ["BiLevelRoutingAttention", [64, 4, 3, 2]], ["SimAM", [64, 0.01]], ["GlobalContext", [64]], ["GAM", [64]],
        ["BAMBlock", [64, 8]], ["DAttention", [64, 6, 8]],
    ),
    "se": (["SEAttention", [64, 8]],),
    "twice": (["SEAttention", [64, 8]],),
    "unclear": (["Focus2", [64]],),
    "nothing": (["Nothing", [64]], ["SEAttention", [64]]),
    "own": (["Own", [64]], ["Own", [64]]),
    "block": (["C2f_SE", [64, 64]],),
    "inside": (["C2fInside", [64, 64, 2]],),
    "inner": (["Bottleneck", [64, 64]],),
    "hosts": (["CBAM", [64]],),
    "plain": (),
}  # fmt: skip


def config_of(rows, times=1):
    """Return a small detector with rows between its convolutions."""
    stem = [[-1, 1, "Conv", [32, 3, 2]], [-1, 1, "Conv", [64, 3, 2]]]
    middle = [[-1, times, name, args] for name, args in rows]
    head = [[[-1], 1, "Detect", ["nc"]]]
    return {"nc": 3, "backbone": [*stem, *middle, [-1, 1, "Conv", [64, 3, 2]]], "head": head, "yaml_file": "old.yaml"}


def paste():
    elsewhere = sys.modules["pasted_attention"] = ModuleType("pasted_attention")
    for cls in CLASSES:
        module = elsewhere if cls.__name__ in ELSEWHERE else conv
        cls.__module__ = module.__name__
        setattr(module, cls.__name__, cls)
        setattr(tasks, cls.__name__, cls)
    tasks.CBAM = conv.CBAM


def build(kind):
    torch.manual_seed(len(kind))
    model = tasks.DetectionModel(config_of(ROWS[kind], 2 if kind == "twice" else 1), verbose=False)
    if kind == "inner":
        model.model[2].att = pasted_classes.SEAttention(64)
    for name, p in model.named_parameters():
        if p.dim() > 1:
            nn.init.normal_(p, std=p[0].numel() ** -0.5)
        elif "bn" not in name and "dfl" not in name:
            nn.init.normal_(p, std=0.3)
    for m in model.modules():
        if isinstance(m, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.uniform_(m.running_mean, -0.3, 0.3)
            nn.init.uniform_(m.running_var, 0.5, 1.5)
    model.names, model.task = {0: "cat", 1: "dog", 2: "owl"}, "detect"
    return model.eval()


def maps_of(model):
    """Return what each row but the last gives."""
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    maps = {}
    with torch.no_grad():
        for i, layer in enumerate(model.model[:-1]):
            x = maps[i] = layer(x)
    return maps


def main(folder):
    paste()
    for kind in ROWS:
        model = build(kind)
        torch.save(maps_of(model), folder / f"{kind}.maps")
        beside = {
            "epoch": -1, "train_args": {"imgsz": 64, "data": "mine.yaml", "model": "old.yaml"}, "date": "2024-05-01",
            "version": "8.2.0", "train_metrics": {"metrics/mAP50-95(B)": 0.412}, "optimizer": {"state": {}},
        }  # fmt: skip
        torch.save({**beside, "model": model}, folder / f"{kind}.pt")
        torch.save({**beside, "model": None, "ema": model.half()}, folder / f"{kind}-half.pt")
    model = build("se")
    model.forward = model.predict  # a bound method, as the host's fuse() leaves some
    torch.save({"model": nn.DataParallel(model)}, folder / "wrapped.pt")
    torch.save(model, folder / "alone.pt")
    model = build("se")
    model.yaml["backbone"][0][3] = [32, "large"]
    torch.save({"model": model}, folder / "unknown.pt")
    config = config_of(ROWS["se"])
    world = tasks.WorldModel({**config, "head": [[[-1], 1, "WorldDetect", ["nc", 512, False]]]}, nc=3, verbose=False)
    world.names = build("se").names
    torch.save({"model": world}, folder / "world.pt")
    torch.save(world.txt_feats, folder / "world.text")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
