"""Philox against the known answers of its authors' Random123 package; draws as pure functions of their coordinates."""
import pytest
import torch

from semilib import rng

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
    for other in (rng.words(8, "strong1", 123, 6, 9), rng.words(7, "strong2", 123, 6, 9), rng.words(7, "strong1", 124, 6, 9)):
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


def test_permutation():
    p = rng.permutation(3, "order", 0, 1000)
    assert torch.equal(p.sort().values, torch.arange(1000)) and not torch.equal(p, rng.permutation(3, "order", 1, 1000))


def test_generators_leave_the_global_state_alone():
    before = torch.get_rng_state()
    a = torch.randn(3, generator=rng.generator(0, "w"))
    assert torch.equal(a, torch.randn(3, generator=rng.generator(0, "w")))
    assert torch.equal(torch.get_rng_state(), before)
