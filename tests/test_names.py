"""Every class name under which a layer circulates finds ours: as a name, as an import, in a model's name."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import yolo_attn
from yolo_attn import layers, registry
from yolo_attn.errors import UnknownLayerError
from yolo_attn.graft import split_name

EVERY = [(name, layer) for layer in registry.TABLE for name in (layer.name, *layer.aliases, *layer.pasted)]
# Class names in public repositories, and in the listings of ours, with the layer that they are.
CIRCULATING = {
    "SE": "SEAttention SELayer SEBlock SE_Block",
    "DoubleAttention": "DoubleAttention A2Attention",
    "BAM": "BAM BAMBlock BAMLayer",
    "BiFormer": "BiLevelRoutingAttention BRA",
    "MHSALePE": "AttentionLePE",
    "CAA": "CAA ContextAnchorAttention",
    "CBAM": "CBAM CBAMBlock CBAM_Block CBAMLayer cbam_block CBAMAttention CBAMModule",
    "CloAttention": "EfficientAttention",
    "CrissCross": "CrissCrossAttention",
    "CoordAtt": "CoordAtt CoordinateAttention CoordAttention CA",
    "CoT": "CoTAttention",
    "CPCA": "CPCA",
    "DAttention": "DAttention",
    "ECA": "ECAAttention ECALayer eca_layer ECA_layer EfficientChannelAttention eca_block ECABlock ECAModule EcaModule",
    "EMA": "EMA EMA_attention EMA_Attention EMAttention",
    "SimAM": "SimAM simam_module Simam_module SimAM_module",
    "GAM": "GAM_Attention GAMAttention",
    "Triplet": "TripletAttention",
    "Shuffle": "ShuffleAttention sa_layer",
    "MLCA": "MLCA",
    "SK": "SKAttention",
    "LSKA": "LSKA",
    "LSK": "LSKblock LSKBlock",
    "SCSA": "SCSA",
    "ELA": "ELA",
    "Polarized": "ParallelPolarizedSelfAttention",
    "PolarizedSeq": "SequentialPolarizedSelfAttention",
    "GC": "ContextBlock",
}


@pytest.mark.parametrize(("name", "meant"), [(name, key) for key, text in CIRCULATING.items() for name in text.split()])
def test_a_circulating_name_is_our_layer(name: str, meant: str) -> None:
    cls = registry.find(meant).load()
    assert getattr(yolo_attn, name) is getattr(layers, name) is cls
    assert type(yolo_attn.create(name, 64)) is cls
    assert registry.names()[name].name == meant
    assert split_name(f"yolov8n-{name}") == [("yolov8n", meant, "backbone")]


def test_no_name_stands_for_two_layers() -> None:
    names = [name for name, _ in EVERY]
    assert len(names) == len(set(names)) and not {name.lower() for name in names} & {*registry.ELSEWHERE}
    slugs: dict[str, set[str]] = {}
    for name, layer in (*EVERY, *((layer.slug, layer) for layer in registry.TABLE)):
        slugs.setdefault(name.lower(), set()).add(layer.name)
    assert [found for found in slugs.values() if len(found) > 1] == []
    papers = {slug: {layer.name} for slug, layer in registry.slugs().items() if layer in registry.BUILT_IN}
    assert papers == slugs


def test_imports_from_both_rooms() -> None:
    from yolo_attn import SEAttention, SELayer, regional_routing_attention
    from yolo_attn.layers import SE, CBAM_Block

    assert SEAttention is SELayer is SE and CBAM_Block is layers.CBAM
    assert regional_routing_attention is layers.regional_routing_attention


@pytest.mark.parametrize("room", ["yolo_attn", "yolo_attn.layers"])
@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("Attention", "the layer listed elsewhere as Attention is MHSA here"),
        ("ChannelAttention", "CBAM is both"),
        ("PSA", "PSA_p or PSA_s"),
        ("CA_Block", "CoordAtt here"),
        ("CCAttention", "CrissCross here"),
        ("BiLevelRoutingAttention_nchw", "BiFormer is the official"),
        ("DAttentionBaseline", "ksize: 9"),
        ("GCModule", "GC is the authors' ContextBlock"),
        ("SEModule", "{bias: true}"),
        ("LSKAttention", "around LSK"),
    ],
)
def test_a_name_that_is_no_layer_or_several_is_explained(name: str, words: str, room: str) -> None:
    with pytest.raises(ImportError, match=words):
        getattr(importlib.import_module(room), name)
    with pytest.raises(UnknownLayerError, match=f"unknown layer '{name}'; .*{words}"):
        yolo_attn.create(name, 64)


def test_an_import_of_it_says_so() -> None:
    code = "from yolo_attn import Attention"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "ImportError" in run.stderr and "Attention is MHSA here" in run.stderr


def test_what_is_not_there_is_no_attribute() -> None:
    for room in (yolo_attn, layers):
        assert not hasattr(room, "CBAMM") and not hasattr(room, "_SE") and not hasattr(room, "se_")
    with pytest.raises(ImportError, match="cannot import name 'CBAMM'"):
        from yolo_attn import CBAMM  # noqa: F401


def test_dir_and_star_imports_hold_what_is_there() -> None:
    assert {*yolo_attn.__all__, "__version__"} <= {*dir(yolo_attn)}
    assert {layer.name for layer in registry.TABLE} <= {*dir(layers)}
    assert all(hasattr(layers, name) for name in dir(layers)) and all(
        hasattr(yolo_attn, name) for name in dir(yolo_attn)
    )
    code = (
        "from yolo_attn import *\nfrom yolo_attn.layers import *\nprint(create.__name__, CBAM.__name__, 'os' in dir())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "create CBAM False\n"


def test_the_front_door_stays_light() -> None:
    code = (
        "import sys, yolo_attn\nfrom yolo_attn import cache, coco\nassert 'yolo_attn.table' not in sys.modules\n"
        "hasattr(yolo_attn, 'Nothing'); print('torch' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"
