"""``yolo-attn graft`` and ``yolo-attn strip`` as a user runs them, and names that need no file."""

from __future__ import annotations

import copy
import shlex
from pathlib import Path

import pytest
import torch
import yaml

import yolo_attn
from yolo_attn import registry
from yolo_attn.errors import RowError
from yolo_attn.graft import find_rows, graft, remove, split_name, strides
from yolo_attn.host.model import yamls
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")
ROOT = Path(tasks.__file__).parents[1] / "cfg" / "models"
# It downloads the weights of its backbone when it is built.
YAMLS = sorted(path for path in ROOT.rglob("*.yaml") if "resnet18" not in path.name)


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def rows_of(name: str) -> list:
    model = tasks.yaml_model_load(name)
    return [*model["backbone"], *model["head"]]


@pytest.mark.parametrize("path", YAMLS, ids=lambda path: path.stem)
def test_every_model_the_host_ships_can_be_grafted_at_every_place(path: Path) -> None:
    model = yaml.safe_load(path.read_text(encoding="utf-8"))
    if "scales" in model:
        model["scale"] = next(iter(model["scales"]))
    levels = [p for p in ("backbone", "neck") for n in range(2, 7) if _has(model, f"{p}-p{n}")]
    assert levels
    for place in ("backbone", "stages", "neck"):
        grafted = graft(model, "SE", place)
        layers, _ = tasks.parse_model(copy.deepcopy(grafted), 3, verbose=False)
        inserted = [m for m in layers if type(m).__name__ == "SE"]
        assert len(inserted) == len(find_rows(model, place)) >= 1
        old, new = ([r[2:] for r in [*m["backbone"], *m["head"]]] for m in (model, remove(grafted, {"SE"})))
        assert old == new


def _has(model: dict, place: str) -> bool:
    try:
        return bool(find_rows(model, place))
    except RowError:
        return False


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolov9t", "yolov5n", "yolov6n", "yolov10n", "rtdetr-l"])
def test_strides_are_those_of_the_maps(name: str) -> None:
    model = tasks.yaml_model_load(f"{name}.yaml")
    layers, _ = tasks.parse_model(model, 3, verbose=False)
    x, seen = torch.zeros(1, 3, 128, 128), []
    with torch.no_grad():
        for layer in layers.eval()[:-1]:
            given = x if layer.f == -1 else seen[layer.f] if isinstance(layer.f, int) else None
            x = layer([x if f == -1 else seen[f] for f in layer.f] if given is None else given)
            seen.append(x)
    assert strides(model)[:-1] == [128 // y.shape[-1] for y in seen]


@pytest.mark.parametrize(
    ("name", "scale", "layer", "count"),
    [
        ("yolo11s-cbam", "s", "CBAM", 1),
        ("yolov8n-seg-biformer-neck", "n", "BiFormer", 3),
        ("yolov8m-pose-coordatt", "m", "CoordAtt", 1),
        ("yolo11n-obb-caa-stages", "n", "CAA", 4),
        ("yolov5s-se", "s", "SE", 1),
        ("yolov10n-dat-neck", "n", "DAttention", 3),
        ("yolov9c-crisscross", "", "CrissCross", 1),
        ("yolov8n-cls-mhsa-lepe", "n", "MHSALePE", 1),
        ("rtdetr-l-cot-neck-p4", "", "CoT", 1),
    ],
)
def test_names_resolve_without_a_file(name: str, scale: str, layer: str, count: int) -> None:
    model = tasks.yaml_model_load(f"{name}.yaml")
    rows = [*model["backbone"], *model["head"]]
    assert (model["scale"], model["yaml_file"]) == (scale, f"{name}.yaml")
    assert [row[2] for row in rows if row[2] in registry.names()] == [layer] * count


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yolo11n-cbamm", "'cbamm' is no layer; did you mean 'cbam'"),
        ("yolo11n-cbma-neck", "'cbma' is no layer; did you mean 'cbam'"),
        ("yolo11n-cbam-nek", "'nek' is no place for a layer; did you mean 'neck'"),
        ("yolo11n-cbam-p3", "say 'backbone-p3' or 'neck-p3'"),
        ("yolov88n-cbam", r"Ultralytics has no yolov88n\.yaml; did you mean 'yolov8\.yaml'"),
    ],
)
def test_an_unknown_part_of_a_name_is_named(name: str, message: str) -> None:
    with pytest.raises(FileNotFoundError, match=message):
        tasks.yaml_model_load(f"{name}.yaml")


def test_a_level_the_model_has_not_is_named() -> None:
    with pytest.raises(RowError, match=r"yolov8n-cbam-neck-p7\.yaml: at='neck-p7': this model has neck-p3"):
        tasks.yaml_model_load("yolov8n-cbam-neck-p7.yaml")


def test_drop_ins_and_names_agree() -> None:
    for name in yamls.model_names():
        base, layer, place = next(iter(split_name(Path(name).stem)))
        model = graft(yamls.base_model(f"{base}.yaml"), layer, place)
        assert rows_of(name) == [*model["backbone"], *model["head"]]


def test_graft_writes_a_model_that_builds_and_never_overwrites(run, tmp_path: Path) -> None:
    arguments = "--layer CoordAtt --at neck --args [] --layer SE --at 4 --args '{reduction: 8}' -o mine.yaml"
    command = ("yolo-attn", "graft", "yolo11n.yaml", *shlex.split(arguments))
    said = run(*command).stdout
    assert "+ row 5: [-1, 1, 'SE', [{'reduction': 8}]]" in said
    assert "row 27 (23 before), Detect: reads [18, 22, 26] instead of [16, 19, 22]" in said
    assert "4 rows inserted, 24 kept" in said and "parameters 2,624,080 -> 2,639,896" in said and "GFLOPs" in said
    code = "from ultralytics import YOLO; print(str(YOLO('mine.yaml').model).count('): CoordAtt('))"
    built = run("python", "-c", code)
    assert built.stdout.split()[-1] == "3"
    before = (tmp_path / "mine.yaml").read_text()
    again = run(*command, ok=False)
    assert "mine.yaml exists" in again.stderr and (tmp_path / "mine.yaml").read_text() == before


def test_graft_names_what_is_wrong(run) -> None:
    for arguments, message in (
        (["--layer", "CoordAt", "--at", "neck"], "did you mean 'CoordAtt'"),
        (["--layer", "SE", "--at", "nek"], "at='nek'"),
        (["--layer", "SE", "--at", "²"], "at='²'"),
        (["--layer", "SE", "--at", "neck", "--layer", "CBAM"], "2 --layer, 1 --at and 0 --args"),
        (["--layer", "SE", "--at", "neck", "--args", "8"], "--args '8'"),
        (["--layer", "SE", "--at", "neck", "--args", "[]", "--args", "[]"], "1 --layer, 1 --at and 2 --args"),
    ):
        assert message in run("yolo-attn", "graft", "yolov8n.yaml", *arguments, "-o", "x.yaml", ok=False).stderr


def test_strip_gives_back_the_plain_model_and_refuses_where_gates_are_open(run, tmp_path: Path, monkeypatch) -> None:
    # Older hosts keep the activation of the last YAML that names one (YOLOv6) for the whole process.
    monkeypatch.setattr(tasks.Conv, "default_act", torch.nn.SiLU())
    torch.manual_seed(0)
    base = tasks.DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    model = tasks.DetectionModel("yolov8n-cbam-neck.yaml", nc=3, verbose=False)
    model.load(base)
    model.names = {0: "a", 1: "b", 2: "c"}
    torch.save({"model": model.half(), "epoch": -1, "train_args": {"imgsz": 64}}, tmp_path / "closed.pt")
    said = run("yolo-attn", "strip", "closed.pt").stdout
    assert "3 attention layers, 3 with a gate, largest gate 0" in said and "differ by 0 of" in said
    plain = torch.load(tmp_path / "closed-plain.pt", weights_only=False)
    assert plain["train_args"] == {"imgsz": 64} and plain["model"].names == model.names
    assert {type(m).__module__.split(".")[0] for m in plain["model"].modules()} <= {"torch", "ultralytics"}
    for key, value in plain["model"].state_dict().items():
        assert torch.equal(value, base.half().state_dict()[key])
    without = "from ultralytics import YOLO; m = YOLO('closed-plain.pt'); print(m.names, m.model.stride.tolist())"
    alone = run("python", "-c", without, YOLO_ATTN_AUTOLOAD="0").stdout
    assert "{0: 'a', 1: 'b', 2: 'c'} [8.0, 16.0, 32.0]" in alone

    with torch.no_grad():
        next(m for m in model.modules() if isinstance(m, Gated)).gate.fill_(0.5)
    torch.save({"model": model}, tmp_path / "open.pt")
    refused = run("yolo-attn", "strip", "open.pt", ok=False)
    assert "take part in the outputs" in refused.stderr and not (tmp_path / "open-plain.pt").exists()
    run("yolo-attn", "strip", "open.pt", "--force")
    assert (tmp_path / "open-plain.pt").exists()
    assert "nothing to strip" in run("yolo-attn", "strip", "closed-plain.pt", "-o", "y.pt", ok=False).stderr
