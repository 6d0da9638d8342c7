"""Philox against the known answers of its authors' Random123 package; draws as pure functions of their coordinates."""
import math

import numpy as np
import pytest
import torch
from kit import Captured

from semilib.data import rng

KNOWN = [  # counter words, key words, output words: kat_vectors of Random123, philox4x32-10
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    ((0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344), (0xA4093822, 0x299F31D0),
     (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1)),
]


@pytest.mark.parametrize("counter, key, expected", KNOWN)
def test_known_answers(counter, key, expected):
    out = rng.philox(*(torch.tensor([c]) for c in counter), *key)
    assert tuple(int(w) for w in out) == expected


def test_a_draw_depends_on_its_coordinates_alone():
    all_rows = rng.words(7, "strong1", 123, rows=6, n=9)
    assert torch.equal(rng.words(7, "strong1", torch.tensor(123), rows=3, n=5), all_rows[:3, :5])
    for other in (rng.words(8, "strong1", 123, 6, 9), rng.words(7, "strong2", 123, 6, 9),
                  rng.words(7, "strong1", 124, 6, 9)):
        assert (other != all_rows).float().mean() > 0.9
    assert all_rows.unique().numel() == all_rows.numel()


def test_steps_beyond_32_bits_differ():
    assert not torch.equal(rng.words(0, "a", 5, 2, 4), rng.words(0, "a", 5 + 2**32, 2, 4))


def test_uniform_and_integers_cover_their_range():
    w = rng.words(0, "range", 0, rows=20000, n=1)
    u = rng.uniform(w)
    assert u.dtype == torch.float32 and 0 <= float(u.min()) < 1e-3 and 0.999 < float(u.max()) < 1
    assert abs(float(u.mean()) - 0.5) < 0.01
    counts = torch.bincount(rng.integers(w, 14).flatten(), minlength=14)
    assert counts.shape == (14,) and (counts - 20000 / 14).abs().max() < 5 * (20000 / 14) ** 0.5
    edge = torch.tensor([0, rng.MASK])
    assert rng.uniform(edge).tolist() == [0.0, 1 - 2.0**-24] and rng.integers(edge, 10).tolist() == [0, 9]


GRID = (torch.arange(20000, dtype=torch.float64) + 0.5) / 20000


@pytest.mark.parametrize("a, quantile", [(0.5, lambda u: torch.sin(math.pi / 2 * u).square()), (1.0, lambda u: u)])
def test_beta_equals_its_closed_forms(a, quantile):
    """Beta(1/2, 1/2) is the arcsine law, Beta(1, 1) the uniform one."""
    torch.testing.assert_close(rng.beta(GRID, a), quantile(GRID), rtol=0, atol=2e-8)


def beta_cdf(x: np.ndarray, a: float) -> np.ndarray:
    """Distribution function of Beta(a, a) at x <= 1/2: with t = s^(1/a) the integrand t^(a-1) (1-t)^(a-1) dt becomes
    smooth, (1 - s^(1/a))^(a-1) ds / a; Simpson's rule over 2,000 steps."""
    s, weight = np.linspace(0, x**a, 2001), np.full(2001, 2.0)
    weight[1::2], weight[[0, -1]] = 4, 1
    integral = (weight[:, None] * (1 - s ** (1 / a)) ** (a - 1)).sum(0) * x**a / 2000 / 3
    return integral / a * math.gamma(2 * a) / math.gamma(a) ** 2


@pytest.mark.parametrize("a", [0.5, 0.75, 1.0])
def test_beta_has_its_distribution_function(a):
    assert np.allclose(beta_cdf(np.array([0.5]), a), 0.5, atol=1e-9)
    u = GRID[::97]
    x = rng.beta(u, a)
    lower = x <= 0.5
    found = torch.from_numpy(beta_cdf(torch.minimum(x, 1 - x).numpy(), a))
    torch.testing.assert_close(torch.where(lower, found, 1 - found), u, rtol=0, atol=5e-7)
    torch.testing.assert_close(rng.beta(1 - u, a), 1 - x, rtol=0, atol=1e-9)                     # symmetric about 1/2


@pytest.mark.parametrize("a", [0.5, 0.75, 1.0, 4.0])
def test_beta_has_its_moments(a):
    """Mean 1/2, variance 1 / (4 (2 a + 1)), fourth central moment 3 / (16 (2 a + 1) (2 a + 3)):
    of the grid, and of draws."""
    for u, tolerance in ((GRID, 1e-4), (rng.uniform(rng.words(0, "mix", 0, 40000, 1)).double(), 0.006)):
        x = rng.beta(u, a) - 0.5
        for power, want in ((1, 0.0), (2, 1 / (4 * (2 * a + 1))), (4, 3 / (16 * (2 * a + 1) * (2 * a + 3)))):
            assert abs(float((x**power).mean()) - want) < tolerance, (power, want)


@pytest.mark.parametrize("a", [0.5, 0.75, 1.0])
def test_beta_of_the_ends_of_the_unit_interval(a):
    ends = rng.uniform(torch.tensor([0, 1 << 8, rng.MASK]))
    x = rng.beta(ends.double(), a).tolist()
    assert x[0] == 0 < x[1] < 1e-5 and 1 - 1e-4 < x[2] <= 1
    assert torch.isfinite(rng.beta(ends, a)).all() and (rng.beta(ends, a) <= 1).all()
    assert (rng.beta(GRID, a).diff() > 0).all()


def test_beta_keeps_shape_and_type_and_is_a_function():
    w = rng.words(3, "mix", 7, 5, 4)
    for dtype in (torch.float32, torch.float64):
        for u in (rng.uniform(w).to(dtype), rng.uniform(w).to(dtype).T, rng.uniform(w[0, 0]).to(dtype)):
            x = rng.beta(u, 0.75)
            assert x.shape == u.shape and x.dtype == dtype
            assert torch.equal(x, rng.beta(u, 0.75))
            assert torch.allclose(x, rng.beta(u.double(), 0.75).to(dtype), atol=1e-6)
    assert torch.equal(rng.beta(rng.uniform(w), 0.75)[2], rng.beta(rng.uniform(w[2]), 0.75))


def test_beta_reads_nothing_back_and_copies_its_table_once():
    u = rng.uniform(rng.words(0, "mix", 0, 8, 1))
    want = rng.beta(u, 0.75)
    with Captured():
        assert rng.beta(u, 0.75).shape == want.shape
    table = rng._beta_table(0.75, 8192, u.device)
    assert table is rng._beta_table(0.75, 8192, u.device) and table.device == u.device
    assert rng.beta(torch.empty(8, 1, device="meta"), 0.75).shape == (8, 1)                      # no value is looked at


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_beta_can_be_captured_on_a_gpu():
    u = rng.uniform(rng.words(0, "mix", 0, 64, 1, "cuda"))
    want = rng.beta(u, 0.75)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = rng.beta(u, 0.75)
    graph.replay()
    torch.testing.assert_close(out, want, rtol=0, atol=0)
    torch.testing.assert_close(out.cpu(), rng.beta(u.cpu(), 0.75), rtol=0, atol=1e-6)


def test_permutation():
    p = rng.permutation(3, "order", 0, 1000)
    assert torch.equal(p.sort().values, torch.arange(1000)) and not torch.equal(p, rng.permutation(3, "order", 1, 1000))


def test_generators_leave_the_global_state_alone():
    before = torch.get_rng_state()
    a = torch.randn(3, generator=rng.generator(0, "w"))
    assert torch.equal(a, torch.randn(3, generator=rng.generator(0, "w")))
    assert torch.equal(torch.get_rng_state(), before)
