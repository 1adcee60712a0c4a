"""File names as labelling tools write them: found where they mean one file, told where not, never guessed."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path

import pytest

from yolo_attn.coco.data_yaml import describe
from yolo_attn.coco.index import load_index
from yolo_attn.errors import DataError

BOX = [(1, 1, (8, 8, 10, 10))]

# file_name -> the file below the folder of images that it means.
ONE_FILE = {
    "label studio, folder named images": ("images/a1.jpg", "a1.jpg"),
    "label studio, project number": ("images\\1/a1.jpg", "a1.jpg"),
    "label studio, upload": ("/data/upload/1/a1.jpg", "a1.jpg"),
    "label studio, upload of a file that has its old name here": ("/data/upload/12/3fa0b1c2-a1.jpg", "a1.jpg"),
    "label studio, fetched by the exporter": ("3fa0b1__a1.jpg", "a1.jpg"),
    "label studio, fetched by a newer one": ("images/3fa0b1c2__a1.jpg", "a1.jpg"),
    "label studio, uploaded and fetched": ("3fa0b1__3fa0b1c2-a1.jpg", "a1.jpg"),
    "label studio, fetched, under the name of the upload": ("3fa0b1__3fa0b1c2-a1.jpg", "3fa0b1c2-a1.jpg"),
    "label studio, local files": ("/data/local-files/?d=home/me/pictures/a1.jpg", "a1.jpg"),
    "label studio, local files encoded": ("/data/local-files/?d=my%20data%2Fimages%2Fa%201.jpg", "a 1.jpg"),
    "label studio, windows": ("..\\..\\data\\upload\\1\\a1.jpg", "a1.jpg"),
    "an absolute path of windows": ("C:\\Users\\me\\Desktop\\images\\a1.jpg", "a1.jpg"),
    "a share of windows": ("\\\\server\\share\\images\\a1.jpg", "a1.jpg"),
    "colab": ("/content/drive/MyDrive/project/images/a1.jpg", "a1.jpg"),
    "kaggle": ("/kaggle/input/cells/train/a1.jpg", "a1.jpg"),
    "fiftyone": ("/home/me/fiftyone/coco-2017/validation/data/a1.jpg", "a1.jpg"),
    "x-anylabeling": ("../images/a1.jpg", "a1.jpg"),
    "posetrack": ("images/val/000342_mpii_test/000001.jpg", "val/000342_mpii_test/000001.jpg"),
    "posetrack below its split": ("images/val/000342_mpii_test/000001.jpg", "000342_mpii_test/000001.jpg"),
    "a folder is kept": ("data/cam1/a1.jpg", "cam1/a1.jpg"),
    "an address": ("https://host.example/bucket/a1.jpg?X-Signature=1f%2F", "a1.jpg"),
    "a bucket": ("s3://bucket/raw/a1.jpg", "a1.jpg"),
    "a file address": ("file:///home/me/a1.jpg", "a1.jpg"),
    "encoded": ("a%201.jpg", "a 1.jpg"),
    "a percent sign that is one": ("100%.jpg", "100%.jpg"),
    "a dot in front": ("./a1.jpg", "a1.jpg"),
    "up and down": ("images/../a1.jpg", "a1.jpg"),
    "doubled slashes": ("images//a1.jpg", "a1.jpg"),
    "spaces around": (" a1.jpg ", "a1.jpg"),
    "capital ending": ("a1.JPG", "a1.jpg"),
    "small ending": ("a1.jpg", "a1.JPG"),
    "capital folder": ("Images/A1.JPG", "a1.jpg"),
    "composed accents": ("images/caf\u00e9.jpg", unicodedata.normalize("NFD", "caf\u00e9.jpg")),
    "decomposed accents": (unicodedata.normalize("NFD", "C:\\x\\caf\u00e9.jpg"), "caf\u00e9.jpg"),
    "chinese": ("D:\\数据\\图片\\猫 1.jpg", "猫 1.jpg"),
}


@pytest.mark.parametrize("case", ONE_FILE)
def test_a_name_that_means_one_file_finds_it_and_is_told(case, write_coco, write_image, tmp_path: Path) -> None:
    name, there = ONE_FILE[case]
    file = write_image(f"images/{there}")
    write_image("images/other.jpg")
    path = write_coco([(1, name)], BOX, name="data.json")
    first = load_index(path, [tmp_path / "images"])
    assert first.files == (str(file),)
    assert first.counts["boxes"] == 1
    # The second start takes the labels from the cache folder.
    assert load_index(path, [tmp_path / "images"]).files == first.files
    if first.counts["read_names"]:
        assert "1 images found though 'file_name' is not their path (" in first.summary()


@pytest.mark.parametrize("name", ["images/a1.jpg", "images\\1/a1.jpg", "/data/upload/1/a1.jpg"])
@pytest.mark.parametrize("images", ["images", None])
def test_label_studio_exports_are_found_in_the_usual_folders(name, images, write_coco, write_image, tmp_path) -> None:
    file = write_image("images/a1.jpg")
    path = write_coco([(1, name)], BOX, name="result.json")
    (tmp_path / "data.yaml").write_text("train: result.json\n" + (f"images: {images}\n" if images else ""))
    found = describe(tmp_path / "data.yaml")["coco"]["train"]
    assert load_index(path, found["images"]).files == (str(file),)


def test_fiftyone_s_folder_is_a_usual_one(write_coco, write_image, tmp_path: Path) -> None:
    file = write_image("data/a1.jpg")
    path = write_coco([(1, "a1.jpg")], BOX, name="labels.json")
    (tmp_path / "data.yaml").write_text("train: labels.json\n")
    assert load_index(path, describe(tmp_path / "data.yaml")["coco"]["train"]["images"]).files == (str(file),)


def _error(path: Path, *roots: Path) -> str:
    with pytest.raises(DataError) as caught:
        load_index(path, roots)
    assert str(path) in str(caught.value)
    return str(caught.value)


def test_names_that_mean_the_same_file_are_an_error(write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/0001.jpg")
    path = write_coco([(1, "cam1/0001.jpg"), (2, "cam2/0001.jpg")], BOX)
    said = _error(path, tmp_path / "images")
    assert "2 'file_name' mean a file that others mean too: 'cam1/0001.jpg' and 'cam2/0001.jpg'" in said
    assert "'images:' in the data YAML" in said


def test_uploads_of_one_file_are_an_error(write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/a1.jpg")
    path = write_coco([(1, "/data/upload/1/3fa0b1c2-a1.jpg"), (2, "/data/upload/1/00000000-a1.jpg")], BOX)
    assert "mean a file that others mean too" in _error(path, tmp_path / "images")


def test_a_name_that_means_files_of_two_folders_is_an_error(write_coco, write_image, tmp_path: Path) -> None:
    for folder in ("one", "two"):
        write_image(f"{folder}/a1.jpg")
    path = write_coco([(1, "/data/upload/1/a1.jpg")], BOX)
    said = _error(path, tmp_path / "one", tmp_path / "two")
    assert "file_name '/data/upload/1/a1.jpg' may mean" in said
    assert str(tmp_path / "one/a1.jpg") in said and str(tmp_path / "two/a1.jpg") in said


def test_names_that_differ_in_case_only_are_an_error_where_neither_is_there(write_coco, write_image, tmp_path) -> None:
    write_image("images/a.jpg")
    assert "'A.jpg' and 'a.JPG'" in _error(write_coco([(1, "A.jpg"), (2, "a.JPG")], BOX), tmp_path / "images")
    for name in ("A.jpg", "a.JPG"):
        write_image(f"images/{name}")
    index = load_index(write_coco([(1, "A.jpg"), (2, "a.JPG")], BOX), [tmp_path / "images"])
    assert [Path(file).name for file in index.files] == ["A.jpg", "a.JPG"]


def test_where_names_are_paths_a_missing_one_is_missing(write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/cam1/0001.jpg")
    write_image("images/0002.jpg")
    path = write_coco([(1, "cam1/0001.jpg"), (2, "cam2/0002.jpg")], BOX)
    index = load_index(path, [tmp_path / "images"])
    assert index.files == (str(tmp_path / "images/cam1/0001.jpg"),)
    assert index.counts["missing_images"] == 1


def test_a_file_that_another_name_means_exactly_is_not_taken(write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/0001.jpg")
    path = write_coco([(1, "0001.jpg"), (2, "cam2/0001.jpg"), (3, "images/0001.JPG")], BOX)
    index = load_index(path, [tmp_path / "images"])
    assert (index.counts["images"], index.counts["missing_images"], index.counts["duplicate_images"]) == (1, 2, 0)


@pytest.mark.parametrize(
    "name", ["train/0001.jpg", "train2017/0001.jpg", "d/train/images/0001.jpg", "training/0001.jpg"]
)
@pytest.mark.parametrize("folder", ["val", "valid/images", "images/val2017"])
def test_an_image_of_one_split_is_not_looked_for_in_another(name, folder, write_coco, write_image, tmp_path) -> None:
    write_image(f"{folder}/0001.jpg")
    said = _error(write_coco([(1, name)], BOX), tmp_path / folder)
    assert (
        f"There is {tmp_path / folder}/0001.jpg: if that is the image, write its name there as 'file_name', '0" in said
    )
    assert load_index(write_coco([(1, "0001.jpg")], BOX), [tmp_path / folder]).counts["images"] == 1


def test_a_folder_far_above_says_nothing_of_the_split(write_coco, write_image, tmp_path: Path) -> None:
    file = write_image("train/project/images/0001.jpg")
    index = load_index(write_coco([(1, "/data/val/0001.jpg")], BOX), [file.parent])
    assert index.files == (str(file),)


def test_a_file_of_another_size_is_not_the_image(write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/a1.jpg", (64, 48))
    write_image("images/b1.jpg", (40, 20))
    said = _error(write_coco([(1, "/data/upload/1/a1.jpg", (40, 20))], BOX), tmp_path / "images")
    assert "another size than the JSON says" in said and "a1.jpg as " in said
    rows = [(1, "/data/upload/1/a1.jpg", (40, 20)), (2, "/data/upload/1/b1.jpg", (20, 40))]
    path = write_coco(rows, [(2, 1, (1, 1, 5, 5))])
    for _ in range(2):
        index = load_index(path, [tmp_path / "images"])
        assert index.files == (str(tmp_path / "images/b1.jpg"),)  # turned by EXIF data, perhaps
        assert (index.counts["other_images"], index.counts["missing_images"]) == (1, 1)
        assert "1 images left out: a file of that name is there, but not of the size" in index.summary()


def test_the_longest_part_of_a_name_that_leads_to_a_file_counts(write_coco, write_image, tmp_path: Path) -> None:
    for name in ("cam1/a.jpg", "a.jpg", "x/a.jpg"):
        write_image(f"images/{name}")
    index = load_index(write_coco([(1, "/old/disk/cam1/a.jpg")], BOX), [tmp_path / "images"])
    assert index.files == (str(tmp_path / "images/cam1/a.jpg"),)


def test_an_image_that_lies_elsewhere_is_named_with_what_to_write(write_coco, write_image, tmp_path: Path) -> None:
    file = write_image("pictures/deep/a1.jpg")
    (tmp_path / "empty").mkdir()
    path = write_coco([(1, "images/a1.jpg"), (2, "images/a2.jpg")], BOX, name="result.json")
    said = _error(path, tmp_path / "empty")
    assert re.search("none of the 2 'images' can be used.*looked for 'images/a1.jpg' in ", said)
    assert f"There is {file}: if that is the image, write 'images: {file.parent}' in the data YAML" in said
    write_image("others/a1.jpg")
    said = _error(path, tmp_path / "empty")
    assert f"There are {tmp_path}/others/a1.jpg, {file}" in said


def test_the_folders_of_all_splits_are_named(write_coco, write_image, tmp_path: Path) -> None:
    files = [write_image(f"images/{name}") for name in ("train/t1.jpg", "val/v1.jpg")]
    write_image("images/val/v2.jpg")
    said = _error(write_coco([(1, "t1.jpg"), (2, "v1.jpg"), (3, "v2.jpg")], BOX), tmp_path / "images")
    assert f"There are {files[0]}, {files[1]}: name the folder of the right one with 'images:'" in said
    assert "one for each split, 'images: {train: ..., val: ...}'" in said


@pytest.mark.parametrize("name", ["a1", "a1.png", "other.jpg"])
def test_names_that_no_file_has_are_told_with_one_that_is_there(name, write_coco, write_image, tmp_path) -> None:
    write_image("images/a1.jpg")
    said = _error(write_coco([(1, name)], BOX), tmp_path / "nowhere", tmp_path / "images")
    assert "write names as they are there as 'file_name', like 'a1.jpg'" in said
    assert "as they are there" not in _error(write_coco([(1, name)], BOX), tmp_path / "annotations")


def test_an_image_that_cannot_be_read_is_named(write_coco, tmp_path: Path) -> None:
    (tmp_path / "a1.jpg").write_bytes(b"")
    said = _error(write_coco([(1, "a1.jpg")], BOX), tmp_path)
    assert "1 unreadable" in said and said.endswith(f"The first that cannot be read is {tmp_path}/a1.jpg")


@pytest.mark.parametrize(
    "name", ["", ".", "..", "/", "\\", "a\0.jpg", "?d=", "http://[", "%", "%00", "x" * 5000, "\ud800"]
)
def test_names_that_are_none_are_missing(name, write_coco, write_image, tmp_path: Path) -> None:
    write_image("images/b.jpg")
    index = load_index(write_coco([(1, name), (2, "b.jpg")], BOX), [tmp_path / "images"])
    assert index.counts["missing_images"] == 1 and index.summary().isprintable()
