import gzip
import io
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.images import encode_image, noise_image, write_class_folders
from PIL import Image

from raysearch.data.prepared import PreparedData, load_metadata
from raysearch.errors import SpecError
from raysearch.modalities.image.config import ImageTask
from raysearch.modalities.image.dataset import ImageSplit, _mean_and_std
from raysearch.modalities.image.pictures import PictureFacts, decode_picture, resize_pixels, to_pixels
from raysearch.modalities.image.splits import split_digits
from raysearch.modalities.loading import read_task
from raysearch.modalities.opening import open_split, prepare
from raysearch.schema.node import Node

CNN = {"image": "small_cnn", "widths": [4], "norm": "group"}
DATA = Path(os.environ.get("RAYSEARCH_DATA", "."))
BRIGHTNESS = {"dark": 40, "grey": 120, "light": 210}


def task(folder: Path, **declared: Any) -> ImageTask:
    node = {"kind": "image", "name": "mine", "base": str(folder), **declared}
    result = read_task(Node(node, ("task",)))
    assert isinstance(result, ImageTask)
    return result


def prepared(folder: Path, model: dict[str, Any] = CNN, **declared: Any) -> PreparedData:
    return prepare(task(folder, **declared), model, folder / "data")


def split(result: PreparedData, name: str) -> ImageSplit:
    opened = open_split(result.folder, name)
    assert isinstance(opened, ImageSplit)
    return opened


def label_names(result: PreparedData, name: str) -> list[str]:
    labels = load_metadata(result.folder)["auxiliary_labels"] if name == "auxiliary" else result.labels
    numbers = split(result, name).labels
    assert numbers is not None
    return [labels[number] for number in numbers]


# ---- sources ----


def test_class_folders_become_splits_with_pixels_and_labels(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", BRIGHTNESS, 20)
    result = prepared(tmp_path, train="train", split={"dev": 0.2, "test": 0.1})
    assert result.labels == ("dark", "grey", "light")
    assert result.sizes == {"train": 42, "meta_dev": 6, "select_dev": 6, "test": 6}
    metadata = load_metadata(result.folder)
    assert metadata["shape"] == [3, 8, 8]
    train = split(result, "train")
    for i, label in enumerate(label_names(result, "train")):
        assert abs(train.row(i).mean() - BRIGHTNESS[label]) < 15
    assert metadata["mean"] == pytest.approx((train.pixels / 255).mean((0, 2, 3)), abs=1e-5)
    assert metadata["std"] == pytest.approx((train.pixels / 255).std((0, 2, 3)), abs=1e-5)


def test_image_split_is_memory_mapped(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", BRIGHTNESS, 20)
    result = prepared(tmp_path, train="train")
    before = pa.total_allocated_bytes()
    train = split(result, "train")
    assert pa.total_allocated_bytes() == before
    assert not train.pixels.flags.owndata
    assert train.pixels.dtype == np.uint8


@pytest.mark.parametrize("kind", ["encoded", "raw", "struct", "npz", "idx", "idx.gz", "csv", "jsonl"])
def test_every_image_file_format_gives_the_same_images(tmp_path: Path, kind: str) -> None:
    pictures = [noise_image(i, 40 + 160 * (i % 2), colour=False) for i in range(20)]
    pixels = np.stack([np.asarray(p) for p in pictures])
    labels = np.arange(20) % 2
    names = [["dark", "light"][n] for n in labels]
    more: dict[str, Any] = {"class_names": ["dark", "light"]}
    file = "images.parquet"
    if kind in ("encoded", "struct"):
        column: Any = [encode_image(p) for p in pictures]
        column = [{"bytes": value, "path": None} for value in column] if kind == "struct" else column
        table = pa.table({"image": column, "label": labels})
        pq.write_table(table.replace_schema_metadata({"classes": json.dumps(more.pop("class_names"))}), tmp_path / file)
    elif kind == "raw":
        rows = pa.array([p.tobytes() for p in pixels], pa.binary(64))
        pq.write_table(pa.table({"image": rows, "label": labels.astype(np.uint8)}), tmp_path / file)
    elif kind == "npz":
        file = "images.npz"
        np.savez(tmp_path / file, images=pixels, labels=labels)
    elif kind.startswith("idx"):
        end = kind.removeprefix("idx")
        file = f"train-images-idx3-ubyte{end}"
        for name, array in {file: pixels, f"train-labels-idx1-ubyte{end}": labels.astype(np.uint8)}.items():
            head = bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes()
            whole = head + array.tobytes()
            (tmp_path / name).write_bytes(gzip.compress(whole) if end else whole)
    else:
        file = f"images.{kind}"
        for i, shown in enumerate(pictures):
            shown.save(tmp_path / f"{i}.png")
        rows_of = [{"image": f"{i}.png", "label": name} for i, name in enumerate(names)]
        lines = [f"{row['image']},{row['label']}" for row in rows_of]
        text = "image,label\n" + "\n".join(lines) if kind == "csv" else "\n".join(map(json.dumps, rows_of))
        (tmp_path / file).write_text(text + "\n")
        more = {}
    result = prepared(tmp_path, train=file, split={"dev": 0.2, "test": 0.0}, **more)
    assert result.labels == ("dark", "light")
    assert load_metadata(result.folder)["shape"] == [1, 8, 8]
    assert result.sizes == {"train": 16, "meta_dev": 2, "select_dev": 2}
    by_pixels = {array.tobytes(): name for array, name in zip(pixels, names, strict=True)}
    for part in result.sizes:
        assert [by_pixels[row.tobytes()] for row in split(result, part).pixels] == label_names(result, part)


def test_multi_label_table_reads_blank_and_uncertain_as_declared(tmp_path: Path) -> None:
    lines = ["Path,Edema,Effusion"]
    for i in range(24):
        noise_image(i, 100, colour=False).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{['1.0', '', '-1.0', '0.0'][i % 4]},{['', '1'][i // 4 % 2]}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    several = {"train": "train.csv", "image": "Path", "labels": ["Edema", "Effusion"], "metric": "mean_auc"}
    result = prepare(task(tmp_path, **several, dev_per_class=4), CNN, tmp_path / "a")
    assert result.labels == ("Edema", "Effusion")
    labels = split(result, "train").labels
    assert labels is not None
    assert labels.shape == (result.sizes["train"], 2)
    negative = prepare(task(tmp_path, **several, dev_per_class=4, uncertain="negative"), CNN, tmp_path / "b")
    totals = [
        sum(int(split(f, n).labels[:, 0].sum()) for n in ("train", "meta_dev", "select_dev", "test"))
        for f in (result, negative)
    ]
    assert totals == [12, 6]


def test_multi_label_subset_is_balanced_where_possible(tmp_path: Path) -> None:
    lines = ["image,a,b"]
    for i in range(60):
        noise_image(i, 100).save(tmp_path / f"{i}.png")
        lines.append(f"{i}.png,{int(i % 6 == 0)},{int(i % 10 == 0)}")
    (tmp_path / "train.csv").write_text("\n".join(lines) + "\n")
    result = prepared(
        tmp_path, train="train.csv", labels=["a", "b"], metric="mean_auc", train_per_class=8, dev_per_class=4,
        meta_dev=0, split={"test": 0},
    )  # fmt: skip
    assert result.sizes["train"] <= 16
    assert result.sizes["select_dev"] == 8
    for name, least in {"train": 2, "select_dev": 2}.items():
        labels = split(result, name).labels
        assert labels is not None
        assert (labels.sum(0) >= least).all()


# ---- choosing ----


def test_classes_select_the_end_task_and_rest_is_auxiliary(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "all", {**BRIGHTNESS, "white": 250}, 20)
    result = prepared(
        tmp_path, train="all", classes=["light", "dark"], auxiliary="rest", train_per_class=5, dev_per_class=4,
        split={"test": 0.1},
    )  # fmt: skip
    assert result.labels == ("light", "dark")
    assert result.sizes == {"train": 10, "meta_dev": 4, "select_dev": 4, "test": 4, "auxiliary": 40}
    for name in ("train", "meta_dev", "select_dev", "test"):
        assert sorted(label_names(result, name)) == sorted(["light", "dark"] * (result.sizes[name] // 2))
    assert load_metadata(result.folder)["auxiliary_labels"] == ["grey", "white"]
    assert set(label_names(result, "auxiliary")) == {"grey", "white"}
    rows = [row.tobytes() for name in result.sizes for row in split(result, name).pixels]
    assert len(rows) == len(set(rows))


def test_where_selects_a_superclass_as_end_task(tmp_path: Path) -> None:
    images = [encode_image(noise_image(i, 100)) for i in range(60)]
    fine, coarse = [f"f{i % 6}" for i in range(60)], [["sea", "land"][i % 6 // 3] for i in range(60)]
    pq.write_table(pa.table({"image": images, "label": fine, "coarse_label": coarse}), tmp_path / "a.parquet")
    result = prepared(tmp_path, train="a.parquet", where={"coarse_label": "sea"}, auxiliary="rest", split={"dev": 0.3})
    assert result.labels == ("f0", "f1", "f2")
    assert load_metadata(result.folder)["auxiliary_labels"] == ["f3", "f4", "f5"]
    with pytest.raises(SpecError, match="no row has coarse_label: see; did you mean 'sea'"):
        prepare(task(tmp_path, train="a.parquet", where={"coarse_label": "see"}), CNN, tmp_path / "other")


def test_second_data_set_provides_auxiliary_labels(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "mine", BRIGHTNESS, 20)
    write_class_folders(tmp_path / "theirs", {"cat": 90, "dog": 160}, 6, side=12)
    source = {"train": "theirs", "train_per_class": 5}
    result = prepared(tmp_path, train="mine", auxiliary=source, size=8)
    assert result.sizes["auxiliary"] == 10
    assert load_metadata(result.folder)["auxiliary_labels"] == ["cat", "dog"]
    with pytest.raises(SpecError, match=r"this image is 12 x 12, the first one 8 x 8; give task\.size"):
        prepare(task(tmp_path, train="mine", auxiliary=source), CNN, tmp_path / "unscaled")


def test_image_split_depends_on_content_not_file_names(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "a", BRIGHTNESS, 12)
    for folder in ("b", "b/dark", "b/grey", "b/light"):
        (tmp_path / folder).mkdir()
    for number, file in enumerate(sorted((tmp_path / "a").rglob("*.png"), reverse=True)):
        (tmp_path / "b" / file.parts[-3] / f"{number}.png").write_bytes(file.read_bytes())
    few = {"train_per_class": 3, "dev_per_class": 4}
    first, second = (prepare(task(tmp_path, train=name, **few), CNN, tmp_path / f"data_{name}") for name in ("a", "b"))
    for name in first.sizes:
        rows = [sorted(row.tobytes() for row in split(result, name).pixels) for result in (first, second)]
        assert rows[0] == rows[1]


def test_overlay_uses_the_second_digit_as_auxiliary_label(tmp_path: Path) -> None:
    pixels = np.zeros((40, 28, 28), np.uint8)
    for i in range(40):
        pixels[i] = 20 * (1 + i % 10) + (i // 10)
    np.savez(tmp_path / "digits.npz", images=pixels, labels=np.arange(40) % 10)
    result = prepared(
        tmp_path, train="digits.npz", overlay={"train": 50, "dev": 20, "test": 10}, split={"dev": 0.25, "test": 0.25}
    )
    assert result.sizes == {"train": 50, "meta_dev": 10, "select_dev": 10, "test": 10, "auxiliary": 50}
    assert load_metadata(result.folder)["shape"] == [1, 36, 36]
    train, below = split(result, "train"), split(result, "auxiliary")
    assert np.array_equal(train.pixels, below.pixels)
    assert train.labels is not None
    assert below.labels is not None
    for row, above, under in zip(train.pixels, train.labels, below.labels, strict=True):
        assert row[0, 0, 0] // 20 == 1 + above
        assert row[0, -1, -1] // 20 == 1 + under
        assert row[0, 0, -1] == row[0, -1, 0] == 0
    parts = {name: {row[0, 0, 0] for row in split(result, name).pixels} for name in ("train", "select_dev", "test")}
    assert not parts["train"] & parts["test"]
    assert not parts["train"] & parts["select_dev"]


def test_built_in_digits_have_documented_splits(tmp_path: Path) -> None:
    result = prepare(ImageTask(name="digits"), CNN, tmp_path / "data")
    assert result.labels == ("1", "8", "9")
    assert result.sizes == {"train": 15, "meta_dev": 120, "select_dev": 120, "test": 180, "auxiliary": 1261}
    assert load_metadata(result.folder)["auxiliary_labels"] == ["0", "2", "3", "4", "5", "6", "7"]
    assert result.notes == ()
    assert prepare(ImageTask(name="digits"), CNN, tmp_path / "data") == result
    with pytest.raises(SpecError, match="was prepared from other data or settings"):
        prepare(ImageTask(name="digits", train_per_class=3), CNN, tmp_path / "data")


# ---- what is odd, and what is refused ----


def test_image_duplicates_leaks_and_missing_labels_are_noted(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", BRIGHTNESS, 6)
    write_class_folders(tmp_path / "dev", BRIGHTNESS, 2, start=500)
    write_class_folders(tmp_path / "test", {"dark": 40}, 3)
    again = tmp_path / "train" / "light" / "again.png"
    again.write_bytes((tmp_path / "train" / "dark" / "images" / "dark_5.png").read_bytes())
    result = prepared(tmp_path, train="train", dev="dev", test="test")
    assert result.notes == (
        "3 of 3 test images also stand in train",
        "1 train images carry more than one label",
        "no test image has the label grey, light",
    )
    assert load_metadata(result.folder)["duplicates"]["train"] == 1


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"train": "nowhere"}, r"task\.train: no file .*nowhere.*--data DIR"),
        ({"train": "empty"}, r"empty: holds no images"),
        ({"train": "flat"}, r"flat: a\.png is not in a class folder"),
        ({"train": "broken"}, r"broken/b/\d+\.png: not a picture"),
        ({"train": "a.txt"}, r"cannot read a \.txt file as images"),
        ({"train": "a.csv"}, r"a\.csv:3: image: no file 'missing\.png' beside the table"),
        ({"train": "a.csv", "image": "imge"}, r"a\.csv:1: no column 'imge' in the header; did you mean 'image'"),
        ({"train": "b.csv"}, r"b\.csv:2: label: the label is empty"),
        ({"train": "b.csv", "labels": ["x", "y"], "metric": "mean_auc"}, r"b\.csv:2: x: one of several labels is 1, 0"),
        ({"train": "folders", "classes": ["drak", "light"]}, r"no image has the class 'drak'; did you mean 'dark'"),
        ({"train": "folders", "train_per_class": 50}, r"task\.train_per_class: needs 50 images of each class, but"),
        ({"train": "folders", "labels": ["a", "b"], "metric": "mean_auc"}, r"labels: has no columns to read this from"),
        ({"train": "wide"}, r"images are 8 x 12; give task\.size"),
    ],
)
def test_unusable_image_source_raises_one_line_error(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    write_class_folders(tmp_path / "folders", {"dark": 40, "light": 210}, 10)
    (tmp_path / "empty").mkdir()
    for name in ("flat", "broken/a", "broken/b", "wide/a", "wide/b"):
        (tmp_path / name).mkdir(parents=True)
    noise_image(0, 40).save(tmp_path / "flat" / "a.png")
    for i in range(40):
        noise_image(i, 40).save(tmp_path / "broken" / "a" / f"{i}.png")
        noise_image(i, 40).resize((12, 8)).save(tmp_path / "wide" / "ab"[i % 2] / f"{i}.png")
        (tmp_path / "broken" / "b" / f"{i}.png").write_bytes(b"no picture %d" % i)
    (tmp_path / "a.txt").write_text("x")
    noise_image(1, 40).save(tmp_path / "there.png")
    (tmp_path / "a.csv").write_text("image,label\nthere.png,x\nmissing.png,y\n")
    (tmp_path / "b.csv").write_text("image,label,x,y\nthere.png,,2,1\n")
    with pytest.raises(SpecError, match=message):
        prepared(tmp_path, **declared)


@pytest.mark.parametrize(
    ("declared", "message"),
    [
        ({"train": "a", "labels": ["x", "y"]}, "metric: accuracy is for one label"),
        ({"train": "a", "auxiliary": "rest"}, "auxiliary: needs `classes:` or `where:`"),
        ({"train": "a", "auxiliary": {"label": "x"}}, "auxiliary: the key 'train' is missing"),
        ({"train": "a", "overlay": {"train": 5}}, "overlay: the key 'dev' is missing"),
        ({"train": "a", "overlay": {"train": 5, "dev": 0}}, "overlay.dev: must be at least 1"),
        ({"train": "a", "dev": "b", "dev_per_class": 5}, "dev_per_class: is held out of train"),
        ({"train": "a", "classes": ["x"]}, "classes: an end task has at least two classes"),
        ({"train": "a", "split": {"dev": 0.6, "test": 0.4}}, "split: nothing is left to train on"),
        ({"train": "a", "channels": 2}, "channels: must be 1"),
        ({"train": "a", "text": "x"}, "unknown key 'text'"),
        ({"name": "digts"}, "'digts' is not a built-in image task .* did you mean 'digits'"),
        ({"name": "digits", "classes": ["1", "2"]}, "classes: is not used: the built-in images"),
    ],
)
def test_invalid_image_task_is_rejected(tmp_path: Path, declared: dict[str, Any], message: str) -> None:
    with pytest.raises(SpecError, match=message):
        task(tmp_path, **declared)


def test_images_are_resized_and_converted_to_grey_or_colour() -> None:
    colour, grey = (decode_picture(encode_image(noise_image(0, 100, colour=c)), "x") for c in (True, False))
    assert colour.shape == (8, 8, 3)
    assert grey.shape == (8, 8)
    assert np.array_equal(resize_pixels(colour, 8, 3)[1], colour[:, :, 1])
    assert np.array_equal(resize_pixels(grey, 8, 3), np.stack([grey] * 3))
    assert resize_pixels(colour, 4, 1).shape == (1, 4, 4)
    assert resize_pixels(grey, 16, 1).mean() == pytest.approx(grey.mean(), abs=2)


def test_hugging_face_image_models_get_three_channels(tmp_path: Path) -> None:
    result = prepare(ImageTask(name="digits"), {"config": {"model_type": "resnet"}}, tmp_path / "data")
    assert load_metadata(result.folder)["shape"] == [3, 8, 8]


@pytest.mark.data
def test_cat_vs_dog_splits_match_the_paper(tmp_path: Path) -> None:
    files = {"train": "cifar10/train.parquet", "test": "cifar10/test.parquet"}
    declared = {**files, "classes": ["cat", "dog"], "auxiliary": "rest", "train_per_class": 50, "dev_per_class": 50}
    result = prepare(task(tmp_path, **declared), CNN, tmp_path / "data", DATA)
    assert result.sizes == {"train": 100, "meta_dev": 50, "select_dev": 50, "test": 2000, "auxiliary": 40000}
    assert load_metadata(result.folder)["shape"] == [3, 32, 32]
    assert len(load_metadata(result.folder)["auxiliary_labels"]) == 8


@pytest.mark.data
def test_mnist_overlay_pairs_digits(tmp_path: Path) -> None:
    files = {"train": "mnist/test.parquet", "overlay": {"train": 100, "dev": 50}}
    result = prepare(task(tmp_path, **files), CNN, tmp_path / "data", DATA)
    assert result.sizes["train"] == result.sizes["auxiliary"] == 100
    assert result.sizes["meta_dev"] + result.sizes["select_dev"] == 50
    assert load_metadata(result.folder)["shape"] == [1, 36, 36]
    assert result.labels == tuple("0123456789")


def test_multi_digits_splits_share_no_source_digits() -> None:
    splits = split_digits(ImageTask(name="multi_digits"))
    assert {name: len(images) for name, images in splits.items()} == {
        "train": 600, "meta_dev": 300, "select_dev": 300, "test": 500, "auxiliary": 600,
    }  # fmt: skip
    assert splits["train"].keys == splits["auxiliary"].keys
    assert splits["train"].labels != splits["auxiliary"].labels
    assert set(splits["train"].labels) == set(map(str, range(10)))
    keys = [set(splits[name].keys) for name in ("train", "meta_dev", "select_dev", "test")]
    assert not any(a & b for i, a in enumerate(keys) for b in keys[:i])


# ---- what other programs write ----


def test_folder_passes_over_hidden_files_and_says_so(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "train", BRIGHTNESS, 20)
    for hidden in (".ipynb_checkpoints/a.png", "__MACOSX/dark/a.png", "dark/._a.png", "dark/.thumbs/a.png", "._b.png"):
        file = tmp_path / "train" / hidden
        file.parent.mkdir(parents=True, exist_ok=True)
        noise_image(7, 100).save(file, "png")
    for other in ("dark/a.heic", "dark/b.HEIC", "labels.csv", "dark/README"):
        (tmp_path / "train" / other).write_bytes(b"x")
    (tmp_path / "train" / "none").mkdir()
    (tmp_path / "train" / "dark" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (tmp_path / "train" / "dark" / "back").symlink_to(tmp_path / "train")
    result = prepared(tmp_path, train="train")
    assert result.labels == ("dark", "grey", "light")
    assert sum(result.sizes.values()) == 60
    assert list(result.notes) == [
        "train: hidden files and folders were passed over: .ipynb_checkpoints, __MACOSX, ._b.png, dark/.thumbs, "
        "dark/._a.png",
        "train: files of other suffixes were passed over: 1 without suffix, 1 .csv, 2 .heic",
        "train: links that lead nowhere new were passed over: dark/back, dark/gone.png",
        "train: folders without images are no classes: none",
    ]


def test_folder_links_to_classes_are_followed(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "stored", BRIGHTNESS, 20)
    (tmp_path / "train").mkdir()
    for name in BRIGHTNESS:
        (tmp_path / "train" / name).symlink_to(tmp_path / "stored" / name)
    assert prepared(tmp_path, train="train").labels == ("dark", "grey", "light")


def test_folder_of_splits_is_rejected(tmp_path: Path) -> None:
    write_class_folders(tmp_path / "birds", {"train": 40, "Val": 200}, 5)
    with pytest.raises(SpecError, match=r"birds: its folders are splits, not classes: Val and train; name one of them"):
        prepared(tmp_path, train="birds")


def stored_picture(image: Image.Image, file_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, file_format, **options)
    return file.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_decode_picture_turns_as_transformers_pipelines_do(tmp_path: Path, orientation: int) -> None:
    from transformers.image_utils import load_image

    exif = Image.Exif()
    exif[0x0112] = orientation
    noise_image(0, 120, 8).resize((8, 5)).save(tmp_path / "a.png", exif=exif)
    facts = PictureFacts()
    decoded = decode_picture(tmp_path / "a.png", "", facts)
    np.testing.assert_array_equal(decoded, np.asarray(load_image(str(tmp_path / "a.png"))))
    assert decoded.shape[:2] == ((5, 8) if orientation < 5 else (8, 5))
    assert facts.notes() == ["images turned as their EXIF orientation says: 1"] * (orientation > 1)
    with Image.open(tmp_path / "a.png") as opened:
        np.testing.assert_array_equal(to_pixels(opened), decoded)


def test_decode_picture_scales_16_bits_by_one_rule() -> None:
    for file_format in ("png", "tiff"):
        for level in (0, 257, 4000, 65535):
            image = Image.fromarray(np.full((4, 4), level, np.uint16))
            facts = PictureFacts()
            decoded = decode_picture(stored_picture(image, file_format), "a", facts)
            assert (decoded == round(level / 257)).all()
            assert any("they are dark" in note for note in facts.notes()) == (0 < level < 65535)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        (np.float32([[0, 0.5], [1, 0.25]]), [[0, 128], [255, 64]]),
        (np.int32([[0, 257], [65535, 514]]), [[0, 1], [255, 2]]),
        (np.float32([[0, 0.5], [255, 1]]), "has pixels from 0 to 255; floats are read as 0 black to 1 white"),
        (np.float32([[0, np.nan], [1, 1]]), "has pixels from nan to nan; floats"),
        (np.int32([[0, 1], [2, 65536]]), "has pixels from 0 to 65536; more than 8 bits are read as 0 black to 65535"),
        (np.int32([[-1, 1], [2, 3]]), "has pixels from -1 to 3; "),
    ],
)
def test_decode_picture_of_deep_pixels_is_exact_or_refused(pixels: Any, expected: Any) -> None:
    content = stored_picture(Image.fromarray(pixels), "tiff")
    if isinstance(expected, str):
        with pytest.raises(SpecError, match=f"^a.tif: {expected}"):
            decode_picture(content, "a.tif")
    else:
        assert decode_picture(content, "a.tif").tolist() == expected


@pytest.mark.parametrize("kind", ["bomb", "cut", "text", "empty", "png header", "svg"])
def test_picture_that_cannot_be_decoded_names_its_row(
    tmp_path: Path, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = encode_image(noise_image(0, 100, 64))
    contents = {"bomb": whole, "cut": whole[:-200], "text": b"cat", "empty": b"\0", "png header": whole[:20]}
    content = contents.get(kind, b"<svg xmlns='http://www.w3.org/2000/svg'/>")
    small = [encode_image(noise_image(i, 100, 8)) for i in range(40)]
    images = [*small[:5], content, *small[5:]]
    pq.write_table(pa.table({"image": images, "label": ["a", "b"] * 20 + ["a"]}), tmp_path / "a.parquet")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(SpecError, match=r"a\.parquet: row 6: (has more than|not a picture: )"):
        prepared(tmp_path, train="a.parquet", size=8)
    (tmp_path / "one.png").write_bytes(content)
    with pytest.raises(SpecError, match=r"one\.png: (has more than|not a picture: )"):
        decode_picture(tmp_path / "one.png", "")


def test_pictures_with_frames_or_transparency_are_noted(tmp_path: Path) -> None:
    frames = [noise_image(i, 100).convert("P") for i in range(3)]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:])
    noise_image(1, 100).convert("RGBA").save(tmp_path / "a.png")
    facts = PictureFacts()
    for name in ("a.gif", "a.png"):
        assert decode_picture(tmp_path / name, "", facts).shape == (8, 8, 3)
    assert facts.notes() == [
        "images with several frames, of which the first is read: 1",
        "images with transparency, which is dropped: 1",
    ]


@pytest.mark.parametrize("step", [0, 1, 100])
def test_channels_are_normalised_however_rarely_they_change(step: int) -> None:
    pixels = np.zeros((4000, 1, 8, 8), np.uint8)
    pixels[0, 0, 0, 0] = step
    share = 1 / pixels.size
    deviation = step / 255 * (share * (1 - share)) ** 0.5 if step else 1.0
    assert _mean_and_std(pixels)["std"][0] == pytest.approx(deviation, rel=1e-3)


def test_hidden_labels_of_test_images_leave_the_split_out(tmp_path: Path) -> None:
    images = [encode_image(noise_image(i, 60 + 100 * (i % 2))) for i in range(40)]
    names = json.dumps({"info": {"features": {"label": {"names": ["dark", "light"]}}}})
    for name, labels in (("train", [0, 1] * 20), ("test", [-1] * 40)):
        table = pa.table({"image": images, "label": labels}).replace_schema_metadata({"huggingface": names})
        pq.write_table(table, tmp_path / f"{name}.parquet")
    result = prepared(tmp_path, train="train.parquet", test="test.parquet")
    assert result.labels == ("dark", "light")
    assert result.sizes["test"] == 4
    assert result.notes[0].startswith("test.parquet: every label is -1 or empty")
    with pytest.raises(SpecError, match=r"test\.parquet: row 1: label: -1 is not the number of a class"):
        prepare(task(tmp_path, train="test.parquet"), CNN, tmp_path / "other")
