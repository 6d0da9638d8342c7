"""The views against Pillow, numpy and torchvision, one image at a time, and the properties that training relies on."""
from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageEnhance, ImageFilter, ImageOps
from torch.utils._python_dispatch import TorchDispatchMode
from torchvision.transforms import ColorJitter, RandomResizedCrop, functional

from semilib.data import augment, rng
from semilib.data.augment import OPS, POOLS
from semilib.errors import BadInput

SIDE = 32
SIGNED = {"Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY"}
BLENDED = {"Brightness", "Color", "Contrast", "Sharpness"}
LEVELS = range(1, 10)
MEAN = (0.4914, 0.4822, 0.4465)                # of CIFAR-10: (125, 123, 114) in whole levels
# Pool C's values as methods-a 2.4 has them, in its own order.
FIXED = {"AutoContrast": 0, "Equalize": 0, "Invert": 0, "Rotate": 4, "Posterize": 4 * 4 / 30, "Solarize": 256 * 4 / 30,
         "SolarizeAdd": 110 * 4 / 30, "Color": 0.34, "Contrast": 0.34, "Brightness": 0.34, "Sharpness": 0.34,
         "ShearX": 0.04, "ShearY": 0.04, "CutoutAbs": 40 * 4 / 30, "TranslateX": 100 * 4 / 30,
         "TranslateY": 100 * 4 / 30}


# ---- images and slow references --------------------------------------------------------------------------------------

def photographs() -> list[np.ndarray]:
    """Crops of two photographs, at full resolution (smooth) and reduced (rich in edges), uint8 [32, 32, 3]."""
    from sklearn.datasets import load_sample_images

    out = []
    for picture in load_sample_images().images:
        out += [picture[top:top + SIDE, left:left + SIDE] for top, left in ((100, 100), (200, 300), (350, 500))]
        small = np.asarray(Image.fromarray(picture).resize((SIDE * 2, SIDE), Image.BILINEAR))
        out += [small[:, :SIDE], small[:, SIDE:]]
    return out


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Noise, photographs and degenerate images, uint8 [N, 3, 32, 32]."""
    generator = np.random.default_rng(0)
    noise = [generator.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8) for _ in range(3)]
    ramp = np.add.outer(np.arange(SIDE), np.arange(SIDE))[..., None] * np.array([1, 2, 4])
    two = generator.integers(0, 2, (SIDE, SIDE, 3))
    sparse = np.full((SIDE, SIDE, 3), 200)
    sparse[:6, :6] = 20                                      # 36 pixels below the maximum: Equalize must leave it alone
    crowded = np.full((SIDE, SIDE, 3), 5)
    crowded[:18, :25] = np.arange(450).reshape(18, 25, 1) % 5  # 450 pixels below it, step 1: the table passes 255
    constant = [np.full((SIDE, SIDE, 3), v) for v in (0, 77, 255)]
    made = [*constant, two * 255, 100 + two, 30 + two * 90, ramp, 90 + ramp // 8, sparse, crowded]
    stack = noise + photographs() + [m.astype(np.uint8) for m in made]
    return torch.from_numpy(np.stack(stack)).permute(0, 3, 1, 2).contiguous()


def to_pillow(image: torch.Tensor) -> Image.Image:
    return Image.fromarray(image.permute(1, 2, 0).numpy())


def from_pillow(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)


def pillow_op(name: str, image: Image.Image, value: float) -> Image.Image:
    """One operation as the published code performs it, on one Pillow image."""
    def affine(*matrix):
        return image.transform(image.size, Image.AFFINE, matrix)

    if name in BLENDED:
        return getattr(ImageEnhance, name)(image).enhance(value)
    def added() -> Image.Image:
        return Image.fromarray(np.clip(np.asarray(image).astype(float) + value, 0, 255).astype(np.uint8))

    def posterized() -> Image.Image:            # 0 bits: black in the Pillow of the releases, refused by later ones
        return ImageOps.posterize(image, int(value)) if value >= 1 else Image.new("RGB", image.size)

    return {"AutoContrast": lambda: ImageOps.autocontrast(image), "Equalize": lambda: ImageOps.equalize(image),
            "Identity": lambda: image, "Posterize": posterized, "Invert": lambda: ImageOps.invert(image),
            "SolarizeAdd": lambda: ImageOps.solarize(added(), 128), "CutoutAbs": lambda: image,
            "Rotate": lambda: image.rotate(value), "Solarize": lambda: ImageOps.solarize(image, value),
            "ShearX": lambda: affine(1, value, 0, 0, 1, 0), "ShearY": lambda: affine(1, 0, 0, value, 1, 0),
            "TranslateX": lambda: affine(1, 0, value, 0, 1, 0),
            "TranslateY": lambda: affine(1, 0, 0, 0, 1, value)}[name]()


def level_value(name: str, level: int, minus: bool, size: int = SIDE) -> float:
    """Pool A's value of a level by the rules fl(m) = v m / 10, it(m) = int(v m / 10)."""
    sign = -1 if minus and name in SIGNED else 1
    if name in BLENDED:
        return float(level) * 0.9 / 10 + 0.05
    if name.startswith("Shear"):
        return sign * (float(level) * 0.3 / 10)
    if name.startswith("Translate"):
        return int(sign * (float(level) * 0.3 / 10) * size)
    return {"Posterize": int(level * 4 / 10) + 4, "Rotate": sign * int(level * 30 / 10),
            "Solarize": 256 - int(level * 256 / 10)}.get(name, 0)


def apply_one(images: torch.Tensor, name: str, value: float) -> torch.Tensor:
    n = len(images)
    return augment.apply_ops(images, torch.full((n,), OPS.index(name)), torch.full((n,), value, dtype=torch.float64))


def check_against_pillow(images: torch.Tensor, name: str, values: list[float]) -> None:
    """Every image at every value, in one batch: equal to Pillow in every byte."""
    pictures = [to_pillow(image) for image in images]
    value = torch.tensor(values, dtype=torch.float64).repeat_interleave(len(images))
    got = augment.apply_ops(images.repeat(len(values), 1, 1, 1), torch.full(value.shape, OPS.index(name)), value)
    assert got.dtype == torch.uint8
    for value, batch in zip(values, got.split(len(images))):
        want = torch.stack([from_pillow(pillow_op(name, picture, value)) for picture in pictures])
        assert torch.equal(batch, want), f"{name} {value}: {(batch != want).sum()} of {want.numel()} bytes differ"


def pillow_cutout(image: Image.Image, cx: float, cy: float, side: float, colour: tuple) -> Image.Image:
    if side <= 0:
        return image
    width, height = image.size
    x0, y0 = int(max(0, cx - side / 2.0)), int(max(0, cy - side / 2.0))
    image = image.copy()
    ImageDraw.Draw(image).rectangle((x0, y0, int(min(width, x0 + side)), int(min(height, y0 + side))), colour)
    return image


def slow_weak(image: torch.Tensor, w: list[int], flip: bool, crop: str = "reflect") -> torch.Tensor:
    """One weak view with numpy: flip, padding, crop. w: three 32-bit words."""
    height, width = image.shape[1:]
    py, px = height // 8, width // 8
    array = image.numpy()
    if flip and w[0] >= 2 ** 31:
        array = array[:, :, ::-1]
    padded = np.pad(array, ((0, 0), (py, py), (px, px)), mode={"reflect": "reflect", "zero": "constant"}[crop])
    top, left = w[1] * (2 * py + 1) >> 32, w[2] * (2 * px + 1) >> 32
    return torch.from_numpy(padded[:, top:top + height, left:left + width].copy())


def slow_strong(image: torch.Tensor, w: list[int], flip: bool, pool: str, crop: str = "reflect") -> torch.Tensor:
    """One strong view with Pillow, from the same words as the batch gets."""
    if pool == "C":
        return slow_strong_c(image, w, flip, crop)
    ranges = {"Posterize": (4, 8), "Rotate": (-30, 30), "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3),
              "Solarize": (0, 256), "TranslateX": (-0.3 * SIDE, 0.3 * SIDE), "TranslateY": (-0.3 * SIDE, 0.3 * SIDE)}
    ranges |= dict.fromkeys(BLENDED, (0.05, 0.95))
    picture = to_pillow(slow_weak(image, w[:3], flip, crop))
    for slot in range(2 if pool == "A" else 3):
        a, b, c, d = w[3 + 4 * slot:7 + 4 * slot]
        name = OPS[a * 14 >> 32]
        if pool == "B":
            low, high = ranges.get(name, (0, 0))
            picture = pillow_op(name, picture, low + (b >> 8) / 2 ** 24 * (high - low))
        elif d >= 2 ** 31:
            picture = pillow_op(name, picture, level_value(name, (b * 9 >> 32) + 1, c >= 2 ** 31))
    u = [(v >> 8) / 2 ** 24 for v in w[-3:]]
    side, colour = (16, (127, 127, 127)) if pool == "A" else (u[2] * 0.5 * SIDE, (125, 123, 114))
    return from_pillow(pillow_cutout(picture, u[0] * SIDE, u[1] * SIDE, side, colour))


def slow_strong_c(image: torch.Tensor, w: list[int], flip: bool, crop: str) -> torch.Tensor:
    """Pool C's strong view with Pillow and numpy:
    operations, then the weak view, then a square that is the mean colour."""
    picture = to_pillow(image)
    for a, b, c, d in (w[3 + 4 * slot:7 + 4 * slot] for slot in range(3)):
        name = POOLS["C"][a * 16 >> 32]
        if name == "CutoutAbs":
            picture = pillow_cutout(picture, (b >> 8) / 2 ** 24 * SIDE, (d >> 8) / 2 ** 24 * SIDE, FIXED[name],
                                    (125, 123, 114))
        picture = pillow_op(name, picture, FIXED[name] * (-1 if name in SIGNED and c >= 2 ** 31 else 1))
    out = slow_weak(from_pillow(picture), w[:3], flip, crop).clone()
    column, row = w[-3] * SIDE >> 32, w[-2] * SIDE >> 32
    place = (slice(max(0, row - 8), row + 8), slice(max(0, column - 8), column + 8))
    for channel, level in zip(out, (125, 123, 114)):
        channel[place] = level
    return out


# ---- operations ------------------------------------------------------------------------------------------------------

def test_the_pools_hold_the_published_operations():
    assert set(POOLS["C"]) == set(FIXED) and len(POOLS["C"]) == len(FIXED) == 16
    assert POOLS["A"] == POOLS["B"] and len(POOLS["A"]) == 14
    assert set(POOLS["A"]) == set(FIXED) - {"Invert", "SolarizeAdd", "CutoutAbs"} | {"Identity"}


@pytest.mark.parametrize("name", FIXED)
def test_every_value_of_pool_c_equals_pillow(images, name):
    check_against_pillow(images, name, [FIXED[name], -FIXED[name]] if name in SIGNED else [FIXED[name]])


def test_no_bits_are_a_black_image_and_an_inverted_one_is_white(images):
    black = apply_one(images, "Posterize", 4 * 4 / 30)
    assert not black.any() and (apply_one(black, "Invert", 0) == 255).all()
    with pytest.raises(ValueError):                              # so nobody can make pool C's views with today's Pillow
        ImageOps.posterize(to_pillow(images[0]), 0)


@pytest.mark.parametrize("name,values",
                         [("Solarize", [0.0, 0.5, 1.0, 255.0, 255.5]), ("SolarizeAdd", [0.0, 0.9, 1.0, 40.2, 110.0])])
def test_thresholds_and_additions_at_their_edges_equal_pillow(images, name, values):
    check_against_pillow(images, name, values)


@pytest.mark.parametrize("name", POOLS["A"])
def test_every_level_of_pool_a_equals_pillow(images, name):
    values = {level_value(name, level, minus) for level in LEVELS for minus in (False, True)}
    check_against_pillow(images, name, sorted(values))


CONTINUOUS = {**dict.fromkeys(sorted(BLENDED), (0.0, 1.0)), "Posterize": (4, 8), "Rotate": (-30, 30),
              "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3), "Solarize": (0, 256), "TranslateX": (-9.6, 9.6),
              "TranslateY": (-9.6, 9.6)}


@pytest.mark.parametrize("name", CONTINUOUS)
def test_continuous_values_equal_pillow(images, name):
    low, high = CONTINUOUS[name]
    values = np.random.default_rng(len(name)).uniform(low, high, 15).tolist() + [low, (low + high) / 2, high]
    check_against_pillow(images[::3], name, values)


def test_wide_rotations_equal_pillow(images):
    check_against_pillow(images[:8], "Rotate", [-89.0, -45.0, 45.0, 60.5, 89.0])


@pytest.mark.parametrize("name", OPS)
def test_other_sides_equal_pillow(images, name):
    tall = torch.cat([images[:-1], images[1:]], dim=2)[:, :, :50, :27].contiguous()           # 50 x 27, odd and unequal
    check_against_pillow(tall[::2], name, [level_value(name, 7, True), FIXED.get(name, 0)])


def test_cosine_and_sine():
    angle = torch.linspace(-np.pi / 2, np.pi / 2, 1001, dtype=torch.float64)
    cos, sin = augment._cos_sin(angle)
    torch.testing.assert_close(cos, angle.cos(), rtol=0, atol=4e-16)
    torch.testing.assert_close(sin, angle.sin(), rtol=0, atol=4e-16)
    assert augment._cos_sin(torch.zeros(1, dtype=torch.float64)) == (1, 0)                        # no rotation is exact


def test_operations_mix_in_one_batch(images):
    """The families must not disturb each other: one batch with all 17 operations equals 17 batches with one each."""
    batch = images[:17]
    value = torch.tensor([FIXED.get(name) or level_value(name, 5, False) for name in OPS], dtype=torch.float64)
    got = augment.apply_ops(batch, torch.arange(17), value)
    for i, name in enumerate(OPS):
        assert torch.equal(got[i], apply_one(batch, name, value[i].item())[i]), name


def test_single_precision_values_are_accepted(images):
    op = torch.full((len(images),), OPS.index("Rotate"))
    assert torch.equal(augment.apply_ops(images, op, torch.full(op.shape, 12.0)), apply_one(images, "Rotate", 12.0))


# ---- cut-out ---------------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("side,colour",
                         [(16.0, (127, 127, 127)), (11.3, (125, 123, 114)), (0.7, (1, 2, 3)), (0.0, (1, 2, 3))])
def test_cutout_equals_the_drawn_rectangle(images, side, colour):
    """Corners, borders and interior, at whole and broken coordinates."""
    spots = [0.0, 3.4, 7.99, 8.0, 12.5, 16.0, 20.0, 23.9, 24.0, 24.01, 28.0, 31.99]
    centres = torch.tensor([(cx, cy) for cx in spots for cy in spots], dtype=torch.float64)
    image = images[5]
    got = augment.cutout(image.expand(len(centres), -1, -1, -1), centres[:, 0], centres[:, 1],
                         torch.full((len(centres),), side, dtype=torch.float64), colour)
    for out, (cx, cy) in zip(got, centres.tolist()):
        assert torch.equal(out, from_pillow(pillow_cutout(to_pillow(image), cx, cy, side, colour))), (cx, cy)


@pytest.mark.parametrize("cx,cy,pixels", [(16, 16, 289), (0, 0, 289), (4, 16, 289), (31, 16, 9 * 17), (16, 31, 9 * 17),
                                          (31, 31, 81), (24, 24, 256)])
def test_cutout_area(cx, cy, pixels):
    """17 x 17 inside and at the top and left border; only the bottom and right border clip."""
    x = torch.zeros(1, 3, SIDE, SIDE, dtype=torch.uint8)
    out = augment.cutout(x, torch.tensor([float(cx)]), torch.tensor([float(cy)]), torch.tensor([16.0]), (127, 127, 127))
    assert (out == 127).sum() == 3 * pixels and (out == 0).sum() == 3 * (SIDE * SIDE - pixels)


@pytest.mark.parametrize("shape", [(32, 32), (24, 41)])
def test_the_square_cutout_is_clipped_at_every_border(shape):
    """Each word selects its pixel; 16 x 16 around it, less what lies outside, in the colour given."""
    height, width = shape
    spots = [(c, r) for c in (0, 3, 8, 15, width - 9, width - 8, width - 1) for r in (0, 7, 8, height - 8, height - 1)]
    w = torch.tensor([(-(-c * 2 ** 32 // width), -(-r * 2 ** 32 // height)) for c, r in spots])
    got = augment.square_cutout(torch.zeros(len(spots), 3, *shape, dtype=torch.uint8), w, 16, (9, 8, 7))
    for out, (column, row) in zip(got, spots):
        want = torch.zeros(*shape, dtype=torch.uint8)
        want[max(0, row - 8):row + 8, max(0, column - 8):column + 8] = 1
        assert torch.equal(out, torch.stack([want * 9, want * 8, want * 7])), (column, row)


# ---- whole views -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("crop", augment.CROPS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 41)])
def test_weak_equals_padding_and_cropping(flip, shape, crop):
    x = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (40, 3, *shape), dtype=np.uint8))
    w = rng.words(3, "weak_u", 17, 40, 3).tolist()
    want = torch.stack([slow_weak(image, words, flip, crop) for image, words in zip(x, w)])
    assert torch.equal(augment.weak(x, 3, "weak_u", 17, flip, crop), want)


@pytest.mark.parametrize("crop", augment.CROPS)
def test_every_crop_and_flip_is_one_of_torchvisions(crop):
    """All 2 x 9 x 9 views of one image, padded, cropped and mirrored by torchvision: each is drawn, and none other."""
    image = torch.from_numpy(np.random.default_rng(2).integers(1, 256, (3, SIDE, SIDE), dtype=np.uint8))
    padded = functional.pad(image, [4], padding_mode={"reflect": "reflect", "zero": "constant"}[crop])
    crops = [functional.crop(padded, top, left, SIDE, SIDE) for top in range(9) for left in range(9)]
    want = {out.numpy().tobytes() for out in [*crops, *map(functional.hflip, crops)]}
    views = augment.weak(image.expand(4000, -1, -1, -1), 0, "weak", 0, True, crop)
    assert {view.numpy().tobytes() for view in views} == want and len(want) == 162
    assert (views == 0).any() == (crop == "zero")


@pytest.mark.parametrize("crop", augment.CROPS)
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("pool", POOLS)
def test_strong_equals_the_whole_chain_in_pillow(images, pool, flip, crop):
    batch = images.repeat(6, 1, 1, 1)
    n_words = 14 if pool == "A" else 18
    w = rng.words(5, "strong_u", 2, len(batch), n_words).tolist()
    got = augment.strong(batch, 5, "strong_u", 2, flip, pool, crop, MEAN)
    want = torch.stack([slow_strong(image, words, flip, pool, crop) for image, words in zip(batch, w)])
    differing = (got != want).flatten(1).any(1)
    assert not differing.any(), f"{differing.sum()} of {len(batch)} views differ"


def test_strong_rejects_what_it_does_not_know(images):
    with pytest.raises(BadInput, match="pool"):
        augment.strong(images, 0, "s", 0, True, "D")
    with pytest.raises(BadInput, match="crop"):
        augment.strong(images, 0, "s", 0, True, "A", "mirror")
    with pytest.raises(BadInput, match="crop"):
        augment.weak(images, 0, "s", 0, True, "mirror")
    with pytest.raises(BadInput, match="mean=None: the data set's mean colour"):
        augment.strong(images, 0, "s", 0, True, "C")


def test_the_mean_colour_is_nothing_to_the_network():
    """Pool C's square is 0 in normalised space but for the rounding to whole levels, half a level at most."""
    x = torch.full((4, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    out = augment.strong(x, 0, "s", 0, True, "C", "zero", MEAN)
    w = rng.words(0, "s", 0, 4, 18)[:, -3:-1]
    place = (augment.square_cutout(torch.zeros_like(x), w, 16, (1, 1, 1)) == 1)
    std = (0.2471, 0.2435, 0.2616)
    assert place.any() and augment.normalise(out, MEAN, std)[place].abs().max() <= 0.5 / 255 / min(std)


def positions(seed: int, flip: bool, count: int = 30000) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per view (mirrored, row offset, column offset), read off weak views of an image whose pixels tell their place."""
    place = torch.arange(16, dtype=torch.uint8)
    image = torch.stack([place.view(16, 1).expand(16, 16), place.expand(16, 16),
                         torch.zeros(16, 16, dtype=torch.uint8)])
    views = augment.weak(image.expand(count, -1, -1, -1), seed, "weak", 0, flip).long()       # padding 2, offsets -2..2
    mirrored = views[:, 1, 8, 8] < views[:, 1, 8, 7]
    column = torch.where(mirrored, 15 - views[:, 1, 8, 8], views[:, 1, 8, 8])
    return mirrored, views[:, 0, 8, 8] - 8, column - 8


def assert_uniform(draws: torch.Tensor, values: range) -> None:
    """Every value occurs, none other, each within five standard deviations of its expected count."""
    share = 1 / len(values)
    bound = 5 * (len(draws) * share * (1 - share)) ** 0.5
    assert draws.min() == values[0] and draws.max() == values[-1]
    for v in values:
        assert abs((draws == v).sum().item() - len(draws) * share) < bound, v


def test_weak_statistics():
    mirrored, row, column = positions(0, True)
    assert_uniform(mirrored.long(), range(2))
    assert_uniform(row, range(-2, 3))
    assert_uniform(column, range(-2, 3))
    assert_uniform((row + 2) * 5 + column + 2, range(25))                                      # the two are independent
    assert not positions(0, False)[0].any()


def test_crop_offsets_at_32():
    x = torch.arange(SIDE, dtype=torch.uint8).view(1, 1, SIDE, 1).expand(20000, 3, SIDE, SIDE)
    assert_uniform(augment.weak(x, 1, "weak", 0, True)[:, 0, 16, 0].long() - 16, range(-4, 5))


def test_draws_of_pool_a():
    op, value = augment.draw_ops(rng.words(0, "s", 0, 60000, 4), "A", SIDE, SIDE)
    identity = OPS.index("Identity")
    assert abs((op == identity).double().mean() - (0.5 + 0.5 / 14)) < 0.01                           # skipped, or drawn
    applied = op[op != identity]
    assert_uniform(applied - (applied > identity).long(), range(13))
    rotation = value[op == OPS.index("Rotate")]
    assert_uniform((rotation.abs() / 3).long(), LEVELS)
    assert_uniform((rotation > 0).long(), range(2))
    assert_uniform(((value[op == OPS.index("Color")] - 0.05) / 0.09).round().long(), LEVELS)


def test_slots_draw_independently():
    """Operation pairs of pool A over the two slots: all 13 x 13 applied pairs alike."""
    slots = rng.words(0, "s", 0, 60000, 8).split(4, dim=1)
    first, second = (augment.draw_ops(w, "A", SIDE, SIDE)[0] for w in slots)
    identity = OPS.index("Identity")
    both = (first != identity) & (second != identity)
    first, second = (op[both] - (op[both] > identity).long() for op in (first, second))
    assert_uniform(first * 13 + second, range(169))


@pytest.mark.parametrize("name", POOLS["A"])
def test_values_of_pool_a(name):
    """Words made to select each sign and level give the published value."""
    def word(k: int, n: int) -> int:
        return -(-k * 2 ** 32 // n)                                                          # least word that maps to k

    for height, width in ((32, 32), (64, 48)):
        size = height if name == "TranslateY" else width
        for minus in (False, True):
            rows = [[word(OPS.index(name), 14), word(level - 1, 9), word(int(minus), 2), 2 ** 31] for level in LEVELS]
            op, value = augment.draw_ops(torch.tensor(rows), "A", height, width)
            assert (op == OPS.index(name)).all()
            assert value.tolist() == [level_value(name, level, minus, size) for level in LEVELS]
            rows = [[*row[:3], 2 ** 31 - 1] for row in rows]
            assert (augment.draw_ops(torch.tensor(rows), "A", height, width)[0] == OPS.index("Identity")).all()


def test_draws_of_pool_b():
    op, value = augment.draw_ops(rng.words(0, "s", 0, 60000, 4), "B", SIDE, SIDE)
    assert_uniform(op, range(14))
    ranges = {**CONTINUOUS, **dict.fromkeys(BLENDED, (0.05, 0.95))}
    for name, (low, high) in ranges.items():
        drawn = (value[op == OPS.index(name)] - low) / (high - low)
        assert drawn.min() >= 0 and drawn.max() < 1, name
        assert_uniform((drawn * 6).long(), range(6))


@pytest.mark.parametrize("shape", [(32, 32), (96, 64)])
def test_draws_of_pool_c(shape):
    """16 operations alike, each at its one value, with either sign where it has one, whatever the image's size."""
    op, value = augment.draw_ops(rng.words(0, "s", 0, 60000, 4), "C", *shape)
    index = {name: i for i, name in enumerate(FIXED)}
    assert_uniform(torch.tensor([index.get(name, -1) for name in OPS])[op], range(16))
    for name, want in FIXED.items():
        drawn = value[op == OPS.index(name)]
        torch.testing.assert_close(drawn.abs(), torch.full_like(drawn, want), rtol=0, atol=1e-12)
        if name in SIGNED:
            assert_uniform((drawn > 0).long(), range(2))
        else:
            assert (drawn >= 0).all(), name


def test_pool_c_paints_small_squares_where_it_draws_them():
    """CutoutAbs of 5.33 px covers 6 x 6 pixels, fewer only at the right and the bottom border;
    other operations paint nothing."""
    white = torch.full((2000, 3, SIDE, SIDE), 255, dtype=torch.uint8)
    w = rng.words(0, "s", 0, 2000, 4)
    out, op = augment.rand_augment(white, w, "C"), augment.draw_ops(w, "C", SIDE, SIDE)[0]
    unpainted = [OPS.index(name) for name in ("AutoContrast", "Equalize", "Color", "Contrast", "Sharpness")]
    kept = torch.isin(op, torch.tensor(unpainted))
    assert kept.any() and (out[kept] == 255).all()
    colour = torch.tensor([125, 123, 114], dtype=torch.uint8).view(3, 1, 1)
    painted = (out[op == OPS.index("CutoutAbs")] == colour).all(1)
    columns, rows = painted.any(1).sum(1), painted.any(2).sum(1)
    assert columns.max() == rows.max() == 6 and torch.equal(painted.sum((1, 2)), columns * rows)
    assert columns.min() >= 1 and abs((columns == 6).double().mean() - (SIDE - 5 + 2.67) / SIDE) < 0.1
    first = painted.any(1).double().argmax(1)
    assert first.min() == 0 and first.max() >= 27


def test_cutout_of_strong_views():
    """Pool A paints 17 x 17 pixels less the clipped part; pool B's side spreads over [0, W / 2)."""
    black = torch.zeros(3000, 3, SIDE, SIDE, dtype=torch.uint8)
    w = rng.words(0, "s", 0, 3000, 3)
    painted = augment._random_cutout(black, w, "A")[:, 0] == 127
    columns, rows = painted.any(1).sum(1), painted.any(2).sum(1)
    assert columns.max() == rows.max() == 17 and columns.min() == rows.min() == 9
    assert abs((columns == 17).double().mean() - 0.75) < 0.04                       # centres below 24 of 32: full width
    sides = (augment._random_cutout(black, w, "B")[:, 2] == 114).any(1).sum(1)
    assert sides.max() == 16 and abs(sides.double().mean() - 8.17) < 0.4             # 8.5 less what the border clips


# ---- properties that training relies on ------------------------------------------------------------------------------

VIEWS = {"weak": lambda x, seed=0, stream="v", step=4: augment.weak(x, seed, stream, step, True),
         "A": lambda x, seed=0, stream="v", step=4: augment.strong(x, seed, stream, step, True, "A"),
         "B": lambda x, seed=0, stream="v", step=4: augment.strong(x, seed, stream, step, True, "B"),
         "C": lambda x, seed=0, stream="v", step=4: augment.strong(x, seed, stream, step, True, "C", "zero", MEAN),
         "zero": lambda x, seed=0, stream="v", step=4: augment.weak(x, seed, stream, step, True, "zero"),
         "sim": lambda x, seed=0, stream="v", step=4: augment.sim(x, seed, stream, step, True)}


@pytest.mark.parametrize("view", VIEWS)
def test_views_are_functions_of_their_coordinates(images, view):
    make = VIEWS[view]
    first, before = make(images), images.clone()
    assert torch.equal(first, make(images)) and torch.equal(images, before)
    assert torch.equal(first, make(images, step=torch.tensor(4)))
    for other in (dict(seed=1), dict(stream="w"), dict(step=5)):
        assert not torch.equal(first, make(images, **other)), other


@pytest.mark.parametrize("view", VIEWS)
def test_a_row_depends_on_itself_alone(images, view):
    make = VIEWS[view]
    whole = make(images)
    assert torch.equal(make(images[:5]), whole[:5])
    changed = images.clone()
    changed[7:] = 255 - changed[7:]
    assert torch.equal(make(changed)[:7], whole[:7])


@pytest.mark.parametrize("view", VIEWS)
def test_memory_layout_is_immaterial(images, view):
    assert torch.equal(VIEWS[view](images.contiguous(memory_format=torch.channels_last)), VIEWS[view](images))


@pytest.mark.parametrize("view", VIEWS)
def test_global_random_state_is_untouched(images, view):
    before_torch, before_numpy = torch.get_rng_state(), np.random.get_state()[1].copy()
    VIEWS[view](images)
    assert torch.equal(torch.get_rng_state(), before_torch) and (np.random.get_state()[1] == before_numpy).all()


class NoHostTraffic(TorchDispatchMode):
    """Raises where an operation's result would have a data-dependent shape, be read on the host,
    or come from the host."""
    FORBIDDEN = ("_local_scalar_dense", "nonzero", "nonzero_static", "masked_select", "bincount", "lift_fresh",
                 "_unique", "_unique2", "unique_dim", "unique_consecutive", "histc", "rand", "randn", "randint",
                 "randperm", "bernoulli")

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in self.FORBIDDEN:
            raise AssertionError(f"forbidden operation {name}")
        masks = (torch.bool, torch.uint8)
        if name in ("index", "index_put", "index_put_") and any(i is not None and i.dtype in masks for i in args[1]):
            raise AssertionError("indexing by a mask")
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bad",
                         [lambda x: x.sum().item(), lambda x: x[x > 3], lambda x: x.unique(),
                          lambda x: torch.nonzero(x), lambda x: torch.bincount(x.flatten()),
                          lambda x: torch.tensor([1.0])])
def test_the_guard_catches(images, bad):
    with pytest.raises(AssertionError), NoHostTraffic():
        bad(images)


@pytest.mark.parametrize("view", VIEWS)
def test_views_can_be_captured(images, view):
    """With the constants cached and the step on the device,
    nothing depends on data and nothing crosses from or to the host."""
    step = torch.tensor(4)
    want = VIEWS[view](images)
    with NoHostTraffic():
        got = VIEWS[view](images, step=step)
    assert torch.equal(got, want)


def test_normalise_can_be_captured(images):
    want = augment.normalise(images, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1), torch.float32)
    with NoHostTraffic():
        got = augment.normalise(images, (0.5, 0.4, 0.3), (0.25, 0.2, 0.1), torch.float32)
    assert torch.equal(got, want)


@pytest.mark.parametrize("view", VIEWS)
def test_views_run_without_data(view):
    """Shapes alone suffice: the meta device has no data to look at."""
    x = torch.empty(6, 3, SIDE, SIDE, dtype=torch.uint8, device="meta")
    out = VIEWS[view](x)
    assert out.shape == x.shape and out.dtype == torch.uint8


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("view", VIEWS)
def test_gpu_gives_the_same_bits_and_captures(images, view):
    make, x = VIEWS[view], images.repeat(20, 1, 1, 1)
    device_x, step = x.cuda(), torch.tensor(4, device="cuda")
    assert torch.equal(make(device_x, step=step).cpu(), make(x))
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = make(device_x, step=step)
    step.fill_(9)
    graph.replay()
    assert torch.equal(out.cpu(), make(x, step=9))


# ---- normalising -----------------------------------------------------------------------------------------------------

@pytest.mark.parametrize("mean,std",
                         [((0.49, 0.48, 0.45), (0.2471, 0.2435, 0.2616)), ((0.5, 0.0, 1.0), (0.1, 1.0, 0.25))])
@pytest.mark.parametrize("dtype,tolerance", [(torch.float32, 2e-6), (torch.float64, 1e-13), (torch.float16, 2 ** -11),
                                             (torch.bfloat16, 2 ** -8)])
def test_normalise(images, mean, std, dtype, tolerance):
    got = augment.normalise(images, mean, std, dtype)
    want = functional.normalize(images.double() / 255, mean, std)
    assert got.dtype == dtype and got.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(got.double(), want, rtol=tolerance, atol=tolerance)


# ---- sim view --------------------------------------------------------------------------------------------------------

JITTER = (functional.adjust_brightness, functional.adjust_contrast, functional.adjust_saturation, functional.adjust_hue)


def slow_crop(w: list[int], height: int, width: int) -> tuple[int, int, int, int]:
    """Top, left, height and width as torchvision's `get_params` finds them,
    from twenty words for its ten tries and two for the place."""
    u = [(v >> 8) / 2 ** 24 for v in w[:20]]
    for i in range(10):
        area, aspect = height * width * (0.2 + 0.8 * u[i]), math.exp(math.log(4 / 3) * (2 * u[10 + i] - 1))
        w_crop, h_crop = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if w_crop <= width and h_crop <= height:
            return w[20] * (height - h_crop + 1) >> 32, w[21] * (width - w_crop + 1) >> 32, h_crop, w_crop
    h_crop, w_crop = height, width
    if width / height < 3 / 4:
        h_crop = round(width / (3 / 4))
    elif width / height > 4 / 3:
        w_crop = round(height * (4 / 3))
    return (height - h_crop) // 2, (width - w_crop) // 2, h_crop, w_crop


def slow_sim(image: torch.Tensor, w: list[int], flip: bool) -> torch.Tensor:
    """One sim view as torchvision makes it of a Pillow image, from the same 32 words as the batch gets."""
    height, width = image.shape[1:]
    picture = functional.resized_crop(to_pillow(image), *slow_crop(w[:22], height, width), [height, width])
    w = w[22:]
    u = [(v >> 8) / 2 ** 24 for v in w]
    if flip and w[0] >= 2 ** 31:
        picture = functional.hflip(picture)
    if u[1] < 0.8:
        values = [1 + 0.4 * (2 * v - 1) for v in u[3:6]] + [0.1 * (2 * u[6] - 1)]
        for i in list(itertools.permutations(range(4)))[w[2] * 24 >> 32]:
            picture = JITTER[i](picture, values[i])
    if u[7] < 0.2:
        picture = functional.to_grayscale(picture, 3)
    if u[8] < 0.5:
        picture = picture.filter(ImageFilter.GaussianBlur(0.1 + 1.9 * u[9]))
    return from_pillow(picture)


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("shape", [(32, 32), (64, 64), (24, 41), (30, 60)])
def test_sim_equals_the_whole_chain_in_torchvision_and_pillow(images, shape, flip):
    """In every byte, not to a tolerance."""
    scaled = torch.stack([functional.pil_to_tensor(to_pillow(image).resize(shape[::-1])) for image in images])
    batch = scaled.repeat(3, 1, 1, 1)
    words = rng.words(5, "sim", 2, len(batch), 32).tolist()
    got = augment.sim(batch, 5, "sim", 2, flip)
    want = torch.stack([slow_sim(image, w, flip) for image, w in zip(batch, words)])
    differing = (got != want).flatten(1).any(1)
    assert got.shape == batch.shape and not differing.any(), f"{differing.sum()} of {len(batch)} views differ"


@pytest.mark.parametrize("shape", [(32, 32), (27, 50)])
def test_resized_crops_equal_torchvision_at_every_size(shape):
    """Every height and width of a crop, the whole image and a single pixel among them."""
    height, width = shape
    random = np.random.default_rng(3)
    sizes = [(1 + i % height, 1 + (7 * i) % width) for i in range(max(shape) * 3)]
    sizes += [(height, width), (1, 1), (1, width)]
    x = torch.from_numpy(random.integers(0, 256, (len(sizes), 3, *shape), dtype=np.uint8))
    places = [(random.integers(height - h + 1), random.integers(width - w + 1), h, w) for h, w in sizes]
    mirrored = torch.arange(len(sizes)) % 2 == 0
    got = augment.resized_crop(x, *torch.tensor(places).unbind(1), mirrored)
    for i, (image, place) in enumerate(zip(x, places)):
        want = functional.resized_crop(to_pillow(image), *map(int, place), list(shape))
        assert torch.equal(got[i], from_pillow(functional.hflip(want) if mirrored[i] else want)), place
    whole = torch.tensor([(0, 0, height, width)]).repeat(len(x), 1).unbind(1)
    assert torch.equal(augment.resized_crop(x, *whole, torch.zeros(len(x), dtype=torch.bool)), x)


@pytest.mark.parametrize("kind, name", [(0, "brightness"), (1, "contrast"), (2, "saturation")])
def test_factors_beyond_one_equal_torchvision(images, kind, name):
    """The jitter's range and its ends; 1 leaves the image alone, 0 and 2 are further than it goes."""
    for factor in (0.0, 0.6, 0.7312, 0.999, 1.0, 1.001, 1.25, 1.4, 2.0):
        got = augment._enhance(images.float(), torch.full((len(images),), kind),
                               torch.full((len(images),), factor, dtype=torch.float64))
        want = torch.stack([from_pillow(JITTER[kind](to_pillow(image), factor)) for image in images])
        assert torch.equal(got.to(torch.uint8), want), (name, factor)
    same = augment._enhance(images.float(), torch.full((len(images),), kind),
                            torch.ones(len(images), dtype=torch.float64))
    assert torch.equal(same, images.float())


def test_the_hue_of_every_fourth_colour_equals_torchvision():
    """All colours with levels 0, 4, ..., 252 and 255, in five shifts to either side;
    also none, which still rounds in HSV."""
    level = np.append(np.arange(0, 256, 4), 255).astype(np.uint8)
    colours = np.stack(np.meshgrid(level, level, level, indexing="ij"), -1).reshape(65, -1, 3)
    x = torch.from_numpy(colours).permute(2, 0, 1).unsqueeze(0).float()
    moved = 0
    for hue in (-0.1, -0.0437, -0.002, 0.0, 0.0593, 0.1):
        got = augment._shift_hue(x, torch.tensor([hue * 255], dtype=torch.float64).trunc().view(1, 1, 1))
        wanted = from_pillow(functional.adjust_hue(Image.fromarray(colours), hue))
        assert torch.equal(got[0].to(torch.uint8), wanted), hue
        moved += (got != x).any(1).sum().item() if hue == 0 else 0
    assert 0 < moved < colours.shape[0] * colours.shape[1]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_colour_jitter_in_every_order_equals_torchvision(images, order):
    batch = images[::2]
    random = np.random.default_rng(sum(10 ** i * k for i, k in enumerate(order)))
    factor, hue = random.uniform(0.6, 1.4, (len(batch), 3)), random.uniform(-0.1, 0.1, len(batch))
    chosen = torch.arange(len(batch)) % 4 != 0
    factor[~chosen.numpy()] = 1
    got = augment.colour_jitter(batch.float(), torch.tensor([order] * len(batch)), torch.from_numpy(factor),
                                torch.from_numpy(hue), chosen)
    for i, image in enumerate(batch):
        picture = to_pillow(image)
        for k in order if chosen[i] else ():
            picture = JITTER[k](picture, [*factor[i], hue[i]][k])
        assert torch.equal(got[i].to(torch.uint8), from_pillow(picture)), i


def test_the_blur_equals_pillow_at_every_radius(images):
    """From nearly none to 2, on both sides of the sigma at which the box grows by a pixel (sqrt 2);
    0 leaves the image alone."""
    for sigma in [1e-3, 0.1, 1.414, math.sqrt(2), 1.4143, 2.0, *np.random.default_rng(4).uniform(0.1, 2, 20)]:
        got = augment.gaussian_blur(images.float(), torch.full((len(images),), sigma, dtype=torch.float64))
        want = torch.stack([from_pillow(to_pillow(image).filter(ImageFilter.GaussianBlur(float(sigma))))
                            for image in images])
        assert torch.equal(got.to(torch.uint8), want), sigma
    assert torch.equal(augment.gaussian_blur(images.float(), torch.zeros(len(images), dtype=torch.float64)),
                       images.float())
    small = images[:, :, :2, :3]                              # smaller than the filter
    got = augment.gaussian_blur(small.float(), torch.full((len(small),), 2.0, dtype=torch.float64)).to(torch.uint8)
    assert torch.equal(got,
                       torch.stack([from_pillow(to_pillow(i).filter(ImageFilter.GaussianBlur(2.0))) for i in small]))


def test_the_exponential():
    a = torch.linspace(-0.25, 0.25, 1001, dtype=torch.float64)
    torch.testing.assert_close(augment._exp(a), a.exp(), rtol=0, atol=4e-16)


def same_distribution(a: torch.Tensor, b: torch.Tensor) -> None:
    """Two samples of numbers: their distribution functions are nowhere further apart than chance allows once in
    30,000."""
    points = torch.cat([a, b]).unique()
    below = [torch.searchsorted(s.sort().values, points, right=True) / len(s) for s in (a.contiguous(), b.contiguous())]
    assert (below[0] - below[1]).abs().max() < 2.35 * math.sqrt(1 / len(a) + 1 / len(b))


@pytest.mark.parametrize("shape", [(32, 32), (20, 40)])
def test_crops_are_distributed_as_torchvisions(shape):
    """Heights, widths, areas, aspects and places;
    on 20 x 40 crops that do not fit, and the middle one after ten, are frequent."""
    top, left, h, w = augment.draw_crop(rng.words(0, "s", 0, 60000, 22), *shape)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.empty(3, *shape)
        theirs = torch.tensor([RandomResizedCrop.get_params(x, [0.2, 1.0], [3 / 4, 4 / 3]) for _ in range(3000)])
    ours = torch.stack([top, left, h, w], 1)
    assert (ours >= 0).all() and (top + h <= shape[0]).all() and (left + w <= shape[1]).all() and (h > 0).all()
    assert (w > 0).all()
    for name, f in {"top": lambda c: c[:, 0], "left": lambda c: c[:, 1], "height": lambda c: c[:, 2],
                    "width": lambda c: c[:, 3], "area": lambda c: c[:, 2] * c[:, 3],
                    "aspect": lambda c: c[:, 3] / c[:, 2], "right": lambda c: shape[1] - c[:, 1] - c[:, 3]}.items():
        same_distribution(f(ours).double(), f(theirs).double())
        assert f(ours).unique().numel() > 5, name
    with pytest.raises(AssertionError):                       # the check sees a distribution that is a little off
        same_distribution(h.clamp(max=shape[0] - 2).double(), theirs[:, 2].double())


def test_the_middle_is_taken_where_no_try_fits():
    """On 10 x 80 no crop of a fifth of the image or more fits."""
    top, left, h, w = augment.draw_crop(rng.words(0, "s", 0, 50, 22), 10, 80)
    assert set(zip(top.tolist(), left.tolist(), h.tolist(), w.tolist())) == {(0, 33, 10, 13)}
    top, left, h, w = augment.draw_crop(rng.words(0, "s", 0, 50, 22), 80, 10)
    assert set(zip(top.tolist(), left.tolist(), h.tolist(), w.tolist())) == {(33, 0, 13, 10)}


def share(flags: torch.Tensor, p: float) -> None:
    """A frequency within five standard deviations of p; 0 and 1 exactly."""
    assert abs(flags.double().mean() - p) <= 5 * math.sqrt(p * (1 - p) / len(flags))


def test_sim_statistics():
    """How often each part is switched on by chance, read off views of images made for it."""
    n, side = 4000, 8
    ramp = (torch.arange(side) * 30).to(torch.uint8).view(1, 1, 1, side).expand(n, 3, side, side)
    for flip, p in ((True, 0.5), (False, 0.0)):
        views = augment.sim(ramp, 0, "s", 0, flip).float()
        share(views[..., -1].mean((1, 2)) < views[..., 0].mean((1, 2)), p)
    orange = torch.tensor([200, 120, 40], dtype=torch.uint8)
    flat = augment.sim(orange.view(1, 3, 1, 1).expand(n, 3, side, side), 0, "s", 0, True)[:, :, 5, 5]
    grey = (flat == flat[:, :1]).all(1)
    share(grey, 0.2)
    share((flat[~grey] == orange).all(1), 0.2)                # as it was: not jittered


def test_jitter_and_blur_are_distributed_as_torchvisions(monkeypatch):
    """And the sigma of the blur, which half of the images get."""
    seen = {}
    monkeypatch.setattr(augment, "colour_jitter", lambda image, order, factor, hue, chosen: seen.update(
        order=order, factor=factor, hue=hue, chosen=chosen) or image)
    monkeypatch.setattr(augment, "gaussian_blur", lambda image, sigma: seen.update(sigma=sigma) or image)
    augment.sim(torch.zeros(30000, 3, 4, 4, dtype=torch.uint8), 0, "s", 0, True)
    assert_uniform((seen["order"] * torch.tensor([64, 16, 4, 1])).sum(1).unique(return_inverse=True)[1], range(24))
    assert (seen["factor"][~seen["chosen"]] == 1).all()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        jitter = ColorJitter(0.4, 0.4, 0.4, 0.1)
        drawn = [jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue)[1:]
                 for _ in range(4000)]
    theirs = torch.tensor(drawn, dtype=torch.float64)
    for i in range(3):
        same_distribution(seen["factor"][seen["chosen"], i], theirs[:, i])
    same_distribution(seen["hue"], theirs[:, 3])
    share(seen["sigma"] > 0, 0.5)
    same_distribution(seen["sigma"][seen["sigma"] > 0], torch.linspace(0.1, 2, 3000, dtype=torch.float64))
