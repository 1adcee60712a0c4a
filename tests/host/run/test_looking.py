"""``yolo-attn look`` on real checkpoints with random weights: what is read, drawn, said and refused."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import Tensor, nn

import yolo_attn
from yolo_attn.cli import main
from yolo_attn.errors import CheckpointError, DataError, RowError
from yolo_attn.graft import graft
from yolo_attn.host.run import looking
from yolo_attn.look.panels import Bars, Map

tasks = pytest.importorskip("ultralytics.nn.tasks")
Make = Callable[..., Path]


class OwnGate(nn.Module):
    """A layer of one's own: the mean of each pixel decides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width

    def forward(self, x: Tensor) -> Tensor:
        return x * torch.sigmoid(x.mean(1, keepdim=True))


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Return a function that writes a checkpoint of a model by name, or of another with layers inserted."""
    yolo_attn.install()
    from ultralytics import YOLO
    from ultralytics.data.augment import classify_transforms

    folder, made = tmp_path_factory.mktemp("models"), {}

    def make(
        name: str, layer: str = "", at: str | int = "backbone", args: tuple = (), gate: float | None = None
    ) -> Path:
        key = f"{name}-{layer}-{at}-{args}-{gate}"
        if key not in made:
            torch.manual_seed(0)
            source = f"{name}.yaml"
            if layer:
                source = str(folder / f"{name}-{len(made)}.yaml")
                model = graft(tasks.yaml_model_load(f"{name}.yaml"), layer, at, list(args))
                Path(source).write_text(yaml.safe_dump({k: v for k, v in model.items() if k != "yaml_file"}))
            task = next((t for t in ("seg", "pose", "obb", "cls") if name.endswith(t)), None)
            model = YOLO(source, task={"seg": "segment", "cls": "classify", None: "detect"}.get(task, task))
            # What a training leaves there.
            model.ckpt = {**(model.ckpt or {}), "train_args": {"task": model.task}}
            model.model.transforms, model.model.kpt_shape = classify_transforms(64), [17, 3]
            for module in model.model.modules():
                if gate is not None and hasattr(module, "openness"):
                    nn.init.constant_(module.gate, gate)
            made[key] = folder / f"{len(made)}.pt"
            model.save(made[key])
        return made[key]

    return make


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    picture = Image.new("RGB", (120, 60), (30, 120, 60))
    picture.paste((250, 250, 250), (80, 10, 110, 50))
    picture.save("image.png")
    return Path("image.png")


MODELS = {
    "yolov8n-cbam": (1, ["row 10, CBAM, backbone-p5: 256 channels, 1x2", "channel gate:", "spatial gate:"]),
    "yolov8n-biformer-neck": (3, ["row 16, BiFormer, neck-p3: 64 channels, 4x8", "weights of the pixel in 4 of 49"]),
    "yolov8n-dat-neck": (3, ["row 24, DAttention, neck-p5", "weights of the pixel on 8 sample points in each of 4"]),
    "yolov8n-cbam-blocks": (10, ["row 4 (m.1.cv2), CBAM, backbone-blocks: 32 channels, 4x8"]),
    "yolov8n-timm-se": (1, ["row 10, TimmAttention se, backbone-p5"]),
}


@pytest.mark.parametrize("name", MODELS)
def test_the_verb(name: str, make: Make, image: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoint, (layers, said) = make(name), MODELS[name]
    assert main(["look", str(checkpoint), str(image), "--imgsz", "64"]) == 0
    printed = capsys.readouterr().out
    assert all(each in printed for each in said), printed
    assert sum(line.startswith("row ") for line in printed.splitlines()) == layers
    assert "120x60; the network sees 64x32" in printed and "Open the picture: image-look.png" in printed
    assert f"yolo predict model={checkpoint} source=image.png visualize=True" in printed
    with Image.open("image-look.png") as picture:
        assert picture.format == "PNG" and picture.width == 2000


def test_panels_and_numbers_are_saved_and_nothing_is_overwritten(make: Make, image: Path, capsys) -> None:
    words = ["look", str(make("yolov8n-cbam")), str(image), "--imgsz", "64", "-o", "a.png", "--save", "out"]
    assert main(words) == 0
    names = {path.name for path in Path("out").iterdir()}
    assert names == {"image.png", "row10-CBAM-01-channel-gate.png", "row10-CBAM-02-spatial-gate.png", "row10-CBAM.npz"}
    numbers = np.load("out/row10-CBAM.npz")
    product = numbers["01-channel-gate.values"].reshape(-1, 1, 1) * numbers["02-spatial-gate.values"]
    np.testing.assert_allclose(product, numbers["factor"], rtol=1e-5)
    before = Path("a.png").stat().st_mtime_ns
    assert main(words) == 1 and "a.png is there already" in capsys.readouterr().err
    assert main([*words[:-4], "-o", "b.png", "--save", "out"]) == 1
    assert "--save out: it is there and not empty" in capsys.readouterr().err and not Path("b.png").exists()
    assert Path("a.png").stat().st_mtime_ns == before
    assert main([*words, "--force"]) == 0 and Path("a.png").stat().st_mtime_ns > before


def test_a_layer_whose_gate_is_closed_says_so(make: Make, image: Path) -> None:
    said: list[str] = []
    closed = make("yolov8n", "CBAM", args=({"gate": True},))
    (reading,) = looking.look(closed, image, imgsz=64, say=said.append)
    assert reading.layer.openness == 0 and reading.effect == 0 and len(reading.panels) == 2
    assert any(line.startswith("  its gate g is 0: the layer is the identity") for line in said)
    half = make("yolov8n", "CBAM", args=({"gate": True},), gate=1 / 16)
    (reading,) = looking.look(half, image, "b.png", imgsz=64, say=said.append)
    assert reading.layer.openness == 0.5 and reading.effect == reading.change / 2


def test_a_layer_of_ones_own_and_rows_that_are_chosen(make: Make, image: Path) -> None:
    yolo_attn.register("OwnGate", OwnGate)
    try:
        checkpoint = make("yolov8n", "OwnGate", "neck")
        readings = looking.look(checkpoint, image, rows=[20, 9], imgsz=64, say=str)
    finally:
        yolo_attn.unregister("OwnGate")
    pooling, own = readings
    assert own.layer.label == "row 20, OwnGate, neck-p4" and own.exact
    assert [type(panel) for panel in own.panels] == [Map]
    assert pooling.layer.label == "row 9, SPPF" and pooling.panels[0].title == "measured factor of each pixel"


def test_attention_of_ultralytics_itself_can_be_chosen(make: Make, image: Path) -> None:
    (reading,) = looking.look(make("yolo11n"), image, rows=[10], imgsz=64, say=str)
    assert reading.layer.name == "C2PSA"
    assert [panel.title for panel in reading.panels] == ["weights of the pixel, mean of 2 heads"]


def test_the_map_of_a_layer_is_what_the_network_gives_it(make: Make, image: Path) -> None:
    model = looking._open(make("yolov8n-cbam"))
    network = model.model.float().eval()
    seen = torch.rand(1, 3, 64, 96)
    maps = looking._maps(network, seen, ["model.10"])
    x = seen
    for layer in network.model[:10]:
        x = layer(x)
    torch.testing.assert_close(maps["model.10"], x)
    assert not network.model[10]._forward_hooks


WRONG = {
    "no.pt image.png": "no.pt does not exist",
    "MODEL no.png": "no.png: no such image",
    "MODEL text.png": "text.png cannot be read as an image",
    "MODEL empty.png": "empty.png cannot be read as an image",
    "PLAIN image.png": "has no attention layer of yolo-attn. Train a model that has one: yolo train model=yolov8n-cbam",
    "image.png image.png": "image.png is no checkpoint",
    "text.pt image.png": "text.pt is no checkpoint that torch can read",
    "dict.pt image.png": "dict.pt holds no model",
    "MODEL image.png -o look.jpg": "-o look.jpg: the picture is a PNG; name it look.png",
    "MODEL image.png -o no/look.png": "there is no folder no",
    "MODEL image.png --pixel 120,10": "--pixel 120,10: image.png is 120 pixels wide and 60 high",
    "MODEL image.png --pixel left": "--pixel 'left': give x and y in the image, such as 320,240",
    "MODEL image.png --layer 24": "--layer 24: ",
    "MODEL image.png --layer 12": "12, Concat: it does not keep the shape of one map",
    "MODEL image.png --imgsz big": "--imgsz 'big'",
    "MODEL image.png --imgsz 999999999": "image.png cannot be scaled to imgsz=[999999999, 999999999]: give a smaller",
    "MODEL image.png --device gpu": "device='gpu': Invalid CUDA 'device=gpu' requested",
    "MODEL https://a.b/image.png": "https://a.b/image.png: no such image; give one file",
    "MODEL image.png -o image.png --force": "-o image.png: the picture would replace image.png; name another",
}  # fmt: skip


@pytest.mark.parametrize("words", WRONG)
def test_what_cannot_be_used(words: str, make: Make, image: Path, capsys) -> None:
    Path("text.png").write_text("no image")
    Path("empty.png").touch()
    Path("text.pt").write_text("no checkpoint")
    torch.save({"epoch": 1}, "dict.pt")
    given = [{"MODEL": str(make("yolov8n-cbam")), "PLAIN": str(make("yolov8n"))}.get(w, w) for w in words.split()]
    files = {path: path.stat().st_size for path in Path().iterdir()}
    assert main(["look", *given]) == 1
    assert WRONG[words] in capsys.readouterr().err
    assert {path: path.stat().st_size for path in Path().iterdir()} == files


TASKS = {"yolov8n-seg": (32, 64), "yolov8n-pose": (32, 64), "yolov8n-obb": (32, 64), "yolov8n-cls": (64, 64)}


@pytest.mark.parametrize("name", TASKS)
def test_other_tasks_and_where_the_image_lies(name: str, make: Make, image: Path) -> None:
    checkpoint = make(name, "SE", 4 if name.endswith("cls") else "backbone")
    (reading,) = looking.look(checkpoint, image, imgsz=64, say=str)
    assert [type(panel) for panel in reading.panels] == [Bars]
    result, seen = looking._predict(looking._open(checkpoint), image, 64, None)
    frame = looking.frame_of((60, 120), tuple(seen.shape[2:]), result, None)
    assert frame.seen == TASKS[name]
    rows, columns = np.indices(frame.seen)
    white = np.zeros(frame.seen, bool)
    for row, column in zip(rows.flat, columns.flat, strict=True):
        x, y = frame.point(column + 0.5, row + 0.5, frame.seen)
        white[row, column] = 80 <= x < 110 and 10 <= y < 50
    bright = (seen[0, 0] > seen[0, 0].mean()).numpy()
    assert white.any() and (white == bright).mean() > 0.97


def test_a_padded_image_is_found_in_what_the_network_sees(make: Make, tmp_path: Path) -> None:
    Image.new("RGB", (100, 70), (255, 255, 255)).save(tmp_path / "white.png")
    model = looking._open(make("yolov8n-cbam"))
    for size in (64, [96, 64]):
        result, seen = looking._predict(model, tmp_path / "white.png", size, None)
        frame = looking.frame_of((70, 100), tuple(seen.shape[2:]), result, model)
        white = (seen[0].mean(0) > 0.99).numpy()
        assert not white.all()
        np.testing.assert_array_equal(white, frame.inside(frame.seen))


def test_the_pixel_is_the_centre_of_the_surest_find() -> None:
    from ultralytics.engine.results import Results

    picture = np.zeros((50, 100, 3), np.uint8)
    picture[..., 0] = 200  # blue, as OpenCV counts
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0, 0.4, 0], [40.0, 20.0, 60.0, 30.0, 0.9, 1]])
    keypoints = torch.tensor([[[1.0, 1.0], [0.0, 0.0]], [[45.0, 25.0], [50.0, 28.0]]])
    result = Results(picture, "a.jpg", {0: "cat", 1: "dog"}, boxes=boxes, keypoints=keypoints)
    seen = torch.zeros(1, 3, 64, 128)
    scene = looking._scene(result, seen, None, Path("a.pt"), Path("a.jpg"), None)
    assert scene.pixel == (50, 25) and tuple(scene.image[0, 0]) == (0, 0, 200)
    assert scene.lines[1].startswith("chosen pixel: (50, 25), the centre of dog, score 0.90")
    assert scene.lines[2] == "found: 1 x dog, 1 x cat"
    assert [d.label for d in scene.detections] == ["dog", "cat"] and scene.detections[1].keypoints.tolist() == [[1, 1]]
    asked = looking._scene(result, seen, None, Path("a.pt"), Path("a.jpg"), (3, 4))
    assert asked.pixel == (3.5, 4.5) and "(3, 4), as asked for" in asked.lines[1]
    turned = Results(picture, "a.jpg", {0: "cat"}, obb=torch.tensor([[50.0, 25.0, 20.0, 10.0, 0.5, 0.9, 0]]))
    (found,) = looking._detections(turned)
    assert found.outline.shape == (4, 2) and found.center == pytest.approx((50, 25))
    masks = torch.zeros(1, 50, 100)
    masks[0, 10:20, 30:40] = 1
    shaped = Results(picture, "a.jpg", {0: "cat"}, boxes=boxes[:1], masks=masks)
    assert looking._detections(shaped)[0].center == pytest.approx((34.5, 14.5), abs=1)
    gray = Results(picture[..., :1], "a.jpg", {0: "cat"}, probs=torch.tensor([1.0]))
    scene = looking._scene(gray, torch.zeros(1, 1, 64, 64), None, Path("a.pt"), Path("a.jpg"), None)
    assert scene.image.shape == (50, 100, 3) and scene.lines[2] == "found: cat 1.00"


def test_stacked_layers_are_all_shown(make: Make) -> None:
    from ultralytics import YOLO

    model = YOLO(str(make("yolov8n-cbam"))).model
    model.model[10] = nn.Sequential(model.model[10], model.model[10])
    found = looking.find_layers(model, Path("a.pt"))
    assert [(layer.path, path) for layer, path in found] == [("0", "model.10.0"), ("1", "model.10.1")]
    with pytest.raises(RowError, match="rows 0 to 23"):
        looking.find_layers(model, Path("a.pt"), [24])
    with pytest.raises(CheckpointError, match="not built of rows"):
        looking.find_layers(nn.Linear(1, 1), Path("a.pt"))


def test_a_folder_is_no_image(make: Make, image: Path) -> None:
    with pytest.raises(DataError, match="give one file"):
        looking.look(make("yolov8n-cbam"), image.parent, say=str)


def test_rt_detr_sees_a_stretched_image() -> None:
    class RTDETRPredictor:
        pass

    class Model:
        predictor = RTDETRPredictor()

    assert looking.frame_of((60, 120), (64, 64), None, Model()).resized == (64, 64)


def test_an_image_of_a_few_pixels_width_is_seen(make: Make, image: Path, capsys) -> None:
    Image.new("RGB", (3, 2000)).save("thin $x$ 图.png")
    assert main(["look", str(make("yolov8n-cbam")), "thin $x$ 图.png", "--imgsz", "64"]) == 0
    done = capsys.readouterr()
    assert "'source=thin $x$ 图.png' visualize=True" in done.out and "Glyph" not in done.err


def test_text_is_drawn_as_it_stands_and_quietly(recwarn: pytest.WarningsRecorder) -> None:
    from matplotlib.figure import Figure

    from yolo_attn import fonts

    with fonts.style({}):
        figure = Figure()
        figure.text(0, 0, "$\\frac$ \U000f0000")
        figure.savefig(io.BytesIO())
    assert not [w for w in recwarn if "Glyph" in str(w.message)]
