"""What a trial's best weights are worth, what its data are, and what its training costs."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from yolo_attn.errors import DataError, StudyError
from yolo_attn.host.opening import open_checkpoint
from yolo_attn.host.run import whole_models
from yolo_attn.host.study import arguments, data, models
from yolo_attn.host.study import trial as trials
from yolo_attn.host.study.trainer import Trial

MakeTrial = Callable[..., Trial]


def test_data_are_described(tiny: Path, tmp_path: Path) -> None:
    found = data.examine(str(tiny), {"imgsz": 32, "batch": 4, "epochs": 1}, tmp_path / "data")
    truth = {split: json.loads((tiny.parent / f"annotations/{split}.json").read_text()) for split in ("train", "val")}
    assert found["images"] == {"train": 12, "val": 4} and found["names"] == ["circle", "square", "triangle"]
    assert found["instances"] == {split: len(one["annotations"]) for split, one in truth.items()}
    assert found["file"] == str(tiny) and found["judged"] == str(tmp_path / "data" / "val.yaml")
    written = json.loads((tmp_path / "data" / "val.json").read_text())
    boxes = [
        sorted([round(x, 3) for x in one["bbox"]] for one in file["annotations"]) for file in (written, truth["val"])
    ]
    assert boxes[0] == boxes[1]


def test_a_changed_label_changes_the_fingerprint(tiny: Path, tmp_path: Path) -> None:
    import tiny_study

    own = tiny_study.write_data(tmp_path / "own")
    options = {"imgsz": 32, "batch": 4}
    before = data.examine(str(own), options)["fingerprint"]
    assert before == data.examine(str(tiny), options)["fingerprint"]  # wherever the images lie
    label = next(path for path in sorted((own.parent / "labels/train").glob("*.txt")) if path.read_text())
    label.write_text("0 0.5 0.5 0.25 0.25")
    assert data.examine(str(own), options)["fingerprint"] != before


def test_grey_images_are_judged_grey(tmp_path: Path) -> None:
    import tiny_study

    own = tiny_study.write_data(tmp_path / "own")
    own.write_text(own.read_text(encoding="utf-8") + "channels: 1\n", encoding="utf-8")
    found = data.examine(str(own), {"imgsz": 32, "batch": 4}, tmp_path / "data")
    if found["channels"] == 3:
        pytest.skip("this Ultralytics has colour images only")
    judged = yaml.safe_load(Path(found["judged"]).read_text(encoding="utf-8"))
    assert (found["channels"], judged["channels"]) == (1, 1)


def test_coco_data_are_judged_as_they_are() -> None:
    found = data.examine("shapes.yaml", {"imgsz": 32, "batch": 4})
    assert found["judged"] == found["file"] and found["images"] == {"train": 240, "val": 60}
    part = data.examine("shapes.yaml", {"imgsz": 32, "batch": 4, "fraction": 0.1})
    assert part["images"]["train"] == 24 and part["fingerprint"] != found["fingerprint"]


def test_images_are_not_cached_to_be_described(tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from ultralytics.data.base import BaseDataset

    cached: list[Any] = []
    monkeypatch.setattr(BaseDataset, "cache_images", lambda self, *_: cached.append(self))
    data.examine(str(tiny), {"imgsz": 32, "batch": 4, "cache": "ram"})
    assert not cached


def test_data_without_validation_are_refused(tiny: Path, tmp_path: Path) -> None:
    file = tmp_path / "only.yaml"
    file.write_text(f"path: {tiny.parent}/annotations\ntrain: train.json\nimages: {tiny.parent}/images/train\n")
    with pytest.raises(DataError, match="it has no 'val:'"):
        data.examine(str(file), {})


def test_coco_numbers_come_from_text_labels_too(make_trial: MakeTrial, tiny: Path, tmp_path: Path) -> None:
    """The same trained weights, judged against text labels and against the JSON that they were made of."""
    trial = make_trial("judged", epochs=1, imgsz=128)
    found = trials.train(trial)
    coco = tmp_path / "coco.yaml"
    folder = tiny.parent
    truth = json.loads((folder / "annotations/val.json").read_text(encoding="utf-8"))
    for one in truth["annotations"]:  # text labels have no area but that of the box
        one["area"] = one["bbox"][2] * one["bbox"][3]
    (tmp_path / "boxes.json").write_text(json.dumps(truth), encoding="utf-8")
    lines = [f"train: {folder}/annotations/train.json", f"val: {tmp_path}/boxes.json"]
    images = f"images: {{train: {folder}/images/train, val: {folder}/images/val}}"
    coco.write_text("\n".join([*lines, images]), encoding="utf-8")
    head = open_checkpoint(trial.folder / "weights/best.pt")
    with torch.no_grad():
        detect = head["model"].model[-1]
        for boxes, classes in zip(detect.cv2, detect.cv3, strict=True):  # so that some boxes fit
            boxes[-1].bias.zero_()[2::16] = 9.0
            classes[-1].bias.zero_()
    torch.save(head, trial.folder / "weights/best.pt")
    judged = data.examine(str(tiny), trial.arguments, tmp_path / "data")["judged"]
    metrics = trials.judge(trial, judged)
    other = trials.judge(replace(trial, arguments={**trial.arguments, "data": str(coco)}), str(coco))
    assert metrics["ultralytics"]["recall"] > 0
    assert metrics["coco"] == pytest.approx(other["coco"], abs=1e-6)  # boxes are written with the digits of floats
    assert metrics["ultralytics"] == pytest.approx(other["ultralytics"], abs=1e-6)
    assert set(metrics["per_class"]) == {"circle", "square", "triangle"}
    assert {"APs", "APm", "APl"} <= set(metrics["coco"]) and None in metrics["coco"].values()
    assert found["epochs"][0]["epoch"] == 1 and found["parameters"] == sum(
        p.numel() for p in head["model"].parameters()
    )
    trials.clean(trial.folder)
    assert [path.name for path in (trial.folder / "weights").iterdir()] == ["best.pt"]


def test_a_few_steps_are_measured(make_trial: MakeTrial) -> None:
    found = trials.measure(make_trial("measured", "SE"))
    assert found["seconds_per_epoch"] > 0 and found["seconds_around"] > 0 and found["memory"] > 2**20


@pytest.mark.parametrize(
    ("device", "amp", "half"), [("cuda", True, True), ("cuda", False, False), ("cpu", True, False)]
)
def test_a_validation_is_timed_in_the_precision_of_the_training(
    monkeypatch: pytest.MonkeyPatch, device: str, amp: bool, half: bool
) -> None:
    asked: list[bool] = []
    zeros = torch.zeros

    def autocast(kind: str, dtype: torch.dtype, enabled: bool) -> Any:
        asked.append(enabled)
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", autocast)
    monkeypatch.setattr(torch, "zeros", lambda *size, device: zeros(*size))
    monkeypatch.setattr(torch.cuda, "synchronize", lambda _: None)
    loader = SimpleNamespace(dataset=range(32))
    options = {"args": SimpleNamespace(imgsz=32), "batch_size": 4, "data": {"channels": 1}, "test_loader": loader}
    trainer = SimpleNamespace(device=torch.device(device), amp=amp, model=torch.nn.Conv2d(1, 1, 1), **options)
    assert trials._validation_seconds(trainer) > 0 and asked == [half]


def test_pretrained_weights_are_in_the_start_and_new_outputs_come_from_the_seed(
    start_files: Callable[..., Any],
) -> None:
    pretrained, one, again, other = start_files()
    assert torch.equal(one.model[0].conv.weight, pretrained.model[0].conv.weight)
    assert torch.equal(one.model[0].conv.weight, other.model[0].conv.weight)
    outputs = [model.model[-1].cv3[0][-1].weight for model in (one, again, other)]
    assert torch.equal(outputs[0], outputs[1]) and not torch.equal(outputs[0], outputs[2])
    assert one.names == {0: "a", 1: "b"}


@pytest.fixture
def start_files(tmp_path: Path, start: Path, base: dict[str, Any]) -> Callable[..., Any]:
    from yolo_attn.graft import to_yaml
    from yolo_attn.host.study.start import write_start

    def write() -> list[Any]:
        (tmp_path / "yolov8n.yaml").write_text(to_yaml({**base, "nc": 2}, "two classes"), encoding="utf-8")
        found = [open_checkpoint(start)["model"]]
        for number, seed in enumerate((0, 0, 1)):
            write_start(tmp_path / "yolov8n.yaml", seed, ["a", "b"], str(start), tmp_path / f"{number}.pt")
            found.append(open_checkpoint(tmp_path / f"{number}.pt")["model"])
        return found

    return write


def test_larger_scales_and_their_weights_are_found_by_name(tmp_path: Path) -> None:
    full = models.load("yolov8n")
    assert models.larger("yolov8n", full) == "yolov8s" and models.larger("yolo11x.yaml", full) is None
    assert models.larger("some/yolov8l-cbam.yaml", full) == "some/yolov8x-cbam.yaml"
    assert models.larger("mine.yaml", full) is None and models.larger("yolov8n", {**full, "scales": None}) is None
    assert models.larger_checkpoint("yolov8n.pt", "yolov8s") == "yolov8s.pt"
    assert models.larger_checkpoint("yolo11n.pt", "yolov8s") is None
    assert models.larger_checkpoint(str(tmp_path / "yolov8n.pt"), "yolov8s") is None
    (tmp_path / "yolov8s.pt").touch()
    assert models.larger_checkpoint(str(tmp_path / "yolov8n.pt"), "yolov8s") == str(tmp_path / "yolov8s.pt")
    with pytest.raises(StudyError, match=r"model=yolov8n\.yaml pretrained=runs/yolov8n\.pt"):
        models.load("runs/yolov8n.pt")


def test_gflops_are_those_of_the_size_that_training_rounds_to(base: dict[str, Any]) -> None:
    assert models.cost(base, 200)[1] == models.cost(base, 224)[1] > models.cost(base, 192)[1] > 0
    deep = whole_models.read_config("yolov8n-p6")  # its stride is 64
    assert models.cost(deep, 96)[1] == models.cost(deep, 128)[1] > models.cost(deep, 64)[1] > 0


def test_models_for_other_tasks_are_refused(make_trial: MakeTrial, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="segment model; a study compares detection models"):
        trials.make_trainer(replace(make_trial("x"), model=Path("yolov8n-seg.yaml")), {})


def test_devices_are_listed() -> None:
    assert arguments.devices((0, 1)) == arguments.devices("0,1") == arguments.devices([0, "cuda:1"]) == ["0", "1"]
    assert arguments.devices("cpu") == ["cpu"] and arguments.devices(None) == (
        ["0"] if torch.cuda.is_available() else ["cpu"]
    )
    assert arguments.kind("1") == arguments.kind("-1") == "cuda" and arguments.kind("cpu") == "cpu"
    assert arguments.torch_device("1") == "cuda:1" and arguments.torch_device("cpu") == "cpu"
