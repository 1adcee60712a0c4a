"""What ``yolo-attn check layers.py:MyAttention`` says of classes as people write them, good and bad."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from plugs import write_file
from torch import nn

from yolo_attn import registry
from yolo_attn.contract import points
from yolo_attn.contract.report import FAILS, HOLDS, NOTE, UNTRIED, Finding, examine, report
from yolo_attn.table import Layer


class Plain(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1, groups=channels)

    def forward(self, x):
        return x * self.conv(x).sigmoid()


class Kept(Plain):
    """Pastes an SE with a reduction that leaves nothing at width 8."""

    def __init__(self, channels: int, reduction: int = 16) -> None:
        super().__init__(channels)
        self.fc = nn.Linear(channels, channels // reduction)
        self.out = nn.Linear(channels // reduction, channels)

    def forward(self, x):
        return self.conv(x) * self.out(self.fc(x.mean((2, 3))).relu())[:, :, None, None].sigmoid()


class Heads(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        if channels % 64:
            raise ValueError(f"channels={channels} is no multiple of 64")


class InPlace(Plain):
    def forward(self, x):
        return x.mul_(2)


class Attribute(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.part = Plain(channels)
        self.part.f = nn.Identity()

    def forward(self, x):
        return self.part(self.conv(x))


class Unused(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.rest = nn.Conv2d(channels, channels, 1)


class Detached(Plain):
    def forward(self, x):
        return self.conv(x.detach())


class Frozen(Plain):
    def forward(self, x):
        return x + 0 * self.conv(x)


class Fixed(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.table = nn.Parameter(torch.ones(1, channels, 20, 20))

    def forward(self, x):
        return x * self.table


class Even(Plain):
    def forward(self, x):
        if x.shape[2] == 1:
            raise ValueError("too small")
        return x * self.conv(x).sigmoid()


class PooledNorm(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.bn = nn.BatchNorm2d(channels)

    def forward(self, x):
        return x * self.bn(self.conv(x).mean((2, 3), keepdim=True)).sigmoid()


class Lambda(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.act = lambda y: y.sigmoid()

    def forward(self, x):
        return x * self.act(self.conv(x))


class Unsaved(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.scale = torch.rand(channels, 1, 1)

    def forward(self, x):
        return x * self.scale.to(x)


class Single(Plain):
    def forward(self, x):
        return x * self.conv(x).sigmoid() + torch.ones(1, 1, 1)[0].expand(x.shape)


class Random(Plain):
    def forward(self, x):
        return nn.functional.dropout(self.conv(x), 0.5)


class Mixes(Plain):
    def forward(self, x):
        return x - x.mean(0, keepdim=True)


class Viewed(Plain):
    def forward(self, x):
        return x * x.view(x.shape[0], -1).mean(1)[:, None, None, None]


class Cast(Plain):
    def forward(self, x):
        return nn.functional.conv2d(x.float(), self.conv.weight.float(), padding=1, groups=x.shape[1])


class Overflows(Plain):
    def forward(self, x):
        return (x * 1e4) * (self.conv(x) * 1e4) / 1e8


class Wider(Plain):
    def forward(self, x):
        return torch.cat([x, self.conv(x)], 1)


class WiderAndSaysSo(Wider):
    @staticmethod
    def out_channels(channels: int) -> int:
        return 2 * channels


class Pair(Plain):
    def forward(self, x):
        return x, x


class Lazy(Plain):
    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.conv = nn.LazyConv2d(channels, 1)


class Late(Plain):
    def forward(self, x):
        if not hasattr(self, "late"):
            self.late = nn.Conv2d(x.shape[1], x.shape[1], 1)
        return self.late(x)


class Sized(Plain):
    def forward(self, x):
        b, c, h, w = map(int, x.shape)
        return x * self.conv(x).flatten(2).softmax(-1).reshape(b, c, h, w)


class Needy(Plain):
    def __init__(self, channels: int, kernel_size: int, dilation: int = 1) -> None:
        super().__init__(channels)
        self.sizes = kernel_size, dilation


def findings(cls: type, *args: object) -> dict[str, Finding]:
    arguments = tuple(cls.__init__.__code__.co_varnames[2 : cls.__init__.__code__.co_argcount])
    layer = Layer(cls.__name__, f"{__name__}:{cls.__name__}", "mine", (), arguments, registered=cls, source="here")
    return {finding.point: finding for finding in examine(layer, args)}


def failing(cls: type) -> dict[str, str]:
    return {point: finding.said for point, finding in findings(cls).items() if finding.verdict == FAILS}


def test_a_good_layer_holds_in_every_point() -> None:
    found = findings(Plain)
    assert list(found) == ["constructor", *points.POINTS]
    assert {finding.verdict for finding in found.values()} == {HOLDS}
    assert found["widths"].said == "8 16 24 32 48 64 80 128 256"
    assert "1x1" in found["map sizes"].said and "all 2 parameters" in found["gradients"].said


@pytest.mark.parametrize(
    ("cls", "point", "message"),
    [
        (Heads, "constructor", "channels=32 is no multiple of 64"),
        (Lazy, "constructor", "conv.weight is made by the first map"),
        (Late, "map", "late.bias is made by the first map"),
        (Pair, "map", "forward returns a tuple; return one tensor"),
        (Wider, "map", "2x32x9x13 becomes 2x64x9x13; return 2x32x9x13, or name another width in a static method"),
        (Fixed, "map", "Rows see maps of any size"),
        (Cast, "fp16", "a map of torch.float16 becomes one of torch.float32; make new tensors with dtype=x.dtype"),
        (Overflows, "fp16", "a map of torch.float16 becomes one with NaN or infinity"),
        (InPlace, "input", "forward writes into its input"),
        (Attribute, "attributes", "attribute 'f' of part: Ultralytics writes f, i, np, type; rename it"),
        (Unused, "gradients", "rest.weight takes no part in the output"),
        (Detached, "gradients", "the gradient of the input is missing"),
        (Even, "map sizes", "a map of 1x1, train mode: ValueError: too small. Rows see maps of any size"),
        (PooledNorm, "batch 1", "after global pooling use GroupNorm, not BatchNorm"),
        (Lambda, "copies", "it cannot be pickled, so no checkpoint can hold it: .*lambda"),
        (Unsaved, "copies", "a fresh one with its state_dict computes something else"),
        (Random, "eval mode", "two calls on one map differ in eval mode"),
        (Mixes, "eval mode", "an image alone gives another map than in a batch"),
        (Viewed, "channels_last", "Write reshape for view"),
    ],
)  # fmt: skip
def test_each_fault_is_named_with_its_mend(cls: type, point: str, message: str) -> None:
    found = failing(cls)
    assert re.search(message, found[point]), found


def test_one_fault_is_not_told_many_times() -> None:
    assert list(failing(Attribute)) == ["attributes"]
    assert list(failing(PooledNorm)) == ["batch 1"]
    assert list(findings(Pair)) == ["constructor", "map"]
    assert list(failing(Random)) == ["eval mode"]
    assert {p for p, f in findings(Random).items() if f.verdict == UNTRIED} == points.COMPARING


def test_what_many_can_live_without_is_a_note() -> None:
    kept = findings(Kept)
    assert kept["widths"].verdict == NOTE and "8 do not work (8: fc.weight is empty)" in kept["widths"].said
    assert findings(Frozen)["gradients"].verdict == NOTE
    pytest.importorskip("onnxruntime")
    sized = findings(Sized)
    assert sized["onnx"].verdict == NOTE and sized["map sizes"].verdict == HOLDS
    assert not any(finding.verdict == FAILS for found in (kept, sized) for finding in found.values())


def test_another_width_may_be_named() -> None:
    assert failing(WiderAndSaysSo) == {}


def test_arguments_go_as_in_a_row() -> None:
    assert "Needy(kernel_size, dilation=1) needs 'kernel_size' (--args" in failing(Needy)["constructor"]
    for args in ((3,), (3, {"dilation": 2}), ({"kernel_size": 3},)):
        assert findings(Needy, *args)["copies"].verdict == HOLDS
    assert "did you mean 'dilation'" in findings(Needy, 3, {"dilatoin": 2})["constructor"].said


def test_what_is_not_installed_is_not_tried(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    found = findings(Plain)["onnx"]
    assert found.verdict == UNTRIED and found.said.endswith("pip install onnx onnxruntime")


def test_layers_of_the_package_are_fit() -> None:
    said: list[str] = []
    assert report(registry.find("Shuffle"), say=said.append)
    assert said[0] == "Shuffle, from yolo-attn" and said[-1] == "Shuffle: fit for rows"
    assert any(line.split()[:2] == ["note", "widths"] and "8 24 do not work" in line for line in said)


def check(folder: Path, *words: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "yolo_attn", "check", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=600)


def test_the_command_takes_files_modules_names_and_models(tmp_path: Path) -> None:
    write_file(tmp_path / "layers.py", "MyAttention", "CBAM", "Bad")
    file = tmp_path / "layers.py"
    file.write_text(file.read_text() + "\nBad = CBAM.forward\n")
    done = check(tmp_path, "layers.py:MyAttention", "SE", "yolov8n-se.yaml", "--args", "[5]")
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert f"MyAttention, from {file}" in lines and "MyAttention: fit for rows" in lines
    assert "  holds      constructor    the width first, then kernel_size=3" in lines
    assert "SE: fit for rows" in lines and "yolov8n-se.yaml: nothing is wrong with its wiring" in lines
    wrong = check(tmp_path, f"{file}:CBAM,Bad")
    assert wrong.returncode == 1
    assert "FAILS      name           cannot be used: yolo-attn's CBAM has the name" in wrong.stdout
    assert "must be a subclass of nn.Module" in wrong.stdout and "Bad: 1 of 1 points fail" in wrong.stdout


@pytest.mark.parametrize(
    ("subject", "message"),
    [
        ("layers.py", "layers.py names no class; write layers.py:MyAttention"),
        ("nowhere.py:Mine", "there is no such file"),
        ("my layers:Mine", "neither a file nor a module"),
        ("nothing", "nothing is no model YAML"),
    ],
)
def test_subjects_that_are_none_are_refused_in_one_line(subject: str, message: str, tmp_path: Path) -> None:
    done = check(tmp_path, subject)
    assert done.returncode == 1 and message in done.stderr and len(done.stderr.splitlines()) == 1
