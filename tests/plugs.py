"""Own layers as people write them: a file, and a package that is installed beside others."""

from __future__ import annotations

from pathlib import Path

# One part of its own, so that a checkpoint names two classes; the gate is not the identity.
LAYER = """
from torch import nn

print("IMPORTED", __name__)


class Part(nn.Module):
    def __init__(self, width, kernel_size):
        super().__init__()
        self.conv = nn.Conv2d(width, width, kernel_size, padding=kernel_size // 2, groups=width)

    def forward(self, x):
        return self.conv(x).sigmoid()


class {name}(nn.Module):
    def __init__(self, width, kernel_size=3):
        super().__init__()
        self.kernel_size, self.gate = kernel_size, Part(width, kernel_size)

    def forward(self, x):
        return x * self.gate(x)
"""


def write_file(path: Path, *names: str) -> Path:
    """Write a file with a layer of each name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(LAYER.replace("{name}", name) for name in names or ("MyAttention",)), encoding="utf-8")
    return path


def write_package(folder: Path, name: str, points: dict[str, str], *layers: str, version: str = "1.2") -> Path:
    """Write an installed package: its module, with layers in ``<name>/impl.py``, and its metadata with entry points."""
    write_file(folder / name / "impl.py", *layers)
    (folder / name / "__init__.py").write_text(f"print('IMPORTED', {name!r})\n", encoding="utf-8")
    (folder / name / "api.py").write_text(f"from .impl import {', '.join(layers)}\n" if layers else "")
    metadata = folder / f"{name}-{version}.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n", encoding="utf-8")
    lines = [f"{key} = {value}" for key, value in points.items()]
    (metadata / "entry_points.txt").write_text("\n".join(["[yolo_attn.layers]", *lines, ""]), encoding="utf-8")
    return folder
