"""Data YAMLs of COCO JSON files: what they resolve to, what they say of keypoints, one clear error for each slip."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import yaml

from yolo_attn.coco import data_yaml
from yolo_attn.coco.index import load_index
from yolo_attn.coco.keypoints import flip_index
from yolo_attn.errors import DataError


def test_a_name_has_one_id_in_all_splits(write_coco, write_image) -> None:
    write_image("images/a.png")
    one = write_coco([(1, "a.png")], [(1, 1, [0, 0, 5, 5])], {1: "cat"}, name="annotations/train.json")
    two = write_coco([(1, "a.png")], [(1, 11, [0, 0, 5, 5])], {11: "cat"}, name="annotations/val.json")
    with pytest.raises(DataError, match=r"val.json: 'categories' gives 'cat' the id 11, .*train.json gives it 1;"):
        data_yaml.describe({"train": str(one), "val": str(two)})


def test_describe_resolves_like_the_host_and_merges_categories(write_coco, tmp_path: Path) -> None:
    write_coco([(1, "a.png")], categories={9: "nine", 2: "two"})
    write_coco([(1, "b.png")], categories={5: "five", 9: "nine"}, name="annotations/val.json")
    for split in ("train", "val"):
        (tmp_path / "images" / split).mkdir(parents=True)
    file = tmp_path / "data.yaml"
    images = {"train": "images/train", "val": "images/val"}
    file.write_text(
        yaml.safe_dump({"train": "annotations/train.json", "val": "annotations/val.json", "images": images})
    )
    assert data_yaml.is_coco(data_yaml.read_yaml(file))
    found = data_yaml.describe(file)
    assert found["path"] == tmp_path
    assert found["train"] == str(tmp_path / "annotations/train.json")
    assert found["test"] is None
    assert found["names"] == {0: "two", 1: "five", 2: "nine"}
    assert (found["nc"], found["channels"], found["yaml_file"]) == (3, 3, str(file))
    assert found["category_ids"] == [2, 5, 9]
    assert found["coco"]["val"] == {
        "json": str(tmp_path / "annotations/val.json"),
        "images": [str(tmp_path / "images/val")],
        "fingerprint": hashlib.sha256((tmp_path / "annotations/val.json").read_bytes()).hexdigest(),
    }
    assert found["notes"] == [
        "category 'two' (id 2) is only in train",
        "category 'five' (id 5) is only in val",
    ]
    assert "kpt_shape" not in found


def test_images_are_looked_for_in_the_usual_folders(write_coco, write_image, tmp_path: Path) -> None:
    for folder in ("images/train2017", "images/train", "train2017", "images"):
        path = write_coco([(1, "a.png")], name="annotations/instances_train2017.json")
        image = write_image(f"{folder}/a.png")
        found = data_yaml.describe({"train": str(path)})
        assert load_index(path, found["coco"]["train"]["images"]).files == (str(image),)
        image.unlink()


@pytest.mark.parametrize(
    ("name", "folder"),
    [
        ("instances_val2017", "val2017"),
        ("person_keypoints_train2017", "train2017"),
        ("image_info_test-dev2017", "test2017"),
        ("other", "other"),
    ],
)
def test_usual_folders_know_the_names_of_coco_s_own_files(name, folder, tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / "annotations").mkdir()
    found = data_yaml.usual_folders(tmp_path / "annotations" / f"{name}.json", "val")
    assert found == [tmp_path / folder, tmp_path / "annotations"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"train": "no.json"}, "'train: no.json': no such file"),
        ({"val": "images"}, "'val: images' must name one .json file"),
        ({"images": "nowhere"}, "'images: nowhere' for 'train': no such folder"),
        ({"images": {"training": "images"}}, "'images:' has 'training'; its keys are train, val, test"),
        ({"path": "nowhere"}, "'path: nowhere': no such folder"),
        ({"names": ["x", "y"]}, r"'names: \['x', 'y'\]' are not those of the JSON files, \['a', 'b'\]"),
        ({"names": {1: "b", 3: "a"}}, "are not those"),
        ({"nc": 5}, "'nc: 5' but the JSON files have 2"),
        ({"generate": "circles"}, "'generate: circles' is unknown; known: shapes"),
    ],
)
def test_bad_descriptions_are_one_error(change, message, write_coco, tmp_path: Path) -> None:
    write_coco([(1, "a.png")])
    (tmp_path / "images").mkdir()
    file = tmp_path / "data.yaml"
    file.write_text(yaml.safe_dump({"train": "annotations/train.json", "images": "images", **change}))
    with pytest.raises(DataError, match=message) as error:
        data_yaml.describe(file)
    assert str(file) in str(error.value)


def test_names_that_agree_are_accepted(write_coco, tmp_path: Path) -> None:
    path = write_coco([(1, "a.png")])
    for names in (["a", "b"], {0: "a", 1: "b"}, {1: "a", 3: "b"}):
        assert data_yaml.describe({"train": str(path), "names": names})["names"] == {0: "a", 1: "b"}


def test_splits_that_name_an_id_differently_are_an_error(write_coco) -> None:
    one = write_coco([(1, "a.png")], categories={1: "cat"})
    two = write_coco([(1, "a.png")], categories={1: "dog"}, name="annotations/val.json")
    with pytest.raises(DataError, match=r"val.json: 'categories' calls id 1 'dog', .*train.json calls it 'cat'"):
        data_yaml.describe({"train": str(one), "val": str(two)})


def test_written_descriptions_go_to_the_cache_and_say_the_same(write_coco, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("YOLO_ATTN_CACHE", str(tmp_path / "cache"))
    path = write_coco([(1, "a.png")])
    (tmp_path / "im").mkdir()
    file = data_yaml.write_description({"train": (path, tmp_path / "im"), "val": (path, None)})
    assert file.is_relative_to(tmp_path / "cache")
    assert file == data_yaml.write_description({"train": (path, tmp_path / "im"), "val": (path, None)})
    found = data_yaml.describe(file)
    assert found["coco"]["train"]["json"] == str(path)
    assert found["coco"]["train"]["images"] == [str(tmp_path / "im")]
    assert found["notes"] == []
    assert Path(found["val"]) == path


PERSON = [
    "nose", "left_eye", "right_eye", "left_ear", "right_ear", "left_shoulder", "right_shoulder", "left_elbow",
    "right_elbow", "left_wrist", "right_wrist", "left_hip", "right_hip", "left_knee", "right_knee", "left_ankle",
    "right_ankle",
]  # fmt: skip


@pytest.mark.parametrize(
    ("names", "flip"),
    [
        (PERSON, [0, 2, 1, 4, 3, 6, 5, 8, 7, 10, 9, 12, 11, 14, 13, 16, 15]),
        (["LeftEye", "tail", "RightEye", "bright"], [2, 1, 0, 3]),
        (["eye_L", "eye_R"], [1, 0]),
        (["a", "b"], []),
        (["left_eye", "nose"], []),
        (["left", "left", "right"], []),
        ([], []),
    ],
)
def test_mirrored_keypoints_are_found_by_left_and_right_in_their_names(names, flip) -> None:
    assert flip_index(names) == flip


def _pose(write_coco, count: int = 3, names: list[str] | None = None, name: str = "annotations/train.json", **row):
    category = {"id": 1, "name": "animal", **({} if names is None else {"keypoints": names})}
    row = {"keypoints": [5, 5, 2] * count, **row}
    return write_coco([(1, "a.png")], [(1, 1, (0, 0, 9, 9), row)], [category], name)


def test_keypoints_of_the_json_describe_a_pose_data_set(write_coco) -> None:
    names = ["left_ear", "right_ear", "nose"]
    path = _pose(write_coco, names=names)
    found = data_yaml.describe({"train": str(path)}, task="pose")
    assert found["kpt_shape"] == [3, 3]
    assert found["flip_idx"] == [1, 0, 2]
    assert found["kpt_names"] == {0: names}
    assert data_yaml.describe({"train": str(path)}) == found


def test_keypoints_without_names_have_a_shape_only(write_coco) -> None:
    found = data_yaml.describe({"train": str(_pose(write_coco, 7))}, task="pose")
    assert found["kpt_shape"] == [7, 3]
    assert not {"flip_idx", "kpt_names"} & set(found)


def test_what_the_user_says_of_keypoints_wins(write_coco) -> None:
    path = _pose(write_coco, names=["left_ear", "right_ear", "nose"])
    said = {"kpt_shape": [3, 2], "flip_idx": [0, 2, 1], "kpt_names": {0: ["x", "y", "z"]}}
    found = data_yaml.describe({"train": str(path), **said}, task="pose")
    assert {key: found[key] for key in said} == said


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"kpt_shape": [17, 3]}, r"'kpt_shape: \[17, 3\]' but the objects in the JSON files have 3 keypoints"),
        ({"kpt_shape": [3, 4]}, "kpt_shape"),
        ({"kpt_shape": 3}, "kpt_shape"),
        ({"flip_idx": [0, 1]}, r"'flip_idx: \[0, 1\]' must hold each of the numbers 0 to 2 once"),
        ({"flip_idx": [0, 1, 1]}, "flip_idx"),
        ({"flip_idx": 5}, "flip_idx"),
    ],
)
def test_keypoints_that_do_not_fit_the_json_are_an_error(said, message, write_coco) -> None:
    with pytest.raises(DataError, match=message):
        data_yaml.describe({"train": str(_pose(write_coco)), **said})


def test_a_pose_model_needs_keypoints_of_one_kind(write_coco) -> None:
    train, val = _pose(write_coco), _pose(write_coco, 4, name="annotations/val.json")
    data = {"train": str(train), "val": str(val)}
    assert "kpt_shape" not in data_yaml.describe(data)
    with pytest.raises(DataError, match=r"same number of keypoints, not 3 \(train\) and 4 \(val\)"):
        data_yaml.describe(data, task="pose")
    path = write_coco([(1, "a.png")], [(1, 1, (0, 0, 4, 4))])
    with pytest.raises(DataError, match=r"train.json: has no 'keypoints'"):
        data_yaml.describe({"train": str(path)}, task="pose")
    path = _pose(write_coco, keypoints=[1, 2])
    with pytest.raises(DataError, match="'keypoints' must be"):
        data_yaml.describe({"train": str(path)}, task="pose")


def test_only_a_list_of_test_images_may_lack_annotations(write_coco) -> None:
    path = write_coco([(1, "a.png")])
    bare = write_coco([(2, "b.png")], name="annotations/test.json", annotations=None)
    assert data_yaml.describe({"train": str(path), "test": str(bare)})["test"] == str(bare)
    for split in ("train", "val"):
        with pytest.raises(DataError, match=r"test.json: key 'annotations' is missing"):
            data_yaml.describe({split: str(bare)})
