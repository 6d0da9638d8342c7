"""FARAD: the spectrum, the two kinds of phases, the reference in a step and at test, and what is left without it."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import close, f64, view, views

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput
from semilib.methods.farad import clouds, half_phases, noise_phases, spectrum
from semilib.training.config import Run

START = 50_500
TOY = views(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1), s2=view(kit.A.S2))
ROW, COLUMN = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
IMAGES = torch.stack([((3 * ROW + 5 * COLUMN) % 7).double() / 4 - .5,
                      ((2 * ROW + 3 * COLUMN + 1) % 5).double() / 3 - .6])[:, None]
NOISE = (((7 * ROW + 11 * COLUMN + 3) % 13).double() / 13)[None, None]
A = spectrum(IMAGES)
HALF = [[-.075520, -.093368, -.415603, .000119], [.174913, .257918, -.165169, -1.043542],
        [-.125039, -.319790, -.465122, .981670], [.125395, .031496, -.214688, -.061990]]
KEPT = [[-.210338, -.317612, .858027, .631967], [.588205, -.050900, .178563, -.348999],
        [-.083027, -.190301, -.722996, .759278], [.721437, .082332, .311795, -.215767]]


def independent() -> torch.Tensor:
    u, v = torch.meshgrid(torch.arange(4), torch.arange(3), indexing="ij")
    return half_phases(((5 * u + 3 * v + 1) % 8).double()[None, None] / 8)


def losses(blank, at=START, **options):
    m = kit.method("farad", options, steps=250_000)
    batch, t = Batch(y=kit.A.y, notes=Notes(blank=f64([blank]))), kit.time(at, 250_000)
    p = m.pseudo(TOY, batch, t)
    return p, kit.values(m.terms(TOY, batch, p, t))


def toy_network(x):
    return 2 * x[:, 0][:, [0, 1, 3], [0, 2, 3]]


# ---- the reference image ---------------------------------------------------------------------------------------------


def test_the_spectrum_is_the_mean_of_amplitudes_and_at_frequency_0_the_signed_mean():
    close(A[0], [[1.991667, 1.360330, 1.291667], [1.312184, 1.708333, 1.708333], [.541667, 2.789893, 3.375],
                 [1.312184, 1.708333, 1.708333]])
    close(spectrum(-IMAGES)[0, 0, 0], -1.991667)


def test_noise_phases_keep_every_amplitude_and_the_mean_colour():
    x = clouds(A, noise_phases(NOISE), IMAGES)
    close(x[0, 0], KEPT)
    close(torch.fft.rfft2(x).abs()[0], A, 1e-14)
    close(x.mean(), IMAGES.mean(), 1e-15)
    one_colour = torch.zeros_like(A)
    one_colour[:, 0, 0] = 16 * .3
    close(clouds(one_colour, noise_phases(NOISE), IMAGES), torch.full_like(NOISE, .3), 1e-15)


def test_independent_phases_lose_amplitude_in_the_columns_that_are_their_own_mirror():
    x = clouds(A, independent(), IMAGES)
    close(x[0, 0], HALF)
    close(torch.fft.rfft2(x).abs()[0, 0], [[1.408321, 1.360330, .913346], [.927854, 1.708333, 1.207974],
                                           [.383016, 2.789893, 2.386485], [.927854, 1.708333, 1.207974]])


@pytest.mark.parametrize("phases, image, blank, want, everywhere", [
    ("half", HALF, [-.151041, -.330339, -.123981], (.896378, .795744), (.977367, .803842)),
    ("noise", KEPT, [-.420675, .357126, -.431534], (.896378, .869092), (.656508, .839898))])
def test_the_toy_tensors(phases, image, blank, want, everywhere):
    close(toy_network(f64(image)[None, None]), [blank])
    p, found = losses(blank, phases=phases)
    assert torch.equal(p.target, p.prob) and p.mask.tolist() == [1] * 4
    close([found["x"], found["u"]], want)
    _, found = losses(blank, phases=phases, subtract="all")
    close([found["x"], found["u"]], everywhere)


def test_before_its_start_nothing_is_subtracted_anywhere():
    for subtract in ("pseudo", "all"):
        close(losses([-.4, .3, -.4], START - 1, subtract=subtract)[1]["u"], .808986)


def test_a_constant_in_the_reference_s_logits_changes_nothing():
    _, want = losses([1.2, .3, -.5])
    _, have = losses([4.2, 3.3, 2.5])
    close(have["u"], want["u"], 1e-12)
    close(want["u"], .870372)


# ---- in training and at test -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("base", ["", "remixmatch"])
def test_with_the_blank_image_it_is_cdmad_to_the_last_bit(base, monkeypatch):
    t, blank = kit.trainer("farad", {"start": 2}, base=base), torch.ones(1, 3, 16, 16)
    monkeypatch.setattr(t.method, "reference", lambda images, batch, now: blank)
    monkeypatch.setattr(t.method, "end_step", lambda *given: None)
    monkeypatch.setattr(t.method, "test_reference", lambda x: blank)
    want = kit.trainer("cdmad", {"start": 2}, base=base)
    assert kit.losses_of(t, range(5)) == kit.losses_of(want, range(5))
    assert torch.equal(t.predictions(), want.predictions())


def test_a_step_s_reference_has_the_spectrum_of_its_images_and_fresh_phases():
    t, seen = kit.trainer("farad", {"references": 2}), []
    reference = t.method.reference

    def watched(images, batch, now):
        x = reference(images, batch, now)
        close(torch.fft.rfft2(x.double()).abs()[:, :, 1:], spectrum(torch.cat([images["l"], images["w"]]).double())
              .expand(2, -1, -1, -1)[:, :, 1:], 1e-3)
        seen.append((x, batch.notes.amplitudes))
        return x
    t.method.reference = watched
    kit.losses_of(t, range(2))
    (first, one), (second, two) = seen
    assert first.shape == (2, 3, 16, 16) and not torch.allclose(first[0], first[1])
    assert not torch.allclose(first, second) and not torch.allclose(first[:, 0], first[:, 1], atol=.1)
    mean = t.method.momentum * one + (1 - t.method.momentum) * two
    close(spectrum(t.method.clouds)[:, :, 1:], mean[:, :, 1:], 1e-3)


def test_the_test_s_references_are_the_same_for_every_batch_unless_it_is_asked_otherwise():
    for amplitudes, same in (("mean", True), ("batch", False)):
        t = kit.trainer("farad", {"test_amplitudes": amplitudes, "test_references": 3})
        kit.losses_of(t, range(2))
        x = t.data.normalise(t.source.test_images, t.dtype)
        one, other = t.method.test_reference(x[:5]), t.method.test_reference(x[5:])
        assert one.shape == (3, 3, 16, 16) and torch.equal(one, other) is same
        net = t.average.net
        with torch.no_grad():
            want = net(x[:5])["head"] - net(one)["head"].mean(0)
            close(t.method.predict(net, x[:5]), want, 1e-6)


def test_on_features_the_references_are_pictures_that_were_encoded_once():
    asked = []

    def encoded(x):
        asked.append(x)
        return x.flatten(1)[:, :6, None, None]
    m = kit.method("farad")
    info = m.info.__class__(**{**vars(m.info), "side": 4, "encoded": encoded,
                               "pictures": lambda n: IMAGES.expand(2, 3, 4, 4)})
    m = type(m)(m.cfg, info)
    m.build()
    (made,) = asked
    assert made.shape == (64, 3, 4, 4)
    close(torch.fft.rfft2(made).abs(), A.abs().expand(64, 3, 4, 3), 1e-9)
    one, again, next_one = (m.reference({}, Batch(), kit.time(step)) for step in (3, 3, 4))
    assert one.shape == (1, 6, 1, 1) and torch.equal(one, again) and not torch.equal(one, next_one)
    assert torch.equal(m.test_reference(one), m.encoded[:16])


# ---- recipes, refusals -----------------------------------------------------------------------------------------------


def test_what_cannot_be_combined_is_refused():
    with pytest.raises(BadInput, match="subtract='all': pseudo on remixmatch"):
        kit.method("farad", {"subtract": "all"}, base="remixmatch")
    with pytest.raises(BadInput, match="test_amplitudes='batch': mean with an encoder"):
        Run.of("cifar10", "farad", profile="features", options={"test_amplitudes": "batch"})
    with pytest.raises(BadInput, match="preset='released': unknown"):
        Run.of("cifar10", "farad", options={"preset": "released"})


def test_on_remixmatch_the_published_recipe_aligns_nothing():
    run = Run.of("cifar10", "farad", base="remixmatch", recipe="original")
    assert (run.options["align"], run.options["temperature"], run.options["blank_pass"]) == (False, 1.0, "eval")
