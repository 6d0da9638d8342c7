"""ImageNet-127 from small files of the exact formats: batches as Python 2 and 3 wrote them, malicious and bad ones, an
ImageNet folder, resuming, runs."""
import hashlib
import io
import json
import os
import pickle
import shutil
import struct

import numpy as np
import pytest
import torch
from kit import ROOT
from PIL import Image

from semilib import cli
from semilib.data import imagenet127, sources
from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.training import record
from semilib.training.config import CELLS, FIXED, Run
from semilib.training.engine import Trainer
from semilib.training.train import train

SMALL = imagenet127.Whole(train=2500, test=2000, batches=3, smallest=2, largest=3, test_each=2)


# ---- the classes -----------------------------------------------------------------------------------------------------


def test_the_table_is_that_of_the_release_and_of_127_classes():
    wnids, merged, names = imagenet127.wnids(), imagenet127.merged(), imagenet127.class_names()
    assert len(set(wnids)) == 1000 and wnids[:3] == ["n02119789", "n02100735", "n02110185"]
    digest = hashlib.sha256(" ".join(wnids).encode()).hexdigest()
    assert digest == "4ea5082abdf28e98acbc2f290b0b980f400bca68d70ff346d5426f6a96b669e2"
    assert set(merged.tolist()) == set(range(127)) and len(names) == len(set(names)) == 127
    assert np.bincount(merged).max() == 218 and names[np.bincount(merged).argmax()] == "mammal"


def test_the_table_travels_with_the_package():
    assert '"semilib.data" = ["imagenet127.csv"]' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")


# ---- pickles ---------------------------------------------------------------------------------------------------------


class Python2(pickle._Pickler):
    """Pickles as Python 2's protocol 2: texts and bytes are both its byte strings, numpy is found at its old place."""

    dispatch = dict(pickle._Pickler.dispatch)

    def save_string(self, value):
        value = value.encode("latin1") if isinstance(value, str) else value
        long = len(value) > 255
        size = len(value)
        head = pickle.BINSTRING + struct.pack("<i", size) if long else pickle.SHORT_BINSTRING + bytes([size])
        self.write(head + value)
        self.memoize(value)

    dispatch[str] = dispatch[bytes] = save_string

    def save_global(self, value, name=None):
        module = value.__module__.replace("numpy._core", "numpy.core")
        self.write(pickle.GLOBAL + f"{module}\n{value.__qualname__}\n".encode())
        self.memoize(value)

    dispatch[type] = save_global


def python2(value) -> bytes:
    file = io.BytesIO()
    Python2(file, 2).dump(value)
    assert file.getvalue().count(b"X\x00") < 5                                    # no text of Python 3
    return file.getvalue()


def batch(n=6, side=32, seed=0):
    random = np.random.default_rng(seed)
    return {"data": random.integers(0, 256, (n, 3 * side * side), dtype=np.uint8),
            "labels": random.integers(1, 1001, n).tolist(), "mean": random.random(3 * side * side)}


def write(path, value, how="python3"):
    writers = {"python3": lambda: pickle.dumps(value), "protocol 2": lambda: pickle.dumps(value, 2),
               "python2": lambda: python2(value), "protocol 5": lambda: pickle.dumps(value, 5)}
    path.write_bytes(writers[how]())
    return path


@pytest.mark.parametrize("how", ["python2", "protocol 2", "python3", "protocol 5"])
@pytest.mark.parametrize("side", [32, 64])
def test_batches_of_every_python_are_read(tmp_path, how, side):
    given = batch(side=side)
    images, labels = imagenet127.read_batch(write(tmp_path / "b", given, how), side)
    assert np.array_equal(images, given["data"].reshape(6, 3, side, side)) and images.dtype == np.uint8
    assert labels.tolist() == [k - 1 for k in given["labels"]] and labels.dtype == np.int64


def test_labels_may_be_an_array(tmp_path):
    given = batch() | {"labels": np.array([1, 1000, 3, 4, 5, 6])}
    assert imagenet127.read_batch(write(tmp_path / "b", given), 32)[1].tolist() == [0, 999, 2, 3, 4, 5]


class Command:
    def __init__(self, function, *arguments):
        self.made = function, arguments

    def __reduce__(self):
        return self.made


@pytest.mark.parametrize("what", [
    lambda mark: Command(os.system, f"touch {mark}"), lambda mark: Command(eval, f"open({str(mark)!r}, 'w')"),
    lambda mark: Command(os.mkdir, str(mark)), lambda mark: Command(np.load, str(mark)),
    lambda mark: Command(np.save, str(mark), 1), lambda mark: Command(torch.load, str(mark)),
])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_pickle_that_asks_for_anything_but_arrays_is_refused_and_does_not_run(tmp_path, what, protocol):
    mark, path = tmp_path / "ran", tmp_path / "b"
    path.write_bytes(pickle.dumps({**batch(), "mean": what(mark)}, protocol))
    wanted = "arrays and nothing else; it asks for .*, which is neither a container nor an array"
    with pytest.raises(BadInput, match=wanted) as error:
        imagenet127.read_batch(path, 32)
    assert error.value.field == "from" and not mark.exists()


def test_the_one_function_of_codecs_makes_bytes_and_nothing_else(tmp_path):
    path = tmp_path / "b"
    path.write_bytes(b"c_codecs\nencode\n(Vabc\nVrot13\ntR.")
    with pytest.raises(BadInput, match="it asks for the encoding 'rot13'"):
        imagenet127.read_batch(path, 32)


@pytest.mark.parametrize("change, words", [
    (lambda b: {**b, "labels": [0, *b["labels"][1:]]}, r"labels in 1, \.\.\., 1000; it has 0"),
    (lambda b: {**b, "labels": [1001, *b["labels"][1:]]}, "it has 1001"),
    (lambda b: {**b, "labels": b["labels"][1:]}, r"as many as images \(6\)"),
    (lambda b: {**b, "labels": [1.0] * 6}, "float64 of shape"),
    (lambda b: {**b, "labels": ["1"] * 6}, "one whole number a label"), (lambda b: {"data": b["data"]}, "and labels"),
    (lambda b: {**b, "data": b["data"].astype(np.float32)}, "data, uint8"),
    (lambda b: {**b, "data": b["data"].tolist()}, "data, uint8"),
    (lambda b: {**b, "data": b["data"][0]}, "data, uint8"),
    (lambda b: batch(side=64), "32 x 32 for side=32; these have 64 x 64"),
    (lambda b: {**b, "data": b["data"][:, :100]}, "these have 100 numbers"), (lambda b: [b], "not list"),
])
def test_bad_batches_are_refused(tmp_path, change, words):
    with pytest.raises(BadInput, match=words) as error:
        imagenet127.read_batch(write(tmp_path / "train_data_batch_3", change(batch())), 32)
    assert error.value.field == "from" and "train_data_batch_3" in str(error.value)


@pytest.mark.parametrize("part", [0.0, 0.3, 0.99])
@pytest.mark.parametrize("how", ["python2", "python3"])
def test_a_batch_cut_short_is_refused(tmp_path, part, how):
    path = write(tmp_path / "b", batch(), how)
    path.write_bytes(path.read_bytes()[:int(part * path.stat().st_size)])
    with pytest.raises(BadInput, match="an intact batch .* cut short or damaged"):
        imagenet127.read_batch(path, 32)


# ---- the official batches --------------------------------------------------------------------------------------------


@pytest.fixture
def official(tmp_path, monkeypatch):
    """(folder, images [4500, 3, 32, 32], labels 0..999):
    a release of three training batches, 2 or 3 images a class, and 2 to test."""
    monkeypatch.setattr(imagenet127, "WHOLE", SMALL)
    random = np.random.default_rng(0)
    labels = np.concatenate([random.permutation(np.concatenate([np.arange(1000), np.arange(1000), np.arange(500)])),
                             random.permutation(np.repeat(np.arange(1000), 2))])
    images = random.integers(0, 256, (4500, 3, 32, 32), dtype=np.uint8)
    folder = tmp_path / "release"
    folder.mkdir()
    ends = {"train_data_batch_1": (0, 833), "train_data_batch_2": (833, 1666), "train_data_batch_3": (1666, 2500),
            "val_data": (2500, 4500)}
    for name, (a, b) in ends.items():
        write(folder / name, {"data": images[a:b].reshape(b - a, -1), "labels": (labels[a:b] + 1).tolist(),
                              "mean": np.zeros(3072)},
              "protocol 2")
    return folder, images, labels


def prepare(folder, root, side=32):
    said = []
    imagenet127.prepare(folder, side, root, said.append)
    return said


def test_batches_become_arrays_and_a_source(official, tmp_path):
    folder, images, labels = official
    said = prepare(folder, tmp_path / "data")
    assert len(said) == 4 and said[1].startswith("[2/4] train_data_batch_2: 833 images, 37% done")
    source = sources.load("imagenet127", str(tmp_path / "data"))
    assert np.array_equal(source.images.numpy(), images[:2500])
    assert np.array_equal(source.test_images.numpy(), images[2500:])
    to_127 = imagenet127.merged()[labels]
    assert source.labels.tolist() == to_127[:2500].tolist() and source.test_labels.tolist() == to_127[2500:].tolist()
    assert source.flip and len(source.class_names) == 127 and source.labels.dtype == torch.int64
    in_subset = torch.bincount(source.test_labels[source.test_subset])
    assert in_subset.tolist() == [min(50, n) for n in np.bincount(to_127[2500:])]
    kept = tmp_path / "data" / "imagenet127-32"
    assert {p.name for p in kept.iterdir()} == {"train_images.npy", "labels.npy", "test_images.npy", "test_labels.npy",
                                                "done.json"}
    assert json.loads((kept / "done.json").read_text())["counts"]["test"] == np.bincount(to_127[2500:]).tolist()
    assert source.origin.startswith("official down-sampled batches, 32 px, sha256 ")
    assert prepare(folder / "gone", tmp_path / "data") == ["imagenet127-32 is complete"]


def test_a_killed_preparation_goes_on_behind_the_parts_that_are_written(official, tmp_path, monkeypatch):
    folder, images, _ = official
    read, root = imagenet127.read_batch, tmp_path / "data"
    calls = []

    def dying(path, side):
        calls.append(path.name)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return read(path, side)
    monkeypatch.setattr(imagenet127, "read_batch", dying)
    with pytest.raises(KeyboardInterrupt):
        prepare(folder, root)
    wanted = "semilib prepare imagenet127 FROM --side 32 --root .*it was begun, and the same command goes on"
    with pytest.raises(BadInput, match=wanted):
        sources.load("imagenet127", root)
    assert prepare(folder, root)[0] == "2 of 4 parts are there already"
    assert calls[3:] == ["train_data_batch_3", "val_data"]
    assert np.array_equal(sources.load("imagenet127", root).images.numpy(), images[:2500])


def test_a_file_that_has_changed_since_is_read_again_with_all_behind_it(official, tmp_path):
    folder, images, _ = official
    root, second, last = tmp_path / "data", folder / "train_data_batch_2", folder / "val_data"
    good = [path.read_bytes() for path in (second, last)]
    second.write_bytes(pickle.dumps({**pickle.loads(good[0]), "labels": [1] * 833}))
    last.write_bytes(good[1][:-20])
    with pytest.raises(BadInput, match="val_data.*cut short"):
        prepare(folder, root)
    for path, content in zip((second, last), good):
        path.write_bytes(content)
    assert prepare(folder, root)[0] == "1 of 4 parts are there already"
    assert np.array_equal(sources.load("imagenet127", root).images.numpy(), images[:2500])


@pytest.mark.parametrize("harm, words", [
    ("missing", "all of the down-sampled ImageNet; missing: train_data_batch_2, val_data"),
    ("duplicated", "different files; train_data_batch_3 holds the same images as train_data_batch_1"),
    ("too many", "all 2,500 train images of ImageNet and no more; with train_data_batch_3 it has 2,501"),
    ("too few", "all 2,500 train images of ImageNet; it has 2,499"),
    ("another class", "2 to 3 train images a class, as ImageNet has; it has"),
    ("uneven test", "2 test images a class, as ImageNet has; it has"),
    ("another order", "the class order of the release"),
])
def test_a_set_that_is_not_whole_is_refused_and_not_taken_for_prepared(official, tmp_path, harm, words):
    folder, third = official[0], official[0] / "train_data_batch_3"
    content, test = pickle.loads(third.read_bytes()), pickle.loads((folder / "val_data").read_bytes())
    if harm == "missing":
        (folder / "train_data_batch_2").unlink()
        (folder / "val_data").unlink()
    elif harm == "duplicated":
        third.write_bytes((folder / "train_data_batch_1").read_bytes())
    elif harm == "too many":
        write(third, {"data": np.concatenate([content["data"], content["data"][:1]]),
                      "labels": [*content["labels"], 1]})
    elif harm == "too few":
        write(third, {"data": content["data"][1:], "labels": content["labels"][1:]})
    elif harm == "another class":
        write(third, {**content, "labels": [7] * 5 + content["labels"][5:]})
    elif harm == "uneven test":
        write(folder / "val_data", {**test, "labels": [7] + test["labels"][1:]})
    else:
        lines = [f"{wnid} {i} x\n" for i, wnid in enumerate(sorted(imagenet127.wnids()), 1)]
        (folder / "map_clsloc.txt").write_text("".join(lines))
    with pytest.raises(BadInput, match=words) as error:
        prepare(folder, tmp_path / "data")
    assert error.value.field == "from"
    assert not (tmp_path / "data" / "imagenet127-32" / "done.json").exists()
    with pytest.raises(BadInput, match="made by `semilib prepare imagenet127"):
        sources.load("imagenet127", tmp_path / "data")


def test_what_is_refused_before_any_work(official, tmp_path, monkeypatch):
    folder, root = official[0], tmp_path / "data"
    for given, side, words in ((folder, 16, "side=16: 32 or 64"),
                               (tmp_path / "nowhere", 32, "a folder with train_data_batch_1")):
        with pytest.raises(BadInput, match=words):
            prepare(given, root, side)
    with pytest.raises(BadInput, match="images of 64 x 64 for side=64; these have 32 x 32"):
        prepare(folder, root, 64)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 4500 * 3072})())
    with pytest.raises(BadInput, match="a disk with 0.01 GB free for imagenet127-32/; it has 0.01 GB"):
        prepare(folder, root)
    assert not list((root / "imagenet127-32").iterdir())


def test_prepared_arrays_that_were_damaged_are_refused(official, tmp_path):
    prepare(official[0], tmp_path)
    path = tmp_path / "imagenet127-32" / "train_images.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BadInput,
                       match="intact arrays in imagenet127-32/; delete imagenet127-32/ and type `semilib prepare"):
        sources.load("imagenet127", tmp_path)


# ---- an ImageNet folder ----------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An ImageNet of 1,500 + 1,000 pictures of 40 x 50 in folders; the pixels of each tell its class and number."""
    monkeypatch.setattr(imagenet127, "WHOLE",
                        imagenet127.Whole(train=1500, test=1000, smallest=1, largest=2, test_each=1))
    monkeypatch.setattr(imagenet127, "CHUNK", 700)
    number = 0
    for k, wnid in enumerate(imagenet127.wnids()):
        files = {"train": [f"{wnid}_{i}.JPEG" for i in range(1 + k % 2)],
                 "val": [f"ILSVRC2012_val_{(k * 7) % 1000:08d}.JPEG"]}
        for split, names in files.items():
            (tmp_path / "imagenet" / split / wnid).mkdir(parents=True)
            for i, name in enumerate(names):
                pixels = np.full((40, 50, 3), (k % 256, k // 256, 100 * (split == "val") + i), np.uint8)
                Image.fromarray(pixels).save(tmp_path / "imagenet" / split / wnid / name, "PNG")
                number += 1
    assert number == 2500
    return tmp_path / "imagenet"


def test_a_folder_is_laid_out_in_a_drawn_order_and_its_test_images_by_file_name(folder, tmp_path):
    said = prepare(folder, tmp_path)
    assert [line.split(":")[0] for line in said] == ["[1/5] train 0 to 699", "[2/5] train 700 to 1,399",
                                                     "[3/5] train 1,400 to 1,499",
                                                     "[4/5] test 0 to 699", "[5/5] test 700 to 999"]
    source = sources.load("imagenet127", tmp_path)
    k, test_k = (256 * x[:, 1, 0, 0].long() + x[:, 0, 0, 0].long() for x in (source.images, source.test_images))
    assert torch.bincount(k).tolist() == [1 + i % 2 for i in range(1000)]
    assert source.labels.tolist() == imagenet127.merged()[k.numpy()].tolist()
    assert (k[1:] < k[:-1]).double().mean() > 0.4                                # not class by class
    assert test_k.tolist() == sorted(range(1000), key=lambda c: c * 7 % 1000)
    assert source.origin.startswith("an ImageNet folder by the box filter")


def test_a_picture_is_shrunk_whole_by_the_box_filter(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels[:, :, 0]).save(tmp_path / "grey.png")
    images, labels = imagenet127._read_pictures([(tmp_path / "a.png", 5), (tmp_path / "grey.png", 9)], 32, tmp_path)
    mean = pixels.reshape(32, 2, 32, 3, 3).astype(float).mean((1, 3)).transpose(2, 0, 1)
    assert np.abs(images[0] - mean).max() <= 1 and np.abs(images[1] - mean[0]).max() <= 1 and labels.tolist() == [5, 9]


def test_bad_folders_are_refused(folder, tmp_path):
    first, second = (folder / "train" / w for w in imagenet127.wnids()[:2])
    picture = next(second.iterdir())
    good = picture.read_bytes()
    picture.write_bytes(good[:60])
    (folder / "train" / imagenet127.wnids()[3] / f"{imagenet127.wnids()[3]}_0.JPEG").write_bytes(b"")
    with pytest.raises(BadInput, match="[12] of its files cannot be read as pictures: train/n0"):
        prepare(folder, tmp_path)
    picture.unlink()
    with pytest.raises(BadInput, match="all 1,500 train images of ImageNet; it has 1,499"):
        prepare(folder, tmp_path)
    (folder / "train" / "n99999999").mkdir()
    next(first.iterdir()).unlink()
    first.rmdir()
    with pytest.raises(BadInput, match="missing: n02119789; unknown: n99999999"):
        prepare(folder, tmp_path)


# ---- runs ------------------------------------------------------------------------------------------------------------


def test_a_run_records_the_three_metrics_each_under_its_name(official, tmp_path, capsys):
    cli.main(["prepare", "imagenet127", str(official[0]), "--root", str(tmp_path / "data")])
    assert "imagenet127: 2,500 training and 2,000 test images in 127 classes" in capsys.readouterr().out
    run = Run.of("imagenet127", "fixmatch", profile="smoke", root=str(tmp_path / "data"), labelled_share=0.4,
                 options={"threshold": 0.012}, eval_every=12)
    found = record.read(train(run, tmp_path / "runs"))
    assert found["status"] == "done" and found["name"] == "imagenet127-32.l0.4.s0/fixmatch"
    measured = found["result"]["metrics"]
    assert set(measured) == {"accuracy", "balanced_accuracy", "accuracy_50"}
    assert all(0 <= m["mean_last"] <= 1 for m in measured.values())
    assert found["split"]["unlabelled_counts"] == np.bincount(imagenet127.merged()[official[2][:2500]]).tolist()
    assert found["split"]["labelled_counts"] == [int(np.around(0.4 * n)) for n in found["split"]["unlabelled_counts"]]
    assert found["split"]["data"].startswith("official")
    log = record.read_log(record.folder(run, tmp_path / "runs"))
    assert len(log) == 2 and sum(map(sum, log[-1]["confusion"])) == 2000 and "accuracy_50" in log[-1]


def test_large_images_train_on_a_cpu():
    """Training with the shortcuts that are computed another way on CPUs (see `backbones.Shortcut`)."""
    images, labels = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8), torch.arange(40) % 4
    source = sources.Source("x", images, labels, images[:8], labels[:8], list("abcd"), (0.5,) * 3, (0.2,) * 3,
                            flip=True)
    run = Run.of("imagenet127", "fixmatch", profile="smoke", side=64, labelled_share=0.5, batch=8, device="cpu")
    trainer = Trainer(run, source)
    weights = [p for p in trainer.net.backbone.parameters() if p.ndim == 4 and min(p.shape[1:]) > 1]
    assert weights and all(p.is_contiguous(memory_format=torch.channels_last) for p in weights)
    for _ in range(6):
        trainer.advance()
    assert trainer.step == 6


PAPER = [("stl10", {}), ("svhn", {}), ("imagenet127", {}), ("imagenet127", {"side": 64}),
         ("stl10", {"n1": 450, "gamma_l": 20.0})]


@pytest.mark.parametrize("dataset, given", PAPER)
def test_every_method_makes_a_run_of_each_set(dataset, given):
    for method in METHODS:
        recipes = ["shared"] if method == "debiaspl" else ["shared", "original"]      # DebiasPL has released none
        for recipe in recipes:
            run = Run.of(dataset, method, recipe=recipe, **given)
            assert Run(**{f: getattr(run, f) for f in run.__dataclass_fields__}) == run and run.profile == "paper"
            if dataset == "imagenet127":
                assert run.network == "resnet50", (method, recipe)


def test_the_cells_are_those_of_the_field():
    stl, svhn, net = (Run.of(name, "fixmatch") for name in ("stl10", "svhn", "imagenet127"))
    assert (stl.n1, stl.m1, stl.gamma_l, stl.labelled_in_unlabelled, stl.network) == (150, 0, 10.0, False, "wrn-28-2")
    assert Run.of("stl10", n1=450, gamma_l=20.0).cell == "stl10-lt.n450.m100k.g20.disjoint"
    assert Run.of("stl10", labelled_in_unlabelled=True).cell == "stl10-lt.n150.m100k.g10"
    assert svhn.cell == "svhn-lt.n1500.m3000.g100-100" and Run.of("svhn", gamma_l=50.0, order="reversed").gamma_u == 50
    assert (net.labelled_share, net.n1, net.m1, net.network, net.bn_momentum) == (0.1, None, None, "resnet50", 0.1)
    assert (net.batch, net.mu, net.steps, net.labelled_in_unlabelled) == (64, 1, 250_000, True)
    assert net.cell == "imagenet127-32.l0.1"
    assert Run.of("imagenet127", side=64, split_seed=3).cell == "imagenet127-64.l0.1.split3"
    assert Run.of("imagenet127", network="wrn-28-2").network == "wrn-28-2"
    assert Run.of("imagenet127", profile="smoke").network == "wrn-10-0.25"
    assert len({net.key, net.with_(labelled_share=0.2).key, net.with_(side=64).key}) == 3


@pytest.mark.parametrize("dataset, given, words", [
    ("stl10", {"m1": 3000}, "m1=3000: 0 for stl10: its 100,000 unlabelled images are taken as they are"),
    ("stl10", {"m1": None}, "m1=None: 0"), ("stl10", {"gamma_u": 10.0}, "gamma_u=10.0: 1.0 for stl10"),
    ("stl10", {"order": "reversed"}, "order='reversed': 'consistent' for stl10"),
    ("stl10", {"side": 96}, "side=96: 32 for stl10"),
    ("stl10", {"labelled_share": 0.1}, "labelled_share=0.1: None for stl10"),
    ("svhn", {"side": 64}, "side=64: 32 for svhn"), ("svhn", {"extra": True}, "parameter='extra': unknown"),
    ("imagenet127", {"n1": 100}, "n1=100: None for imagenet127: it is imbalanced by nature"),
    ("imagenet127", {"gamma_l": 10.0}, "gamma_l=10.0: 1.0 for"),
    ("imagenet127", {"gamma_u": 10.0}, "gamma_u=10.0: 1.0 for"),
    ("imagenet127", {"m1": 5}, "m1=5: None for"),
    ("imagenet127", {"order": "uniform"}, "order='uniform': 'consistent' for"),
    ("imagenet127", {"side": 48}, "side=48: 32 or 64"),
    ("imagenet127", {"labelled_share": None}, "labelled_share=None: above 0"),
    ("imagenet127", {"labelled_share": 0.0}, "labelled_share=0.0: above 0"),
    ("imagenet127", {"labelled_share": 1.2}, "at most 1"),
    ("mnistm5k", {"labelled_share": 0.1}, "labelled_share=0.1: None where n1=40 and gamma_l=20"),
])
def test_fields_that_do_not_apply_are_refused_with_the_reason(dataset, given, words):
    with pytest.raises(BadInput) as error:
        Run.of(dataset, "fixmatch", **given)
    assert words in str(error.value)


def test_runs_without_a_share_keep_the_keys_that_they_had():
    kept = [record.read(path.parent) for path in (ROOT / "results").rglob("*fixmatch*/run.json")]
    kept = [one for one in kept if "policy" in one["config"]]             # made when a run had every field but this one
    assert kept and all(Run(**one["config"]).key == one["key"] for one in kept)
    run = Run.of("imagefolder", "fixmatch", labelled_share=0.5, root="photos", encoder="none")
    assert run.cell == "imagefolder-photos.l0.5.mrest.g1-1"
    assert set(FIXED) <= set(CELLS)
