"""Rows of a model YAML through the host's own parse_model, in this process."""

from __future__ import annotations

import copy
import inspect

import pytest
import torch

import yolo_attn
from yolo_attn import registry
from yolo_attn.errors import HostError, RowError, UnknownLayerError
from yolo_attn.host import patch
from yolo_attn.host.model import rows

tasks = pytest.importorskip("ultralytics.nn.tasks")

SCALES = {"n": [0.33, 0.25, 1024], "s": [0.33, 0.5, 1024], "m": [0.67, 0.75, 768], "x": [1.0, 1.25, 512]}
NET = {
    "nc": 3,
    "scales": SCALES,
    "backbone": [[-1, 1, "Conv", [64, 3, 2]], [-1, 1, "Conv", [1024, 3, 2]], [-1, 3, "C2f", [1024]]],
    "head": [[[0, 2], 1, "Concat", [1]]],
    "yaml_file": "my-net.yaml",
}


@pytest.fixture(autouse=True)
def patched():
    yolo_attn.install()
    yield
    yolo_attn.install()


def parse(row: object, scale: str = "n", part: str = "backbone"):
    """Return the module built for ``row``, placed at the end of one part of NET."""
    model = copy.deepcopy(NET) | {"scale": scale}
    model[part].append(row)
    return tasks.parse_model(model, ch=3, verbose=False)[0][4 if part == "head" else 3]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("source", [-1, -2, 0, 1, 2, "concat"], ids=str)
def test_width_is_taken_from_the_row_that_is_read(scale: str, source: int | str) -> None:
    part, index = ("head", 3) if source == "concat" else ("backbone", source)
    layer = parse([index, 1, "SE", []], scale, part)
    _, width, most = SCALES[scale]

    def scaled(c: int) -> int:
        return -(-int(min(c, most) * width) // 8) * 8

    low, high = scaled(64), scaled(1024)
    assert layer.channels == {-1: high, -2: high, 0: low, 1: high, 2: high, "concat": low + high}[source]


@pytest.mark.parametrize("name", [name for layer in registry.TABLE for name in (layer.name, *layer.aliases)])
def test_every_name_builds(name: str) -> None:
    assert type(parse([-1, 1, name, []])) is registry.find(name).load()


@pytest.mark.parametrize(
    ("args", "reduction", "kernel_size"),
    [
        ([], 16, 7),
        ([8], 8, 7),
        ([8, 5], 8, 5),
        ({"kernel_size": 5}, 16, 5),
        ([{"kernel_size": 5}], 16, 5),
        ([8, {"kernel_size": 5}], 8, 5),
        ([8, {"kernel_size": "5"}], 8, 5),
        ([256], 16, 7),  # the scaled width
        ([1024], 16, 7),  # the width as written
        ([1024, 8], 8, 7),
        ([1024, {"reduction": 4}], 4, 7),
        (["c2", 4], 4, 7),  # a local of parse_model, as some listings advise
    ],
    ids=str,
)
def test_arguments_by_position_by_keyword_and_after_a_pasted_width(args, reduction: int, kernel_size: int) -> None:
    layer = parse([-1, 1, "CBAM", args])
    assert (layer.channels, layer.reduction, layer.kernel_size) == (256, reduction, kernel_size)


def test_a_width_as_written_behind_concat_upsample_and_attention() -> None:
    model = copy.deepcopy(NET) | {"scale": "n"}
    model["head"] += [
        [-1, 1, "nn.Upsample", ["None", 2, "nearest"]],
        [-1, 1, "SE", []],
        [-1, 1, "CBAM", [1088, 8]],
    ]
    layer = tasks.parse_model(model, ch=3, verbose=False)[0][6]
    assert (layer.channels, layer.reduction) == (272, 8)


def test_a_pasted_width_is_mentioned_once(said: list[str]) -> None:
    parse([-1, 1, "CBAM", [1024]])
    parse([-1, 1, "CBAM", [1024]])
    assert said == ["my-net.yaml, row 3: CBAM takes its width (256) from the row it reads; 1024 ignored"]


def test_n_stacks_with_the_hosts_depth_gain() -> None:
    stacked = parse([-1, 3, "SE", []], "x")
    assert [type(m).__name__ for m in stacked] == ["SE"] * 3
    assert type(parse([-1, 3, "SE", []], "n")).__name__ == "SE"  # 3 * 0.33 rounds to 1, as for the host's own rows


def test_a_layer_may_change_the_width() -> None:
    model = copy.deepcopy(NET) | {"scale": "n"}
    model["backbone"] += [[-1, 1, "DoubleAttention", [24, 16, False]], [-1, 1, "SE", []]]
    assert tasks.parse_model(model, ch=3, verbose=False)[0][4].channels == 24
    with pytest.raises(RowError, match="cannot be stacked"):
        parse([-1, 9, "DoubleAttention", [24, 16, False]])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ([-1, 1, "CBAMM", []], r"row 3: unknown module 'CBAMM'; did you mean 'CBAM'\?"),
        ([-1, 1, "Cnv", [64]], r"row 3: unknown module 'Cnv'; did you mean 'Conv'\?"),
        (
            [-1, 1, "CBAM", {"ratio": 8}],
            r"row 3: CBAM\(reduction=16, .*has no argument 'ratio'; did you mean 'reduction'",
        ),
        ([-1, 1, "CBAM", [8, {"reduction": 4}]], r"row 3: CBAM\(.*'reduction' is given twice, as 8 and as 4"),
        ([-1, 1, "CBAM", ["many"]], r"row 3: CBAM: reduction='many' must be an integer >= 1"),
        ([-1, 1, "CBAM", [8, 4]], r"row 3: CBAM: kernel_size=4 must be an odd"),
        ([-1, 1, "CBAM", [{"reduction": 4}, 8]], r"row 3: CBAM has arguments .*must be the last"),
        ([-1, 1, "CBAM", 8], r"row 3: CBAM has arguments 8; give a list or a mapping"),
        ([[-1, 0], 1, "CBAM", []], r"row 3: CBAM reads from \[-1, 0\]; an attention layer reads one layer"),
        ([9, 1, "CBAM", []], r"row 3: CBAM reads from 9; give -1 or an index from 0 to 2"),
        ([-1, 1, "CBAM"], r"row 3: \[-1, 1, 'CBAM'\] is not of the form"),
        ([-1, 1, "BiFormer", {"num_heads": 7}], r"row 3: BiFormer: channels=256 is not divisible by num_heads=7"),
    ],
    ids=str,
)
def test_a_bad_row_names_file_row_layer_and_value(row: list, message: str) -> None:
    with pytest.raises((RowError, UnknownLayerError), match=f"my-net.yaml, {message}"):
        parse(row)


def test_a_number_that_is_no_width_of_the_input_is_an_argument() -> None:
    assert parse([-1, 1, "CBAM", {"reduction": 1000}]).reduction == 1000
    assert parse([-1, 1, "SE", [32]]).reduction == 32


def test_errors_of_the_hosts_rows_stay_the_hosts() -> None:
    with pytest.raises(TypeError) as caught:
        parse([-1, 1, "Conv", ["wide"]])
    assert not isinstance(caught.value, RowError)


def test_plain_models_are_built_by_the_same_code() -> None:
    plain = copy.deepcopy(NET) | {"scale": "n"}
    torch.manual_seed(0)
    ours, save = tasks.parse_model(copy.deepcopy(plain), 3, verbose=False)
    yolo_attn.uninstall()
    torch.manual_seed(0)
    hosts, host_save = tasks.parse_model(copy.deepcopy(plain), 3, verbose=False)
    assert save == host_save and str(ours) == str(hosts)
    assert all(torch.equal(a, b) for a, b in zip(ours.state_dict().values(), hosts.state_dict().values(), strict=True))


def test_tracebacks_point_into_the_hosts_own_file() -> None:
    inner = tasks.parse_model.__closure__
    build = next(
        c.cell_contents
        for c in inner
        if inspect.isfunction(c.cell_contents) and c.cell_contents is not tasks.parse_model.__wrapped__
    )
    original = tasks.parse_model.__wrapped__
    assert build.__code__.co_filename == original.__code__.co_filename
    assert build.__code__.co_firstlineno == original.__code__.co_firstlineno


def test_the_printed_table_is_readable(said: list[str]) -> None:
    model = copy.deepcopy(NET) | {"scale": "n"}
    model["backbone"].append([-1, 1, "CBAM", {"kernel_size": 5}])
    tasks.parse_model(model, 3, verbose=True)
    line = next(message for message in said if "CBAM" in message)
    assert line.split() == ["3", "-1", "1", "8243", "yolo_attn.layers.cbam.CBAM", "[256,", "16,", "5]"]


def test_install_and_uninstall_restore_the_very_objects() -> None:
    import ultralytics.data
    import ultralytics.engine.model
    import ultralytics.engine.trainer

    yolo_attn.uninstall()
    before = {
        (module.__name__, key): value
        for module in (tasks, ultralytics.data, ultralytics.engine.model, ultralytics.engine.trainer)
        for key, value in vars(module).items()
    }
    assert not yolo_attn.installed() and not hasattr(tasks, "CBAM")
    yolo_attn.install()
    yolo_attn.install()
    assert yolo_attn.installed() and tasks.CBAM is registry.find("CBAM").load()
    assert ultralytics.engine.model.yaml_model_load is tasks.yaml_model_load
    assert ultralytics.engine.trainer.check_det_dataset is not before["ultralytics.engine.trainer", "check_det_dataset"]
    yolo_attn.uninstall()
    yolo_attn.uninstall()
    after = {
        (module.__name__, key): value
        for module in (tasks, ultralytics.data, ultralytics.engine.model, ultralytics.engine.trainer)
        for key, value in vars(module).items()
    }
    assert before.keys() == after.keys()
    assert all(after[key] is value for key, value in before.items())


def test_a_different_object_of_our_name_is_never_shadowed(monkeypatch: pytest.MonkeyPatch) -> None:
    yolo_attn.uninstall()
    pasted = type("CBAM", (torch.nn.Module,), {})
    monkeypatch.setattr(tasks, "CBAM", pasted, raising=False)
    original = tasks.parse_model
    with pytest.raises(HostError, match="already has another 'CBAM'"):
        yolo_attn.install()
    assert tasks.CBAM is pasted and tasks.parse_model is original and not yolo_attn.installed()


def test_an_unknown_shape_of_parse_model_is_refused_and_plain_models_still_build(monkeypatch) -> None:
    yolo_attn.uninstall()
    parse_model = tasks.parse_model
    monkeypatch.setattr(rows, "_last_branch", lambda node: None)
    with pytest.raises(HostError, match="shape that yolo-attn does not know"):
        yolo_attn.install()
    assert tasks.parse_model is parse_model
    patch.apply("ultralytics.nn.tasks", strict=False)
    try:
        assert not yolo_attn.installed()
        assert len(tasks.parse_model(copy.deepcopy(NET) | {"scale": "n"}, 3, verbose=False)[0]) == 4
        with pytest.raises(HostError, match=r"my-net.yaml names CBAM, but .* does not know"):
            tasks.parse_model(NET | {"head": [[-1, 1, "CBAM", []]]}, 3)
        with pytest.raises(HostError, match=r"yolov8n-cbam-neck\.yaml names CBAM, but .* does not know"):
            tasks.parse_model(tasks.yaml_model_load("yolov8n-cbam-neck.yaml"), 3)
    finally:
        yolo_attn.uninstall()


def test_registered_layers_reach_the_host_and_leave_it() -> None:
    class Mine(torch.nn.Module):
        def __init__(self, width: int, gain: float = 2.0) -> None:
            super().__init__()
            self.width, self.gain = width, gain

    yolo_attn.register("Mine", Mine)
    try:
        layer = parse([-1, 1, "Mine", {"gain": 3.0}])
        assert (layer.width, layer.gain) == (256, 3.0)
        yolo_attn.uninstall()
        assert not hasattr(tasks, "Mine")
        yolo_attn.install()
        assert tasks.Mine is Mine
    finally:
        yolo_attn.unregister("Mine")
    assert not hasattr(tasks, "Mine")


def test_a_host_that_was_reloaded_is_patched_again() -> None:
    stock = tasks.parse_model.__wrapped__
    tasks.parse_model = stock
    assert not yolo_attn.installed()
    yolo_attn.install()
    assert yolo_attn.installed() and tasks.parse_model.__wrapped__ is stock
    assert parse([-1, 1, "SE", []]).channels == 256
