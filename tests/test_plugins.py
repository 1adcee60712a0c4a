"""Own layers of every process: what is declared, what stands in the way, and what is imported when."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from plugs import write_file, write_package
from torch import nn

import yolo_attn
from yolo_attn import listing, own_names, plugins, registry
from yolo_attn.errors import LayerFileError, RegistrationError, UnknownLayerError
from yolo_attn.graft import split_names

Declare = Callable[..., None]


@pytest.fixture(autouse=True)
def alone(monkeypatch, tmp_path: Path) -> None:
    """Start with no own layer, in a folder of one's own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plugins, "_complete", {})
    monkeypatch.setattr(own_names, "_holders", [])
    monkeypatch.setenv(plugins.VARIABLE, "")
    for module in [module for module in sys.modules if module.startswith(f"{plugins.ROOM}.")]:
        monkeypatch.delitem(sys.modules, module)


@pytest.fixture
def declare(monkeypatch) -> Declare:
    """Return a function that sets the variable, and puts folders with packages first in the path."""

    def declare(text: str, *folders: Path) -> None:
        monkeypatch.setenv(plugins.VARIABLE, text)
        for folder in folders:
            monkeypatch.syspath_prepend(str(folder))

    return declare


def reasons() -> list[str]:
    return [str(problem) for problem in registry.problems()]


def test_a_file_gives_layers_and_is_imported_when_one_is_built(declare: Declare, capsys, tmp_path: Path) -> None:
    file = write_file(tmp_path / "my/layers.py", "MyAttention", "Other")
    declare("my/layers.py:MyAttention, Other")
    assert yolo_attn.list_layers()[-2:] == ["MyAttention", "Other"]
    assert registry.slugs()["myattention"].source == str(file)
    assert split_names("yolov8n-myattention-neck")[0] == ("yolov8n", [("MyAttention", "neck")])
    assert capsys.readouterr().out == "" and not reasons()
    layer = yolo_attn.create("MyAttention", 16, kernel_size=5)
    assert layer.kernel_size == 5 and layer(torch.ones(1, 16, 4, 4)).shape == (1, 16, 4, 4)
    assert set(capsys.readouterr().out.splitlines()) == {"IMPORTED yolo_attn.own.layers"}
    assert type(layer).__module__ == "yolo_attn.own.layers" and "yolo_attn.own.layers" in sys.modules
    assert registry.find("MyAttention").arguments == ("kernel_size",)
    assert registry.is_layer(type(layer)) and not registry.is_layer(type(layer.gate))


def test_relative_paths_become_absolute_for_children_elsewhere(declare: Declare, tmp_path: Path, monkeypatch) -> None:
    write_file(tmp_path / "layers.py")
    declare(" 'layers.py:MyAttention' ; my.module:A,B;")
    yolo_attn.list_layers()
    assert os.environ[plugins.VARIABLE] == f"{tmp_path / 'layers.py'}:MyAttention;my.module:A,B"
    monkeypatch.chdir("/")
    assert yolo_attn.create("MyAttention", 8).kernel_size == 3


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        ("layers.py", "", "'layers.py' names no class; write YOLO_ATTN_LAYERS=layers.py:MyAttention"),
        ("MyAttention", "", "names no class"),
        (r"C:\mine\layers.py", "", "names no class"),
        ("layers.py:My-Attention", "", "names no class"),
        ("nowhere.py:Mine", "Mine", "there is no such file"),
        ("layers.py:A:layers.py:Mine", "Mine", r"no such file \(between two of them, write a ';'\)"),
        ("layers.py:A,layers.py:Mine", "Mine", r"no such file \(between two of them, write a ';'\)"),
        ("pack/__init__.py:Mine", "Mine", "or a package as my_package:MyAttention"),
        ("my layers:Mine", "Mine", "neither a file nor a module"),
        ("layers.py:MyAttention;other/layers.py:Mine", "Mine", r"layers\.py has the same file name"),
        ("layers.py:Mine;other/third.py:Mine", "Mine", r"layers\.py cannot be used: .*third\.py has a layer Mine too"),
        ("layers.py:CBAM", "CBAM", "yolo-attn's CBAM has the name"),
        ("layers.py:Cbam", "Cbam", "yolo-attn's CBAM has the name"),
        ("layers.py:CBAMBlock", "CBAMBlock", "yolo-attn's CBAM has the name"),
        ("layers.py:A2", "A2", "yolo-attn's DoubleAttention has the name"),
        ("layers.py:Neck", "Neck", "'neck' is a place in model names"),
    ],
)
def test_what_cannot_be_declared_is_said_and_stops_nothing(
    text: str, name: str, message: str, declare: Declare, tmp_path: Path
) -> None:
    names = ("MyAttention", "Mine", "CBAM", "Cbam", "CBAMBlock", "A2", "Neck")
    for file in ("layers.py", "other/layers.py", "other/third.py", "pack/__init__.py"):
        write_file(tmp_path / file, *names)
    declare(text)
    (problem,) = [problem for problem in registry.problems() if re.search(message, str(problem))]
    assert problem.name == name
    if name not in registry.names():
        with pytest.raises(UnknownLayerError, match=message):
            registry.find(name)
    assert type(yolo_attn.create("CBAM", 16)).__module__ == "yolo_attn.layers.cbam"
    assert registry.slugs()["cbam"].name == "CBAM"


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        (
            "import nowhere_to_be_found",
            LayerFileError,
            "layers.py cannot be imported: .*pip install nowhere_to_be_found",
        ),
        ("import beside", LayerFileError, "It lies beside the file: set PYTHONPATH="),
        ("def (", LayerFileError, "layers.py cannot be imported: SyntaxError"),
        ("raise RuntimeError('no')", LayerFileError, "layers.py cannot be imported: RuntimeError: no"),
        ("raise SystemExit(2)", LayerFileError, "layers.py cannot be imported: it is a script that ends Python"),
        ("class MyAttentoin:\n    forward = None", LayerFileError, "has no 'MyAttention'; did you mean 'MyAttentoin'"),
        ("MyAttention = len", RegistrationError, "must be a subclass of nn.Module; it is <built-in"),
        (
            "from torch import nn\nclass MyAttention(nn.Module):\n    def __init__(self, c, *, k=1): ...",
            RegistrationError,
            r"MyAttention of .*layers\.py: MyAttention\(c, \*?,? ?k=1\) must take the width first",
        ),
    ],
)
def test_a_file_that_cannot_be_used_is_named_and_only_when_it_is_needed(
    content: str, error: type, message: str, declare: Declare, tmp_path: Path
) -> None:
    (tmp_path / "layers.py").write_text(content)
    (tmp_path / "beside.py").write_text("")
    declare("layers.py:MyAttention")
    assert yolo_attn.list_layers()[-1] == "MyAttention"
    for _ in range(2):
        with pytest.raises(error, match=message):
            yolo_attn.create("MyAttention", 8)
    assert list(registry.broken()) == ["MyAttention"]
    assert "# MyAttention" in listing.text() and "- [-1, 1, CBAM, []]" in listing.text()
    yolo_attn.create("SE", 16)


def test_packages_offer_layers_under_the_names_they_choose(declare: Declare, capsys, tmp_path: Path) -> None:
    points = {"Renamed": "good_pack.api:Mine", "bad name": "good_pack:X", "Shapeless": "good_pack.api"}
    declare("", write_package(tmp_path, "good_pack", points, "Mine"))
    assert yolo_attn.list_layers()[-1] == "Renamed" and registry.names()["Renamed"].source == "good_pack 1.2"
    assert any("bad name of good_pack 1.2 cannot be used: its name must be" in reason for reason in reasons())
    assert any("'good_pack.api' is not module:Class" in reason for reason in reasons())
    assert capsys.readouterr().out == ""
    # A checkpoint brings the class before anything has asked for the layer, and names where the package defines it.
    from good_pack.impl import Mine

    assert registry.is_layer(Mine)
    assert type(yolo_attn.create("Renamed", 8)) is Mine
    assert "# from good_pack 1.2" in listing.text()


def test_two_packages_of_one_name_are_both_left_out_and_the_variable_comes_first(
    declare: Declare, tmp_path: Path
) -> None:
    for name in ("pack_a", "pack_b"):
        only = f"Only{name[-1].upper()}"
        write_package(tmp_path, name, {"Mine": f"{name}.impl:Mine", only: f"{name}.impl:Mine"}, "Mine")
    declare("", tmp_path)
    assert yolo_attn.list_layers()[-2:] == ["OnlyA", "OnlyB"]
    with pytest.raises(UnknownLayerError, match=r"pack_b 1\.2 has a layer Mine too; uninstall one of them"):
        yolo_attn.create("Mine", 8)
    write_file(tmp_path / "layers.py", "Mine")
    declare("layers.py:Mine")
    assert type(yolo_attn.create("Mine", 8)).__module__ == "yolo_attn.own.layers"
    assert len(reasons()) == 2


def test_broken_metadata_of_another_package_stops_nothing(declare: Declare, tmp_path: Path) -> None:
    write_package(tmp_path, "good_pack", {"Mine": "good_pack.impl:Mine"}, "Mine")
    write_package(tmp_path, "odd_pack", {})
    (tmp_path / "odd_pack-1.2.dist-info/entry_points.txt").write_bytes(b"[console_scripts]\n\xff = nonsense\nno equals")
    declare("", tmp_path)
    assert yolo_attn.list_layers()[-1] == "Mine"


def test_register_is_at_peace_with_the_same_class_and_refuses_another(declare: Declare, tmp_path: Path) -> None:
    file = write_file(tmp_path / "layers.py")
    file.write_text(file.read_text() + "\nimport yolo_attn\nyolo_attn.register('MyAttention', MyAttention)\n")
    declare("layers.py:MyAttention", tmp_path)
    assert type(yolo_attn.create("MyAttention", 8)).__module__ == "yolo_attn.own.layers"
    import layers  # the file as a script imports it

    assert yolo_attn.list_layers().count("MyAttention") == 1 and layers.MyAttention.__module__ == "layers"
    with pytest.raises(RegistrationError, match="name is taken"):
        yolo_attn.register("MyAttention", type("MyAttention", (nn.Identity,), {"__init__": lambda self, c: None}))
    sys.modules.pop("layers")


def test_a_registered_name_is_not_given_away_again(declare: Declare, tmp_path: Path) -> None:
    class Mine(nn.Module):
        def __init__(self, width: int) -> None:
            super().__init__()

    yolo_attn.register("Mine", Mine)
    try:
        write_file(tmp_path / "layers.py", "Mine")
        declare("layers.py:Mine")
        assert type(yolo_attn.create("Mine", 8)) is Mine
        assert "register('Mine', ...) took the name" in reasons()[0]
    finally:
        yolo_attn.unregister("Mine")


def test_another_file_of_that_name_in_one_process_is_refused(declare: Declare, tmp_path: Path) -> None:
    write_file(tmp_path / "a/layers.py")
    write_file(tmp_path / "b/layers.py")
    declare("a/layers.py:MyAttention")
    yolo_attn.create("MyAttention", 8)
    declare("b/layers.py:MyAttention")
    with pytest.raises(LayerFileError, match=r"this process has loaded .*a.layers\.py under its name"):
        yolo_attn.create("MyAttention", 8)


def test_a_class_of_a_file_that_is_not_declared_says_what_to_set() -> None:
    code = "import pickle; pickle.loads(b'cyolo_attn.own.layers\\nMyAttention\\n.')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "a class is from its owner's file layers.py" in done.stderr
    assert "set YOLO_ATTN_LAYERS=<folder>/layers.py:<class>" in done.stderr


def test_importing_the_package_reads_no_metadata() -> None:
    code = "import yolo_attn; print({'importlib.metadata', 'yolo_attn.plugins', 'yolo_attn.own'} & set(sys.modules))"
    code = f"import sys; sys.path[:] = {sys.path!r}; {code}"
    done = subprocess.run([sys.executable, "-S", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
