"""Small checkpoints of every layer, saved once and kept, and beside each the map that its row gave.

They stand for the files on users' disks: every later version must read them and give the same maps. So a file that is
here is never written again. They are compressed; ``unpack`` returns what the host would find.

To freeze a new layer, add its rows to ``PLAIN`` and ``OPTIONS`` and run ``python tests/frozen/make.py``; it writes the
files that are missing.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import zlib
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save
from torch import Tensor, nn

FOLDER = Path(__file__).parent
WIDTH, CLASSES = 16, 4
GATE = 0.09375  # exact in fp16; opens the gate to 0.75
Row = tuple[str, dict[str, Any]]

PLAIN: dict[str, Row] = {
    "se": ("SE", {"reduction": 4}),
    "a2": ("DoubleAttention", {"c_m": 8, "c_n": 12}),
    "bam": ("BAM", {"reduction": 4}),
    "biformer": ("BiFormer", {"n_win": 3, "num_heads": 4, "topk": 2}),
    "mhsa": ("MHSA", {"num_heads": 4}),
    "mhsa-lepe": ("MHSALePE", {"num_heads": 4}),
    "caa": ("CAA", {"h_kernel_size": 5, "v_kernel_size": 7}),
    "cbam": ("CBAM", {"reduction": 4}),
    "clo": ("CloAttention", {"num_heads": 4, "group_split": [2, 2], "window_size": 2}),
    "crisscross": ("CrissCross", {}),
    "coordatt": ("CoordAtt", {}),
    "cot": ("CoT", {}),
    "cpca": ("CPCA", {}),
    "dat": ("DAttention", {"n_heads": 4, "n_groups": 2}),
    "eca": ("ECA", {}),
    "ema": ("EMA", {"factor": 4}),
    "simam": ("SimAM", {}),
    "gam": ("GAM", {}),
    "triplet": ("Triplet", {}),
    "shuffle": ("Shuffle", {"groups": 4}),
    "mlca": ("MLCA", {}),
    "sk": ("SK", {}),
    "lska": ("LSKA", {"kernel_size": 11}),
    "lsk": ("LSK", {}),
    "scsa": ("SCSA", {"head_num": 4, "window_size": 3}),
    "ela": ("ELA", {"kernel_size": 5, "num_groups": 8}),
    "polarized": ("Polarized", {}),
    "polarized-seq": ("PolarizedSeq", {}),
    "psa-p": ("PSA_p", {}),
    "psa-s": ("PSA_s", {}),
    "gc": ("GC", {"ratio": 0.25}),
    "timm-eca": ("TimmAttention", {"name": "eca"}),
    "timm-cbam": ("TimmAttention", {"name": "cbam", "rd_ratio": 0.25}),
    "timm-nl": ("TimmAttention", {"name": "nl"}),
    "pointwise": ("Pointwise", {"hidden": 5}),
}
UNGATED = {"crisscross", "gc", "timm-nl"}  # start as the identity by zeros of their own
GATED: dict[str, Row] = {
    f"{name}-gated": (layer, {**arguments, "gate": True})
    for name, (layer, arguments) in PLAIN.items()
    if name not in UNGATED
}
_BIFORMER = PLAIN["biformer"][1]
_CLO = {"num_heads": 4, "window_size": 2}
_DAT = {"n_heads": 4, "n_groups": 2}
# Arguments that add, drop or change parameters or submodules.
OPTIONS: dict[str, Row] = {
    "se-bias": ("SE", {"reduction": 4, "bias": True}),
    "a2-residual": ("DoubleAttention", {"c_m": 8, "c_n": 12, "residual": True}),
    "a2-no-reconstruct": ("DoubleAttention", {"c_m": 8, "c_n": 12, "reconstruct": False}),
    "bam-product": ("BAM", {"reduction": 4, "num_layers": 1, "combine": "product"}),
    "biformer-routing": ("BiFormer", dict(_BIFORMER, soft_routing=True, diff_routing=True, param_routing=True)),
    "biformer-conv": ("BiFormer", dict(_BIFORMER, n_win=2, kv_downsample_mode="conv", kv_downsample_ratio=2)),
    "biformer-bare": ("BiFormer", dict(_BIFORMER, qk_dim=8, param_attention="qkv", side_dwconv=0, mask_pad=True)),
    "mhsa-bias": ("MHSA", {"num_heads": 4, "qkv_bias": True}),
    "mhsa-lepe-values": ("MHSALePE", {"num_heads": 4, "qkv_bias": True, "side_dwconv": 3, "lepe_on": "v"}),
    "mhsa-lepe-none": ("MHSALePE", {"num_heads": 4, "side_dwconv": 0}),
    "caa-gate-only": ("CAA", {"gate_only": True}),
    "cbam-mlp-bias": ("CBAM", {"reduction": 4, "mlp_bias": True}),
    "cbam-spatial-bn": ("CBAM", {"reduction": 4, "kernel_size": 3, "spatial_bn": True}),
    "cbam-detect": ("CBAM", {"reduction": 4}),
    "clo-two-local": ("CloAttention", dict(_CLO, group_split=[1, 1, 2], kernel_sizes=[3, 5])),
    "clo-local-only": ("CloAttention", dict(_CLO, group_split=[4, 0])),
    "clo-global-only": ("CloAttention", dict(_CLO, group_split=[4], kernel_sizes=[], qkv_bias=False, pool="ceil")),
    "crisscross-twice": ("CrissCross", {"recurrence": 2}),
    "dat-log": ("DAttention", dict(_DAT, dwc_pe=False, log_cpb=True)),
    "dat-table": ("DAttention", dict(_DAT, dwc_pe=False, q_size=[4, 3])),
    "dat-fixed": ("DAttention", dict(_DAT, dwc_pe=False, fixed_pe=True, q_size=[4, 3])),
    "dat-no-offsets": ("DAttention", dict(_DAT, stride=2, no_off=True)),
    "dat-stride": ("DAttention", dict(_DAT, stride=2, use_pe=False)),
    "eca-bias": ("ECA", {"kernel_size": 5, "bias": True}),
    "gam-grouped": ("GAM", {"channel_sigmoid": False, "grouped": True}),
    "triplet-two-planes": ("Triplet", {"no_spatial": True}),
    "mlca-local": ("MLCA", {"local_size": 3, "gamma": 1, "local_weight": 0.8}),
    "sk-groups": ("SK", {"kernels": [3, 5], "reduction": 2, "group": 4, "L": 4}),
    "scsa-map": ("SCSA", {"window_size": -1, "attn_drop_ratio": 0.1}),
    "scsa-max": ("SCSA", {"window_size": 2, "group_kernel_sizes": [3, 3, 5, 11], "down_sample_mode": "max_pool"}),
    "scsa-softmax": ("SCSA", {"head_num": 2, "qkv_bias": True, "gate_layer": "softmax"}),
    "ela-groups": ("ELA", {"groups": 2}),
    "ela-pointwise": ("ELA", {"kernel_size": 1, "groups": 1, "bias": True}),
    "gc-mean": ("GC", {"ratio": 0.25, "pooling_type": "avg"}),
    "gc-mul": ("GC", {"ratio": 0.25, "fusion_types": ["channel_mul"]}),
    "gc-mul-gated": ("GC", {"ratio": 0.25, "fusion_types": ["channel_mul"], "gate": True}),
    "timm-lambda": ("TimmAttention", {"name": "lambda", "r": 3}),
    "gc-both": ("GC", {"ratio": 0.25, "fusion_types": ["channel_mul", "channel_add"]}),
}
CASES: dict[str, Row] = {**PLAIN, **GATED, **OPTIONS}


def model_yaml(name: str) -> dict[str, Any]:
    """Return a model of a convolution, the row and a head: the host's own for ``*-detect``, a small one for others."""
    layer, arguments = CASES[name]
    rows: list[list[Any]] = [[-1, 1, "Conv", [WIDTH, 3, 2]], [-1, 1, layer, [arguments] if arguments else []]]
    if is_detector(name):
        head: list[list[Any]] = [[[-1], 1, "Detect", ["nc"]]]
    else:
        width = arguments["c_m"] if arguments.get("reconstruct") is False else WIDTH
        pool = [[-1, 1, "nn.AdaptiveAvgPool2d", [1]], [-1, 1, "nn.Flatten", []]]
        head = [*pool, [-1, 1, "nn.Linear", [width, CLASSES]]]
    return {"nc": CLASSES, "backbone": rows, "head": head, "yaml_file": f"{name}.yaml"}


def is_detector(name: str) -> bool:
    """Tell whether a case has the host's detection head."""
    return name.endswith("-detect")


def randomise(model: nn.Module, seed: int) -> None:
    """Fill the first two rows with numbers that fp16 holds, none of it idle, and the head with zeros."""
    random = torch.Generator().manual_seed(seed)

    def normal(tensor: Tensor, mean: float, std: float) -> None:
        tensor.copy_(torch.randn(tensor.shape, generator=random).mul(std).add(mean).half())

    with torch.no_grad():
        for key, tensor in model.state_dict().items():
            last = key.rpartition(".")[2]
            if not key.startswith(("model.0.", "model.1.")):  # the head may be large, and is not ours
                tensor.zero_()
            elif last == "num_batches_tracked":
                tensor.fill_(100)
            elif last == "gate":
                tensor.fill_(GATE)
            elif last == "running_var":
                tensor.copy_(torch.rand(tensor.shape, generator=random).add(0.5).half())
            elif tensor.dim() > 1:
                normal(tensor, 0.0, max(0.2, 1.5 / tensor[0].numel() ** 0.5))
            else:
                normal(tensor, float(last in ("weight", "gamma")), 0.3)


def checkpoint(name: str) -> dict[str, Any]:
    """Return what the host's trainer leaves in ``best.pt``."""
    import ultralytics
    from ultralytics.nn.tasks import ClassificationModel, DetectionModel
    from ultralytics.utils import DEFAULT_CFG_DICT

    task = "detect" if is_detector(name) else "classify"
    model = (DetectionModel if is_detector(name) else ClassificationModel)(model_yaml(name), verbose=False)
    randomise(model, zlib.crc32(name.encode()))
    model.task = task
    model.args = {**DEFAULT_CFG_DICT, "task": task, "model": f"{name}.yaml", "data": "frozen", "epochs": 1}
    model.eval().half().requires_grad_(False)
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "version": ultralytics.__version__,
        "license": "AGPL-3.0 License (https://ultralytics.com/license)",
        "docs": "https://docs.ultralytics.com",
        "epoch": -1,
        "best_fitness": None,
        "model": model,
        "ema": None,
        "updates": None,
        "optimizer": None,
        "train_args": model.args,
        "train_metrics": {},
        "train_results": {},
    }


def image() -> Tensor:
    """Return the image that all cases see, two of them, of an odd map size that no window divides."""
    return load_file(FOLDER / "image.safetensors")["image"]


def layer_map(model: nn.Module, x: Tensor) -> Tensor:
    """Return the map that comes out of the row, called as the host calls it."""
    with torch.no_grad():
        return model.model[1](model.model[0](x))


def unpack(name: str, folder: Path) -> Path:
    """Write the checkpoint of a case into a folder as it was saved, and return the file."""
    file = folder / f"{name}.pt"
    file.write_bytes(gzip.decompress((FOLDER / f"{name}.pt.gz").read_bytes()))
    return file


def make(name: str, folder: Path = FOLDER) -> None:
    """Write the checkpoint of a case, and beside it its map (from float64) and the keys and shapes of its state.

    Raises:
        FileExistsError: If one of the two files is there.
    """
    content = checkpoint(name)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    expected = layer_map(copy.deepcopy(content["model"]).double(), image().double())
    state = {key: list(tensor.shape) for key, tensor in content["model"].state_dict().items()}
    for suffix, data in (
        (".pt.gz", gzip.compress(buffer.getvalue(), mtime=0)),
        (".safetensors", save({"map": expected.float().contiguous()}, {"state": json.dumps(state)})),
    ):
        with (folder / f"{name}{suffix}").open("xb") as file:
            file.write(data)


def main() -> None:
    """Write the files of all cases that have none."""
    shared = FOLDER / "image.safetensors"
    if not shared.exists():
        shared.write_bytes(save({"image": torch.rand(2, 3, 14, 10, generator=torch.Generator().manual_seed(0))}))
    for name in CASES:
        if not (FOLDER / f"{name}.pt.gz").exists():
            make(name)


if __name__ == "__main__":
    main()
