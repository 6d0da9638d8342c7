"""Image views as whole-batch tensor arithmetic: weak, strong and contrastive ("sim"), and from bytes to network input.

weak   = random horizontal flip, then a random crop after padding by 1/8 of the side, mirrored or black.
strong = an own weak view, RandAugment and a painted rectangle (cut-out). Three published variants, called pools:
  A (FixMatch port): 2 slots, integer levels 1..9, each applied with probability 1/2; cut-out of 16 px in grey
  B (CPE):           3 slots, continuous magnitudes, always applied; cut-out side uniform in [0, W/2), near-mean colour
  C (CDMAD, DARP):   3 slots, one fixed magnitude, always applied, BEFORE the weak view; 16 px in the mean colour
  A and B draw with replacement from the same 14 operations, C from 13 of them (no Identity) and three more.
sim    = SimCLR's view: random resized crop, flip, colour jitter, grey, blur, as torchvision does them on Pillow images.

All operations agree with Pillow's. Random numbers come from `rng` alone. Shapes never depend on data and nothing is
read back from the device. So a CUDA graph can capture every function here once the first call has filled the small
constant tables. Arithmetic is in integers, or in floating point through single multiplications, additions and tensor
divisions, which round alike on every device.
"""
from __future__ import annotations

import functools
import itertools
import math

import torch
from torch import Tensor

from semilib.data import rng
from semilib.data.constants import once, tensor_once
from semilib.errors import BadInput, check_name

OPS = ("AutoContrast", "Brightness", "Color", "Contrast", "Equalize", "Identity", "Posterize", "Rotate", "Sharpness",
       "ShearX", "ShearY", "Solarize", "TranslateX", "TranslateY", "Invert", "SolarizeAdd", "CutoutAbs")
BLENDS = ("Brightness", "Color", "Contrast", "Sharpness")
SIGNED = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
CROPS = ("reflect", "zero")
POOLS = {"A": OPS[:14], "B": OPS[:14], "C": tuple(name for name in OPS if name != "Identity")}
SLOTS = {"A": 2, "B": 3, "C": 3}
CUTOUT_COLOUR = {"A": (127, 127, 127), "B": (125, 123, 114)}            # C: the data set's mean


@tensor_once
def _constant(values: tuple, dtype: torch.dtype, device: torch.device) -> Tensor:
    """A small constant tensor, copied to the device once: later calls find it there, as a captured graph must."""
    return torch.tensor(values, dtype=dtype, device=device)


# ---- weak view -------------------------------------------------------------------------------------------------------

def weak(x: Tensor, seed: int, stream: rng.Stream, step: int | Tensor, flip: bool, crop: str = "reflect") -> Tensor:
    """The weak view of a batch, uint8 [B, 3, H, W] to the same. Row i depends on seed, stream, step, i and image i.

    flip: whether images may be mirrored (not for digits). step: an integer or a 0-dim int64 tensor on x's device. crop:
    what lies outside of the image, "reflect" (mirrored about the edge pixels) or "zero" (black).
    """
    check_name("crop", crop, CROPS)
    return _flip_and_crop(x, rng.words(seed, stream, step, len(x), 3, x.device), flip, crop)


def _flip_and_crop(x: Tensor, w: Tensor, flip: bool, crop: str) -> Tensor:
    """Flip, then crop, as one gather; w: int64 [B, 3] words for flip, row offset and column offset."""
    height, width = x.shape[2:]
    row, column = _crop_source(w[:, 1:2], height, crop), _crop_source(w[:, 2:3], width, crop)           # [B, H], [B, W]
    if flip:
        column = torch.where(rng.integers(w[:, :1], 2) == 1, width - 1 - column, column)
    row, column = row.unsqueeze(2), column.unsqueeze(1)
    if crop == "reflect":
        return _gather_pixels(x, row * width + column)
    inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)                                # [B, H, W]
    return _gather_pixels(x, torch.where(inside, row * width + column, 0)) * inside.unsqueeze(1)


def _crop_source(w: Tensor, side: int, crop: str) -> Tensor:
    """Source coordinate of each output coordinate, int64 [B, side], of a crop offset by one of -p, ..., p with p = side
    // 8.

    Reflect padding mirrors about the edge pixels' centres: j becomes |j| on the left, 2(side - 1) - j on the right.
    With zero padding a coordinate may lie outside of the image.
    """
    padding, last = side // 8, side - 1
    j = torch.arange(side, device=w.device) + rng.integers(w, 2 * padding + 1) - padding
    return j if crop == "zero" else last - (last - j.abs()).abs()


def _gather_pixels(x: Tensor, source: Tensor) -> Tensor:
    """x [B, 3, H, W] at flat pixel numbers `source`, int64 [B, H, W], the same for all channels of an image."""
    batch, channels = x.shape[:2]
    index = source.view(batch, 1, -1).expand(batch, channels, -1)
    return x.reshape(batch, channels, -1).gather(2, index).view(batch, channels, *source.shape[1:])


# ---- strong view -----------------------------------------------------------------------------------------------------

def strong(x: Tensor, seed: int, stream: rng.Stream, step: int | Tensor, flip: bool, pool: str = "A",
           crop: str = "reflect", mean: tuple[float, float, float] | None = None) -> Tensor:
    """The strong view of RAW images (it makes its own weak view), uint8 [B, 3, H, W] to the same; see `weak`.

    The FixMatch port and CPE go weak, operations, cut-out; pool C goes operations, weak, cut-out. (Some crop before
    they flip. Offsets are symmetric, so the distribution of views is the same.) mean: the data set's mean colour in
    shares of 255, which pool C needs. Its release paints 0 after normalising; here that is the mean, rounded to whole
    levels.
    """
    check_name("pool", pool, SLOTS)
    check_name("crop", crop, CROPS)
    if pool == "C" and mean is None:
        raise BadInput("mean", mean, "the data set's mean colour, in which pool C paints")
    w = rng.words(seed, stream, step, len(x), 3 + 4 * SLOTS[pool] + 3, x.device)
    if pool == "C":
        x = _flip_and_crop(rand_augment(x, w[:, 3:-3], pool), w[:, :3], flip, crop)
        colour = tuple(round(255 * m) for m in mean)  # type: ignore[union-attr]  # checked above
        return square_cutout(x, w[:, -3:-1], 16, colour)
    x = _flip_and_crop(x, w[:, :3], flip, crop)
    x = rand_augment(x, w[:, 3:-3], pool)
    return _random_cutout(x, w[:, -3:], pool)


def rand_augment(x: Tensor, w: Tensor, pool: str) -> Tensor:
    """One random operation per image and slot, slot after slot; w: int64 [B, 4 * slots] words."""
    for slot in w.split(4, dim=1):
        op, value = draw_ops(slot, pool, *x.shape[2:])
        x = apply_ops(x, op, value)
        if pool == "C":                # CutoutAbs paints at a place from the two words that the fixed level leaves over
            u = rng.uniform(slot[:, 1::2]).double()
            side = torch.where(op == OPS.index("CutoutAbs"), value, 0)
            x = cutout(x, u[:, 0] * x.shape[3], u[:, 1] * x.shape[2], side, CUTOUT_COLOUR["B"])
    return x


def draw_ops(w: Tensor, pool: str, height: int, width: int) -> tuple[Tensor, Tensor]:
    """Operation (index into OPS, int64 [B]) and value (float64 [B], see `apply_ops`) from words, int64 [B, 4]."""
    op = rng.integers(w[:, 0], len(POOLS[pool]))
    if pool == "C":
        op = _constant(tuple(OPS.index(name) for name in POOLS["C"]), torch.int64, w.device)[op]
        return op, _constant(_fixed(), torch.float64, w.device)[op, rng.integers(w[:, 2], 2)]
    if pool == "B":
        low, high = _constant(_ranges(height, width), torch.float64, w.device)[op].unbind(1)
        return op, low + rng.uniform(w[:, 1]).double() * (high - low)
    levels = _constant(_levels(height, width), torch.float64, w.device)
    value = levels[op, rng.integers(w[:, 2], 2), rng.integers(w[:, 1], 9)]
    applied = rng.integers(w[:, 3], 2) == 1
    return torch.where(applied, op, OPS.index("Identity")), value


@once
def _levels(height: int, width: int) -> tuple:
    """Pool A's values as nested tuples [14][2][9]: operation, sign (plus, minus; unsigned ones repeat), level - 1.

    Source: the FixMatch port's randaugment.py, `_float_parameter` and `_int_parameter` with maximum level 10. It never
    draws level 10 itself.
    """
    def value(name: str, level: int) -> float:
        if name in BLENDS:
            return level * 0.9 / 10 + 0.05
        if name.startswith("Translate"):
            return int(level * 0.3 / 10 * (width if name == "TranslateX" else height))
        return {"Posterize": int(level * 4 / 10) + 4, "Rotate": int(level * 30 / 10), "ShearX": level * 0.3 / 10,
                "ShearY": level * 0.3 / 10, "Solarize": 256 - int(level * 256 / 10)}.get(name, 0)

    plus = {name: tuple(value(name, level) for level in range(1, 10)) for name in POOLS["A"]}
    return tuple((plus[name], tuple(-v for v in plus[name]) if name in SIGNED else plus[name]) for name in POOLS["A"])


@once
def _ranges(height: int, width: int) -> tuple:
    """Pool B's [low, high) per operation as nested tuples [14][2]. Source: CPE's randaugment.py, `augment_pool`."""
    ends = {"Posterize": (4, 8), "Rotate": (-30, 30), "ShearX": (-0.3, 0.3), "ShearY": (-0.3, 0.3),
            "Solarize": (0, 256), "TranslateX": (-0.3 * width, 0.3 * width),
            "TranslateY": (-0.3 * height, 0.3 * height)}
    return tuple((0.05, 0.95) if name in BLENDS else ends.get(name, (0, 0)) for name in POOLS["B"])


@once
def _fixed() -> tuple:
    """Pool C's value of each operation with either sign, as nested tuples [17][2]: low + 4/30 (high - low), in pixels
    whatever the side. Source: the `RandAugment` package with n = 3, m = 4, as CDMAD calls it. Posterize thus keeps
    int(0.53) = 0 bits. The Pillow of the published runs made a black image of that, and a later one refuses it."""
    ends = {"Posterize": (0, 4), "Rotate": (0, 30), "ShearX": (0, 0.3), "ShearY": (0, 0.3), "Solarize": (0, 256),
            "SolarizeAdd": (0, 110), "TranslateX": (0, 100), "TranslateY": (0, 100), "CutoutAbs": (0, 40),
            **dict.fromkeys(BLENDS, (0.1, 1.9))}
    plus = {name: low + 4 / 30 * (high - low) for name, (low, high) in ends.items()}
    return tuple((plus.get(name, 0.0), plus.get(name, 0.0) * (-1 if name in SIGNED else 1)) for name in OPS)


def _random_cutout(x: Tensor, w: Tensor, pool: str) -> Tensor:
    """Cut-out at a uniform centre; w: int64 [B, 3] words for centre column, centre row and side."""
    height, width = x.shape[2:]
    u = rng.uniform(w).double()
    side = u[:, 2] * (0.5 * width) if pool == "B" else torch.full_like(u[:, 2], 16)
    return cutout(x, u[:, 0] * width, u[:, 1] * height, side, CUTOUT_COLOUR[pool])


def cutout(x: Tensor, cx: Tensor, cy: Tensor, side: Tensor, colour: tuple[int, ...]) -> Tensor:
    """Paint one rectangle per image: centres cx, cy and side in pixels, floating point [B].

    Like the published code, it moves the rectangle inwards at the left and top border and clips it at the right and
    bottom one. It paints both end pixels, so that side 16 covers 17 x 17. A side of 0 paints nothing.
    """
    def covered(centre: Tensor, size: int) -> Tensor:                                                      # [B, size]
        pixel = torch.arange(size, device=x.device)
        first = (centre - side * 0.5).clamp(min=0).floor().unsqueeze(1)
        return (pixel >= first) & (pixel <= first + side.unsqueeze(1)) & (side > 0).unsqueeze(1)

    return _paint(x, covered(cy, x.shape[2]), covered(cx, x.shape[3]), colour)


def square_cutout(x: Tensor, w: Tensor, side: int, colour: tuple[int, ...]) -> Tensor:
    """Paint one square per image, clipped at every border. w: int64 [B, 2] words for the column and row of a uniform
    pixel, the first one right of and below the square's middle."""
    def covered(w: Tensor, size: int) -> Tensor:                                                           # [B, size]
        offset = torch.arange(size, device=x.device) - rng.integers(w, size)
        return (offset >= -(side // 2)) & (offset < side // 2)

    return _paint(x, covered(w[:, 1:2], x.shape[2]), covered(w[:, 0:1], x.shape[3]), colour)


def _paint(x: Tensor, rows: Tensor, columns: Tensor, colour: tuple[int, ...]) -> Tensor:
    """One colour where `rows`, bool [B, H], and `columns`, bool [B, W], meet."""
    inside = rows.unsqueeze(2) & columns.unsqueeze(1)                                                      # [B, H, W]
    return torch.where(inside.unsqueeze(1), _constant(colour, torch.uint8, x.device).view(1, 3, 1, 1), x)


# ---- sim view --------------------------------------------------------------------------------------------------------

TRIES = 10                                      # crops that torchvision draws before it gives up
AREA, ASPECT = (0.2, 1.0), 4 / 3                # share of the image; width over height, from 1 / ASPECT to ASPECT
JITTER, HUE = 0.4, 0.1                          # brightness, contrast and saturation 1 -+ 0.4; hue -+ 0.1 of the circle
P_JITTER, P_GREY, P_BLUR, SIGMA = 0.8, 0.2, 0.5, (0.1, 2.0)


def sim(x: Tensor, seed: int, stream: rng.Stream, step: int | Tensor, flip: bool) -> Tensor:
    """SimCLR's view (Chen et al., ICML 2020), which CCL has of labelled images: uint8 [B, 3, H, W] to the same.

    Given its parameters, every operation equals in every byte what torchvision makes of a Pillow image. The parameters
    are distributed as torchvision's. All ten tries at a crop are drawn; torchvision stops at the first that fits.
    """
    batch, _, height, width = x.shape
    w = rng.words(seed, stream, step, batch, 2 * TRIES + 12, x.device)
    crop, w = draw_crop(w[:, :2 * TRIES + 2], height, width), w[:, 2 * TRIES + 2:]
    u = rng.uniform(w).double()
    mirrored = (rng.integers(w[:, 0], 2) == 1) if flip else torch.zeros_like(w[:, 0], dtype=torch.bool)
    image = resized_crop(x, *crop, mirrored).float()
    jittered = u[:, 1] < P_JITTER
    orders = _constant(tuple(itertools.permutations(range(4))), torch.int64, x.device)
    factor = torch.where(jittered.unsqueeze(1), 1 + JITTER * (2 * u[:, 3:6] - 1), 1)
    image = colour_jitter(image, orders[rng.integers(w[:, 2], len(orders))], factor, HUE * (2 * u[:, 6] - 1), jittered)
    image = torch.where((u[:, 7] < P_GREY).view(-1, 1, 1, 1), _grey(image), image)
    sigma = torch.where(u[:, 8] < P_BLUR, SIGMA[0] + (SIGMA[1] - SIGMA[0]) * u[:, 9], 0)
    return gaussian_blur(image, sigma).to(torch.uint8)


def draw_crop(w: Tensor, height: int, width: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Top, left, height and width of a crop, int64 [B], from words, int64 [B, 2 TRIES + 2].

    A try is an area and an aspect. The first that fits into the image is placed uniformly. If none does, the crop is
    the middle of the image in the nearest aspect.
    """
    u = rng.uniform(w[:, :2 * TRIES]).double()
    area = ((AREA[0] + (AREA[1] - AREA[0]) * u[:, :TRIES]) * (height * width)).sqrt()
    half = _exp((2 * u[:, TRIES:] - 1) * (math.log(ASPECT) / 2))           # root of an aspect, uniform in its logarithm
    w_try, h_try = (area * half).round().long(), (area / half).round().long()        # half to even, as Python's round
    fits = (w_try <= width) & (h_try <= height) & (w_try > 0) & (h_try > 0)
    first = fits.to(torch.uint8).argmax(1, keepdim=True)                             # the first of the largest
    found = fits.any(1)
    w_else, h_else = min(width, round(height * ASPECT)), min(height, round(width * ASPECT))
    w_crop = torch.where(found, w_try.gather(1, first).squeeze(1), w_else)
    h_crop = torch.where(found, h_try.gather(1, first).squeeze(1), h_else)
    top = torch.where(found, rng.integers(w[:, -2], height - h_crop + 1), (height - h_else) // 2)
    left = torch.where(found, rng.integers(w[:, -1], width - w_crop + 1), (width - w_else) // 2)
    return top, left, h_crop, w_crop


def _exp(a: Tensor) -> Tensor:
    """exp of float64 within +-1/4 by its power series (the first omitted term is below 1e-17); see `_cos_sin`."""
    out = torch.zeros_like(a)
    for k in range(12, -1, -1):
        out = out * a + 1 / math.factorial(k)
    return out


def resized_crop(x: Tensor, top: Tensor, left: Tensor, h_crop: Tensor, w_crop: Tensor, mirrored: Tensor) -> Tensor:
    """Crops, int64 [B] inside the image, brought back to its size, then mirrored where `mirrored`, bool [B], says so.
    Pillow's bilinear `resize`, columns first; uint8 to uint8."""
    height, width = x.shape[2:]
    column = torch.arange(width, device=x.device)
    column = torch.where(mirrored.unsqueeze(1), width - 1 - column, column)
    x = _magnify(x, left.unsqueeze(1), w_crop.unsqueeze(1), column)
    row = torch.arange(height, device=x.device).unsqueeze(0)
    return _magnify(x.transpose(2, 3), top.unsqueeze(1), h_crop.unsqueeze(1), row).transpose(2, 3)


def _magnify(x: Tensor, first: Tensor, size: Tensor, out: Tensor) -> Tensor:
    """Stretch pixels `first`, ..., first + size - 1 (int64 [B, 1]) of the last axis to x.shape[-1] ones.

    out: the numbers of those that are wanted, int64 [1 or B, N]. No axis shrinks, so two neighbours make each pixel.
    Their weights are Pillow's, in 22-bit fixed point, rounded.
    """
    n = x.shape[-1]
    centre = (out + 0.5) * (size.double() / torch.full_like(size, n, dtype=torch.float64))
    near = (centre - 0.5).clamp(min=0).floor()
    far = near + 1
    a = 1 - (near - centre + 0.5).abs()
    b = torch.where(far < size, 1 - (far - centre + 0.5).abs(), 0).clamp(min=0)

    def part(position: Tensor, weight: Tensor) -> Tensor:
        index = (first + torch.minimum(position.long(), size - 1)).view(len(x), 1, 1, n).expand(x.shape)
        return x.gather(3, index).int() * (weight / (a + b) * 2**22 + 0.5).int().view(len(x), 1, 1, n)

    return ((part(near, a) + part(far, b) + 2**21) >> 22).to(torch.uint8)


def colour_jitter(image: Tensor, order: Tensor, factor: Tensor, hue: Tensor, chosen: Tensor) -> Tensor:
    """torchvision's ColorJitter of Pillow images: whole numbers in float32 [B, 3, H, W] to the same.

    order: int64 [B, 4], a permutation of 0 brightness, 1 contrast, 2 saturation, 3 hue. factor: float64 [B, 3]; 1
    changes nothing. hue: float64 [B], a share of the circle. chosen: bool [B], where the hue is shifted at all; the way
    to HSV in bytes and back alone would move an image too.

    The hue is shifted once. Before it come as many of the three others as the order says, after it the rest.
    """
    place = torch.arange(4, device=image.device)
    at = ((order == 3) * place).sum(1, keepdim=True)                                 # of the hue
    others = torch.where(place[:3] < at, order[:, :3], order[:, 1:])                 # [B, 3], the hue left out
    factor = factor.gather(1, others)
    before = place[:3] < at
    for i in range(3):
        image = _enhance(image, others[:, i], torch.where(before[:, i], factor[:, i], 1))
    image = torch.where(chosen.view(-1, 1, 1, 1), _shift_hue(image, (hue * 255).trunc().view(-1, 1, 1)), image)
    for i in range(3):
        image = _enhance(image, others[:, i], torch.where(before[:, i], 1, factor[:, i]))
    return image


def _enhance(image: Tensor, kind: Tensor, factor: Tensor) -> Tensor:
    """Brightness (kind 0), contrast (1) or saturation (2), int64 [B]: Pillow's `blend` with black, the mean grey or the
    grey image. Unlike in `_mix`, factors may exceed 1; values are cut off at 0 and 255 before they are truncated."""
    grey, kind = _grey(image), kind.view(-1, 1, 1, 1)
    count = grey.shape[2] * grey.shape[3]
    mean = ((2 * grey.long().sum((1, 2, 3)) + count) // (2 * count)).to(grey.dtype).view(-1, 1, 1, 1)
    degenerate = torch.where(kind == 2, grey, torch.where(kind == 1, mean, 0))
    return (image - degenerate).mul_(factor.float().view(-1, 1, 1, 1)).add_(degenerate).clamp_(0, 255).floor_()


def _shift_hue(image: Tensor, shift: Tensor) -> Tensor:
    """To HSV in bytes, the hue moved by `shift` (float64 [B, 1, 1]) of 256 steps, and back; float32 [B, 3, H, W].

    It is Pillow's `convert`, in single and double precision where that has them; this decides the last level at times.
    """
    red, green, _ = image.unbind(1)
    high, low = image.amax(1), image.amin(1)
    span = high - low
    rest = (high.unsqueeze(1) - image) / span.clamp(min=1).unsqueeze(1)
    r, g, b = rest.double().unbind(1)
    angle = torch.where(red == high, b - g, torch.where(green == high, 2 + r - b, 4 + g - r)).float().double()
    turn = angle / torch.full_like(angle, 6) + 1
    h = ((turn - turn.floor()).float().double() * 255).floor()
    s = ((span / high.clamp(min=1)).double() * 255).floor()
    h = h + shift
    h = h - (h * 2.0**-8).floor() * 256
    full = torch.full_like(h, 255)
    sixth = h * 6 / full
    sector = sixth.floor()
    f, s, v = (sixth - sector).float(), (s / full).float(), high.double()
    weights = torch.stack([torch.zeros_like(v), s.double(), (s * f).double(), s.double() * (1 - f.double())], 1)
    levels = (v.unsqueeze(1) * (1 - weights) + 0.5).floor().float()                  # value, and Pillow's p, q, t
    sectors = ((0, 3, 1), (2, 0, 1), (1, 0, 3), (1, 2, 0), (3, 1, 0), (0, 1, 2), (0, 3, 1))
    table = _constant(sectors, torch.int64, image.device)
    return levels.gather(1, table[sector.long()].permute(0, 3, 1, 2))


def gaussian_blur(image: Tensor, sigma: Tensor) -> Tensor:
    """Pillow's GaussianBlur of whole numbers in float32 [B, 3, H, W]: three box filters along the rows and three along
    the columns, each rounded to whole levels. sigma: float64 [B], at most 2 (0 = none), so that five pixels suffice."""
    s2 = sigma.float().square() / torch.full_like(sigma, 3, dtype=torch.float32)
    length = (s2.double() * 12 + 1).sqrt().float()
    whole = ((length - 1) / 2).floor()
    part = (2 * whole + 1) * (whole * (whole + 1) - 3 * s2) / (6 * (s2 - (whole + 1) * (whole + 1)))
    radius = whole + part
    whole = radius.floor()
    # 24-bit weights of the pixels within the box, and of the two that it cuts
    inner = (torch.full_like(radius, 2**24) / (radius * 2 + 1)).double().floor()
    edge = ((2**24 - (2 * whole.double() + 1) * inner) / 2).floor()
    next_ones = torch.where(whole > 0, inner, edge), torch.where(whole > 0, edge, 0)
    weights = [w.view(-1, 1, 1, 1) for w in (inner, *next_ones)]
    for _ in range(2):
        for _ in range(3):
            image = _box(image, weights)
        image = image.transpose(2, 3)
    return image


def _box(image: Tensor, weights: list[Tensor]) -> Tensor:
    """One symmetric filter of five pixels along the last axis; border pixels are continued.

    weights: from the middle outwards, float64 [B, 1, 1, 1], whole numbers that sum to 2^24. So it is exact.
    """
    n = image.shape[3]
    wide = torch.cat([image[..., :1], image[..., :1], image, image[..., -1:], image[..., -1:]], 3)
    near = (wide[..., 1:n + 1] + wide[..., 3:n + 3]).double()
    far = (wide[..., :n] + wide[..., 4:]).double()
    total = (image.double() * weights[0]).add_(near.mul_(weights[1])).add_(far.mul_(weights[2]))
    return total.add_(2**23).mul_(2.0**-24).floor_().float()


# ---- operations ------------------------------------------------------------------------------------------------------

def apply_ops(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """Apply operation OPS[op[i]] with value[i] to image i: x uint8 [B, 3, H, W], op int64 [B], value float [B].

        Brightness, Color, Contrast, Sharpness   a factor in [0, 1]; 1 leaves the image alone
        Posterize                                the bits to keep, truncated, 0..8; 0 gives a black image
        Rotate                                   degrees within +-90, counter-clockwise
        Shear                                    the matrix entry
        Solarize                                 the threshold
        SolarizeAdd                              what is added, truncated, before solarizing at 128
        Translate                                pixels; positive ones move the content to the left or upwards
        CutoutAbs                                nothing is done here: `rand_augment` paints it

    The operations fall into three families, each one pass over the whole batch. A pass computes every row; rows of
    another family get the parameters at which it is the identity. So the cost is three passes instead of sixteen, in
    any order.
    """
    value = value.double()
    return _blend(_look_up(_affine(x, op, value), op, value), op, value)


def _only(op: Tensor, names: tuple[str, ...] | str, value: Tensor, otherwise: float) -> Tensor:
    """`value` in the rows whose operation is among `names`, else `otherwise`, as [B, 1, 1] to spread over an image."""
    names = (names,) if isinstance(names, str) else names
    chosen = functools.reduce(torch.logical_or, [op == OPS.index(name) for name in names])
    return torch.where(chosen, value, otherwise).view(-1, 1, 1)


def _affine(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """Rotate, Shear, Translate: the output at (c, r) is the source pixel under (a0 c + a1 r + a2, a3 c + a4 r + a5).

    Pillow's `Image.transform(AFFINE)` with nearest neighbour and black outside: 16.16 fixed point (enough in 32 bits up
    to a side of 8192), pixel centres at 1/2.
    """
    height, width = x.shape[2:]
    cos, sin = _cos_sin(_only(op, "Rotate", value, 0) * (-math.pi / 180))
    a0, a1, a3, a4 = cos, sin + _only(op, "ShearX", value, 0), _only(op, "ShearY", value, 0) - sin, cos
    # A shift is rounded to whole pixels beforehand: Pillow runs pure shifts in floating point, not in 16.16.
    a2 = width / 2 - cos * (width / 2) - sin * (height / 2) + (_only(op, "TranslateX", value, 0) + 0.5).floor()
    a5 = height / 2 + sin * (width / 2) - cos * (height / 2) + (_only(op, "TranslateY", value, 0) + 0.5).floor()

    def fixed(a: Tensor) -> Tensor:
        return (a * 65536 + 0.5).floor().int()

    column = torch.arange(width, device=x.device, dtype=torch.int32)
    row = torch.arange(height, device=x.device, dtype=torch.int32).unsqueeze(1)
    source_column = (fixed(a2 + a0 * 0.5 + a1 * 0.5) + fixed(a1) * row + fixed(a0) * column) >> 16         # [B, H, W]
    source_row = (fixed(a5 + a3 * 0.5 + a4 * 0.5) + fixed(a4) * row + fixed(a3) * column) >> 16
    inside = (source_column >= 0) & (source_column < width) & (source_row >= 0) & (source_row < height)
    source = torch.where(inside, source_row * width + source_column, 0)
    return _gather_pixels(x, source.long()) * inside.unsqueeze(1)


def _cos_sin(angle: Tensor) -> tuple[Tensor, Tensor]:
    """Cosine and sine of float64 radians within +-pi/2 by their power series, as libraries differ between devices.

    The first omitted terms are below 1e-16.
    """
    square = angle * angle
    cos, sin = torch.zeros_like(angle), torch.zeros_like(angle)
    for k in range(20, -1, -2):
        sign = -1.0 if k % 4 else 1.0
        cos = cos * square + sign / math.factorial(k)
        sin = sin * square + sign / math.factorial(k + 1)
    return cos, sin * angle


def _look_up(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """The maps of one grey level to another: a table [B, 3, 256] per image and channel, and one gather through it.

    The table starts as the identity and passes through each map in turn, at most one of which moves it.
    """
    table = torch.arange(256, device=x.device, dtype=torch.int32)
    dropped_bits = 8 - _only(op, "Posterize", value, 8).int()
    table = (table >> dropped_bits) << dropped_bits                                                        # [B, 1, 256]
    table = (table + _only(op, "SolarizeAdd", value, 0).int()).clamp(max=255)
    threshold = torch.where(op == OPS.index("SolarizeAdd"), 128, torch.where(op == OPS.index("Invert"), 0, value))
    table = torch.where(table < _only(op, ("Solarize", "SolarizeAdd", "Invert"), threshold, 256), table, 255 - table)
    table = _mix(_only(op, "Contrast", _mean_grey(x), 0).float(), table.float(),
                 _only(op, ("Brightness", "Contrast"), value, 1).float())
    pixels = x.reshape(len(x), 3, -1)
    levels = pixels.int()             # compiled for a CPU, PyTorch's least of bytes is wrong, 0 or 1 (its issue 191499)
    low, high = levels.amin(2, keepdim=True), levels.amax(2, keepdim=True)                                 # [B, 3, 1]
    index = pixels.long()
    table = _auto_contrast(table, low, high, op)
    table = _equalize(table, index, high.long(), op)
    return table.gather(2, index).view(x.shape)


def _auto_contrast(table: Tensor, low: Tensor, high: Tensor, op: Tensor) -> Tensor:
    """Stretch [low, high] to [0, 255], [B, 3, 256], by Pillow's formula in doubles, truncated; flat channels stay."""
    chosen = (op == OPS.index("AutoContrast")).view(-1, 1, 1) & (high > low)
    span = (high - low).clamp(min=1).double()
    # a number / tensor would multiply by the reciprocal
    scale = torch.where(chosen, torch.full_like(span, 255) / span, 1)
    offset = torch.where(chosen, -low * scale, 0)
    return (table * scale + offset).clamp(0, 255).to(torch.uint8)


def _equalize(table: Tensor, index: Tensor, high: Tensor, op: Tensor) -> Tensor:
    """Flatten the histogram by Pillow's integer formula: level i becomes (step // 2 + pixels below i) // step, at most
    255.

    step is the number of pixels below the brightest level, // 255. Where it is 0 the channel stays. uint8 [B, 3, 256].
    index: the pixels as int64 [B, 3, H * W].
    """
    ones = torch.ones((1, 1, 1), dtype=torch.int32, device=index.device).expand_as(index)
    histogram = torch.zeros_like(table, dtype=torch.int32).scatter_add_(2, index, ones)
    below = histogram.cumsum(2, dtype=torch.int32) - histogram
    step = below.gather(2, high) // 255
    chosen = (op == OPS.index("Equalize")).view(-1, 1, 1) & (step > 0)
    return torch.where(chosen, ((step // 2 + below) // step.clamp(min=1)).clamp(max=255).to(torch.uint8), table)


def _blend(x: Tensor, op: Tensor, value: Tensor) -> Tensor:
    """Color and Sharpness: mix the image with its grey or its smoothed version; a factor of 1 returns it exactly."""
    image = x.float()
    colour = (op == OPS.index("Color")).view(-1, 1, 1, 1)
    degenerate = torch.where(colour, _grey(image), _smooth(image))
    return _mix(degenerate, image, _only(op, ("Color", "Sharpness"), value, 1).float().unsqueeze(1))


def _mix(a: Tensor, b: Tensor, factor: Tensor) -> Tensor:
    """Pillow's `Image.blend` for factors in [0, 1]: a + factor (b - a) in single precision, truncated to uint8."""
    return (b - a).mul_(factor).add_(a).to(torch.uint8)


def _grey(image: Tensor) -> Tensor:
    """Luma by Pillow's 16-bit weights, float32 [B, 3, H, W] to [B, 1, H, W]; exact, as sums are below 2^24."""
    red, green, blue = image.split(1, dim=1)
    return ((red * 19595 + green * 38470 + blue * 7471 + 32768) * 2.0 ** -16).floor()


def _mean_grey(x: Tensor) -> Tensor:
    """Mean luma rounded half up, int64 [B], with an integer sum, whose result no order of summation can change."""
    total = _grey(x.float()).long().sum((1, 2, 3))
    count = x.shape[2] * x.shape[3]
    return (2 * total + count) // (2 * count)


def _smooth(image: Tensor) -> Tensor:
    """Pillow's SMOOTH filter, weights 1 around 5 over 13, rounded, border pixels copied; float32 [B, 3, H, W].

    sum / 13 + 1/2 is never closer than 1/26 to a whole number, so single precision always truncates to the right one.
    """
    rows = image[..., :-2, :] + image[..., 1:-1, :] + image[..., 2:, :]
    box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
    out = image.clone()
    out[..., 1:-1, 1:-1] = ((box + 4 * image[..., 1:-1, 1:-1]) * (1 / 13) + 0.5).floor()
    return out


# ---- normalising -----------------------------------------------------------------------------------------------------

def normalise(x: Tensor, mean: tuple[float, float, float], std: tuple[float, float, float],
              dtype: torch.dtype = torch.float32) -> Tensor:
    """(x / 255 - mean) / std as x * scale + shift: uint8 [B, 3, H, W] to `dtype`, in channels-last memory.

    Half-precision results are computed in single precision and rounded once.
    """
    wide = torch.promote_types(dtype, torch.float32)
    scale = _constant(tuple(1 / (255 * s) for s in std), wide, x.device).view(1, 3, 1, 1)
    shift = _constant(tuple(-m / s for m, s in zip(mean, std)), wide, x.device).view(1, 3, 1, 1)
    return x.to(wide, memory_format=torch.channels_last).mul_(scale).add_(shift).to(dtype)
