"""Layers of timm in models: rows, names, transfer, folding, checkpoints, restricted loading."""

from __future__ import annotations

import copy
import re
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import yolo_attn
from experiments.transfer_table import randomise
from yolo_attn.errors import RowError
from yolo_attn.graft import graft, graft_all, split_name, without_gates
from yolo_attn.host.model import transfer
from yolo_attn.host.model.surgery import _flat as flat
from yolo_attn.layers import TimmAttention
from yolo_attn.layers._timm import NAMES
from yolo_attn.layers.gated import Gated

tasks = pytest.importorskip("ultralytics.nn.tasks")
can_restrict = hasattr(tasks, "_SafeLoad") and tasks._SafeLoad.SUPPORTED
RESTRICTED = pytest.mark.parametrize(
    "restricted",
    ["0", pytest.param("1", marks=pytest.mark.skipif(not can_restrict, reason="needs Ultralytics 8.4.120, torch 2.6"))],
)
ALL = [(f"timm-{name}", place, []) for place, name in enumerate(NAMES)]  # one behind each of the first rows of yolov8


@pytest.fixture(autouse=True, scope="module")
def patched():
    yolo_attn.install()


def model(row: object, **changes: object) -> nn.Module:
    config = tasks.yaml_model_load("yolov8n-cbam.yaml")
    config["backbone"][10] = [-1, 1, "TimmAttention", row]
    return tasks.DetectionModel({**config, **changes}, verbose=False)


@pytest.fixture(scope="module")
def every() -> dict:
    return graft_all(tasks.yaml_model_load("yolov8n.yaml"), ALL)


def outputs(network: nn.Module) -> list[torch.Tensor]:
    x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return flat(network.eval()(x))


def ours(network: nn.Module) -> list[TimmAttention]:
    return [module for module in network.modules() if isinstance(module, TimmAttention)]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (["eca"], "name='eca'"),
        (["ECA"], "name='eca'"),
        (["lambda"], "name='lambda'"),  # a word of Python's own, which the host would read
        ([1024, "eca"], "name='eca'"),
        ([1024, 1024, "eca"], "name='eca'"),
        ({"name": "eca"}, "name='eca'"),
        (["cbam", {"rd_ratio": 0.25}], "name='cbam', rd_ratio=0.25"),
        (["cbam", {"rd_ratio": "0.25", "mlp_bias": True}], "name='cbam', rd_ratio=0.25, mlp_bias=True"),
        (["cbam", {"options": {"rd_ratio": 0.25}, "mlp_bias": True}], "name='cbam', rd_ratio=0.25, mlp_bias=True"),
        ({"name": "coord", "act_layer": "silu", "norm_layer": None}, "'coord', act_layer='silu', norm_layer=None"),
        ({"name": "coord", "norm_layer": "None"}, "name='coord', norm_layer=None"),
        (["se", {"channel": 256, "in_channels": 1024, "bias": False}], "name='se', bias=False"),
    ],
)
def test_rows(row: object, said: str) -> None:
    layer = model(row).model[10]
    assert layer.extra_repr() == f"channels=256, {said}" or layer.extra_repr().endswith(said)


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ([], r"row 10: TimmAttention: name=None must be timm's name of a layer, one of se, ese"),
        ([None], r"row 10: TimmAttention: name=None must be"),
        ([True], r"row 10: TimmAttention: name=True must be"),
        ([""], r"row 10: TimmAttention: name='' must be"),
        ([100, "eca"], r"100 is not the width of the row it reads, 256 .*: write \[\"eca\"\]"),
        (["halo"], r"row 10: TimmAttention: name='halo' cannot be used: the sides of a map must be multiples of 8"),
        (["ecca"], r"row 10: TimmAttention: name='ecca' is no layer of timm; did you mean 'eca'"),
        (["se", {"reduction": 4}], r"row 10: TimmAttention\('se', rd_ratio=0.0625, .*\) has no argument 'reduction'"),
        (["se", {"rd_ration": 4}], r"row 10: .* has no argument 'rd_ration'; did you mean 'rd_ratio'"),
        (["se", {"rd_ratio": -1}], r"row 10: TimmAttention: rd_ratio=-1 must be a number > 0"),
        (["se", {"rd_ratio": 1e7}], r"row 10: TimmAttention\(256, se, .* parameters; 536,870,912 are allowed"),
        (["se", "rd_ratio=0.25"], r"options='rd_ratio=0.25' must be a mapping of arguments, such as {rd_ratio: 0.25}"),
        (["se", {"in_channels": 99}], r"row 10: TimmAttention: in_channels=99 is not the width it gets, 256"),
        (["nl", {"gate": True}], r"row 10: TimmAttention: TimmAttention starts as the identity itself"),
    ],
)
def test_a_row_that_cannot_work_says_why(row: list, said: str) -> None:
    with pytest.raises(RowError, match=said):
        model(row)


def test_the_rows_of_the_docs_build() -> None:
    text = (Path(__file__).parents[3] / "docs" / "layers.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```yaml\n(.*?)```", text, re.S) if "Timm" in block]
    built = [model(row[3]).model[10].extra_repr() for row in yaml.safe_load(block)]
    assert [said.partition("name=")[2] for said in built] == [
        "'eca'",
        "'se', rd_ratio=0.25",
        "'coord', act_layer='silu'",
    ]


@pytest.mark.parametrize("scale", "nsmlx")
def test_every_layer_builds_at_every_scale(scale: str) -> None:
    config = tasks.yaml_model_load(f"yolov8{scale}.yaml")
    rows = [[-1, 1, "TimmAttention", [name]] for name in NAMES]
    config["backbone"] = [*([-1, 1, "Conv", [256, 3, 2]] for _ in range(4)), *rows]
    config["head"] = [[[-1], 1, "Detect", ["nc"]]]
    assert [layer.name for layer in ours(tasks.DetectionModel(config, verbose=False))] == list(NAMES)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("yolov8n-timm-eca", [(10, ["eca"])]),
        ("yolov8n-TIMM-ECA", [(10, ["eca"])]),
        ("yolo11n-timm-gc-neck", [(17, ["gc"]), (21, ["gc"]), (25, ["gc"])]),
        ("yolov8n-cbam-timm-eca-neck-p4", [(20, ["eca"])]),
        ("yolov8n-timm-se-timm-lambda-neck-p3", [(10, ["se"]), (17, ["lambda"])]),
        ("yolo11n-seg-timm-coord-backbone-p4-se", [(7, ["coord"])]),
        ("rtdetr-l-timm-nl", [(10, ["nl"])]),
    ],
)
def test_names(name: str, rows: list) -> None:
    config = tasks.yaml_model_load(f"{name}.yaml")
    written = enumerate([*config["backbone"], *config["head"]])
    assert [(index, row[3]) for index, row in written if row[2] == "TimmAttention"] == rows


@pytest.mark.parametrize("name", NAMES)
def test_every_name_stands_for_a_model(name: str) -> None:
    assert split_name(f"yolov8n-timm-{name}-neck")[-1] == ("yolov8n", f"timm-{name}", "neck")
    config = tasks.yaml_model_load(f"yolov8n-timm-{name}.yaml")
    assert config["backbone"][10] == [-1, 1, "TimmAttention", [name]]


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("yolov8n-timm", ": 'timm' stands before the name of a layer: 'timm-eca'. Names: se, ese, "),
        ("yolov8n-timm-neck", ": 'timm' stands before the name of a layer: 'timm-eca'. Names: se, ese, "),
        ("yolov8n-timmattention", ": 'timm' stands before the name of a layer: 'timm-eca'. Names: se, ese, "),
        ("yolov8n-timm-halo", ": 'halo' cannot be used: the sides of a map must be multiples of 8, and it does not"),
        ("yolov11n-timm-bat-neck", ": 'bat' cannot be used: the sides of a map must be multiples of 7, and it does"),
        ("yolov8n-timm-sk", ": 'sk' cannot be used: its batch norm over pooled values cannot train on one image."),
        ("yolov8n-timm-ecca", ": 'ecca' is no layer of timm; did you mean 'eca'? Names: se, ese, "),
        ("yolov8n-timm-ela-nek", ": 'nek' is no place for a layer; did you mean 'neck'?"),
        ("yolov11n-timm-eca", "; did you mean 'yolo11n-timm-eca.yaml'?"),
        ("yolov8n_timm_eca_neck", "; did you mean 'yolov8n-timm-eca-neck.yaml'?"),
        ("yolov8n-neck-timm-eca", "; did you mean 'yolov8n-timm-eca-neck.yaml'?"),
    ],
)
def test_names_of_no_model(name: str, said: str) -> None:
    with pytest.raises(FileNotFoundError, match=re.escape(f"'{name}.yaml' does not exist{said}")):
        tasks.yaml_model_load(f"{name}.yaml")


def test_graft_takes_the_class_with_arguments_or_the_name() -> None:
    base = tasks.yaml_model_load("yolov8n.yaml")
    for layer, args in (("TimmAttention", ["se", {"rd_ratio": 0.25}]), ("timm-se", [{"rd_ratio": 0.25}])):
        assert graft(base, layer, "backbone", args)["backbone"][10] == [
            -1,
            1,
            "TimmAttention",
            ["se", {"rd_ratio": 0.25}],
        ]


def test_yolo_attn_graft_takes_the_name(run, tmp_path: Path) -> None:
    said = run(
        "yolo-attn",
        "graft",
        "yolo11n.yaml",
        "--layer",
        "timm-se",
        "--at",
        "neck",
        "--args",
        "{rd_ratio: 0.25}",
        "-o",
        "mine.yaml",
    )
    assert "['se', {'rd_ratio': 0.25}]]" in said.stdout
    written = (tmp_path / "mine.yaml").read_text()
    assert "TimmAttention se at neck" in written
    assert [row[3] for row in yaml.safe_load(written)["head"] if row[2] == "TimmAttention"] == [
        ["se", {"rd_ratio": 0.25}]
    ] * 3


def test_pretrained_weights_arrive_and_every_layer_starts_as_the_identity(every: dict) -> None:
    base = randomise(tasks.DetectionModel("yolov8n.yaml", verbose=False))
    target = tasks.DetectionModel(every, verbose=False)
    assert len(ours(target)) == len(NAMES)
    target.load(base)
    assert transfer.reports[target].complete
    assert all(torch.equal(a, b) for a, b in zip(outputs(target), outputs(base), strict=True))
    gated = {m.layer.name for m in target.modules() if isinstance(m, Gated)}
    assert gated == NAMES.keys() - {"nl"}  # which is the identity from the start
    plain = tasks.DetectionModel(without_gates(every), verbose=False)
    plain.load(base)
    assert not any(isinstance(m, Gated) for m in plain.modules())


def test_fused_outputs_are_those_of_the_model(every: dict) -> None:
    network = randomise(tasks.DetectionModel(every, verbose=False)).eval()
    expected = outputs(network)
    fused = copy.deepcopy(network).fuse(verbose=False)
    assert all((a - e).abs().max() < 1e-5 * e.abs().max() for a, e in zip(outputs(fused), expected, strict=True))
    norms = {m.name: sum(isinstance(n, nn.BatchNorm2d) for n in m.modules()) for m in ours(network)}
    left = {m.name: sum(isinstance(n, nn.BatchNorm2d) for n in m.modules()) for m in ours(fused)}
    assert {name: n for name, n in norms.items() if n} == {"cbam": 1, "lcbam": 1, "coord": 1, "nl": 1, "lambda": 2}
    assert {name: n for name, n in left.items() if n} == {"lambda": 2}  # between two products, not behind a convolution


@pytest.mark.parametrize(
    ("row", "kept"),
    [
        (["eca"], {"name": "eca"}),
        ([1024, "SE", {"rd_ratio": 0.25}], {"name": "se", "options": {"rd_ratio": 0.25}}),
        (
            ["coord", {"norm_layer": None, "gate": True}],
            {"name": "coord", "options": {"norm_layer": None}, "gate": True},
        ),
    ],
)
def test_a_checkpoints_rows_keep_their_meaning(row: list, kept: dict, tmp_path: Path) -> None:
    network = randomise(model(row))
    torch.save({"model": network, "train_args": {}}, tmp_path / "old.pt")
    opened = tasks.torch_safe_load(str(tmp_path / "old.pt"))[0]["model"]
    assert opened.yaml["backbone"][10] == [-1, 1, "TimmAttention", [kept]]
    rebuilt = tasks.DetectionModel(opened.yaml, verbose=False)
    rebuilt.load(opened)
    assert transfer.reports[rebuilt].complete and not transfer.reports[rebuilt].new
    assert str(rebuilt.model[10]) == str(network.model[10])
    assert all(torch.equal(a, b) for a, b in zip(outputs(rebuilt), outputs(network), strict=True))


@RESTRICTED
def test_a_checkpoint_opens_in_another_process(restricted: str, every: dict, run, tmp_path: Path) -> None:
    every = copy.deepcopy(every)
    every["backbone"][1][3] = ["se", {"gate_layer": "gelu"}]  # a class of timm that no default has
    network = randomise(tasks.DetectionModel(every, verbose=False))
    torch.save({"model": network, "train_args": {}}, tmp_path / "timm.pt")
    torch.save(outputs(network)[0], tmp_path / "y.pt")
    code = (
        "import sys, torch\nfrom ultralytics import YOLO\nassert 'timm' not in sys.modules\n"
        "network = YOLO('timm.pt').model.eval()\n"
        "x = torch.rand(1, 3, 64, 96, generator=torch.Generator().manual_seed(0))\n"
        "with torch.no_grad():\n    y = network(x)[0]\n"
        "print((y - torch.load('y.pt')).abs().max().item() < 1e-5 * y.abs().max().item())"  # other threads, other sums
    )
    assert run("python", "-c", code, ULTRALYTICS_SAFE_LOAD=restricted).stdout.split()[-1] == "True"


def test_a_model_without_timm_never_imports_it(run) -> None:
    code = (
        "import sys\nfrom ultralytics import YOLO\nYOLO('yolov8n-cbam.yaml').save('a.pt')\nYOLO('a.pt')\n"
        "print('timm' in sys.modules, 'yolo_attn' in sys.modules)"
    )
    for restricted in "01":
        assert run("python", "-c", code, ULTRALYTICS_SAFE_LOAD=restricted).stdout.split()[-2:] == ["False", "True"]


@RESTRICTED
def test_strip_takes_them_out(restricted: str, run, tmp_path: Path) -> None:
    torch.save({"model": tasks.DetectionModel("yolov8n-timm-eca-neck.yaml", verbose=False)}, tmp_path / "a.pt")
    said = run("python", "-m", "yolo_attn", "strip", "a.pt", "--force", ULTRALYTICS_SAFE_LOAD=restricted).stdout
    assert "wrote a-plain.pt" in said and "3 attention layers" in said
