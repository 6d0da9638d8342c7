"""Loss pieces, FixMatch and the supervised baseline, averages and learning rates:
the values that the references state."""
from __future__ import annotations

import math

import kit
import pytest
import torch
from kit import close, f64, view, views
from torch import nn

from semilib.errors import BadInput
from semilib.methods.losses import Term, ce, log_prior, normalised_entropy, one_hot, reduce
from semilib.networks.ema import Average
from semilib.training.config import Run
from semilib.training.engine import rate

ROWS, WEIGHT = f64([1.0, 2.0, 4.0, 8.0]), f64([1.0, 0.5, 0.0, 0.25])

# ---- reduce ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight, total, weights",
                         [(None, 15.0, 4.0), (WEIGHT, 4.0, 1.75), (f64([1.0] * 4), 15.0, 4.0)])
@pytest.mark.parametrize("scale", [1.0, 0.5, torch.tensor(3.0, dtype=torch.float64), 0])
def test_reduce_divides_the_weighted_sum_by_its_denominator(weight, total, weights, scale):
    divisors = {"rows": 4.0, 10: 10.0, 2.5: 2.5}
    if weight is not None:
        divisors["weight"] = weights
    for denominator, divisor in divisors.items():
        have = reduce(Term(ROWS, weight, denominator, scale))
        assert have.ndim == 0
        close(have, float(scale) * total / divisor, 1e-11)
    close(reduce(Term(ROWS, weight)), total / 4, 1e-12)


def test_a_term_without_weight_has_weight_one_under_every_denominator():
    close(reduce(Term(ROWS, None, "weight")), 15 / 4, 1e-11)


def test_masked_rows_count_in_the_denominator_rows_and_not_in_weight():
    mask = f64([1, 0, 0, 0])
    close(reduce(Term(ROWS, mask)), 0.25, 1e-12)
    close(reduce(Term(ROWS, mask, "weight")), 1.0, 1e-9)


def test_a_term_with_no_row_left_is_zero_and_has_a_finite_gradient():
    rows = ROWS.clone().requires_grad_()
    loss = reduce(Term(rows, torch.zeros(4).double(), "weight"))
    loss.backward()
    assert loss.item() == 0 and not rows.grad.any()


def test_the_denominator_weight_reproduces_cpe():
    """methods-a 5.8: rows of three norms with nested masks, divided by the number of selected pairs."""
    strong = f64([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    label = torch.tensor([0, 3, 4, 0])
    rows = torch.cat([ce(k * strong, label) for k in (1, 2, 3)])
    mask = f64([1, 1, 1, 0, 0, 1, 1, 0, 0, 0, 1, 0])
    close((rows * mask).sum(), 3.761415)
    close(reduce(Term(rows, mask, "weight")), 0.626902)


# ---- cross-entropy and priors ----------------------------------------------------------------------------------------


def test_cross_entropy_takes_classes_and_probabilities():
    close(ce(kit.A.X, kit.A.y).mean(), 0.896378)
    close(ce(kit.B.X, kit.B.y), [.407606, .911901])
    close(ce(kit.B.S, kit.B.W.argmax(-1)), [.306356, .665732, .385077, 1.001943])
    close(ce(kit.A.S1, kit.A.W.argmax(-1)), [.407606, .958020, .839546, .407606])
    soft = f64([[.7, .2, .1], [0, .5, .5]])
    slow = [-sum(q * math.log(math.exp(z) / sum(map(math.exp, row))) for q, z in zip(target, row))
            for target, row in zip(soft.tolist(), kit.A.X.tolist())]
    close(ce(kit.A.X, soft), slow, 1e-12)
    close(ce(kit.A.X, nn.functional.one_hot(kit.A.y, 3).double()), ce(kit.A.X, kit.A.y), 1e-12)


def test_the_adjustment_of_a_prior():
    close(log_prior(kit.A.pi, 2), [-0.713350, -3.218876, -4.605170])
    close(log_prior(kit.B.pi, 1), [-.336472, -1.540445, -2.639057])
    close(log_prior(f64([1, 0]), 2), [0, math.log(1e-12)])


@pytest.mark.parametrize("tau, value", [(0, 0.896378), (1, 1.333223), (2, 2.063920), (4, 3.901754)])
def test_logit_adjusted_cross_entropy(tau, value):
    close(ce(kit.A.X + log_prior(kit.A.pi, tau), kit.A.y).mean(), value)


@pytest.mark.parametrize("tau, rows, mean", [
    (.5, [.218567, 1.512447], .865507), (1, [.116802, 2.318399], 1.217601), (2, [.033882, 4.322815], 2.178348)])
def test_logit_adjusted_cross_entropy_of_the_second_toy(tau, rows, mean):
    have = ce(kit.B.X + log_prior(kit.B.pi, tau), kit.B.y)
    close(have, rows)
    close(have.mean(), mean)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_one_hot_is_torchs_without_its_read_back(dtype):
    label = torch.tensor([2, 0, 1, 2])
    out = one_hot(label, 3, dtype)
    assert out.dtype == dtype and torch.equal(out, torch.nn.functional.one_hot(label, 3).to(dtype))
    assert one_hot(torch.tensor([-1, 1]), 3, dtype).tolist() == [[0, 0, 0], [0, 1, 0]]      # no label: a row of zeros
    assert torch.equal(one_hot(label.view(2, 2), 3, dtype), out.view(2, 2, 3))
    with kit.Captured():
        one_hot(label, 3, dtype)
    with kit.Captured(), pytest.raises(AssertionError):
        torch.nn.functional.one_hot(label)


@pytest.mark.parametrize("prob, value", [
    ([1 / 3] * 3, 1.0), ([.25] * 4, 1.0), ([.5, .25, .25], 1.5 * math.log(2) / math.log(3)), ([.5, .5, 0, 0], 0.5),
    # a certain row: two entries at the clamp 1e-8 and one at 1 - 1e-8
    ([1, 0, 0], (2e-8 * 8 * math.log(10) + 1e-8) / math.log(3)), ([.9, .1], .325083 / math.log(2))])
def test_normalised_entropy_of_hand_values(prob, value):
    close(normalised_entropy(f64([prob])), [value], 1e-6)
    assert float(normalised_entropy(f64([prob]))) >= 0


def test_normalised_entropy_clamps():
    close(normalised_entropy(f64([[1, 0, 0]])), [(2e-8 * 8 * math.log(10) + 1e-8) / math.log(3)], 1e-13)
    assert torch.isfinite(normalised_entropy(f64([[1.2, -0.2, 0.0]]))).all()


# ---- the baselines, through their own functions ----------------------------------------------------------------------


def losses_of(m, v, y, step: int = 0):
    p = m.pseudo(v, None, kit.time(step))
    return p, kit.values(m.terms(v, kit.SimpleNamespace(y=y), p, kit.time(step)))


@pytest.mark.parametrize("tensors, value", [(kit.A, 0.896378), (kit.B, .659754)])
def test_supervised(tensors, value):
    p, losses = losses_of(kit.method("supervised"), views(l=view(tensors.X)), tensors.y)
    assert p is None and list(losses) == ["x"]
    close(losses["x"], value)


def test_fixmatch_with_one_strong_view():
    m = kit.method("fixmatch", {"strong_views": 1})
    p, losses = losses_of(m, views(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1)), kit.A.y)
    assert p.mask.tolist() == [1, 0, 1, 0] and p.label.tolist() == [0, 1, 2, 1]
    close(p.prob.amax(-1), [0.964663, 0.506480, 0.985253, 0.891084])
    close(losses["x"], 0.896378)
    close(losses["u"], 0.311788)
    close(sum(losses.values()), 1.208166)


@pytest.mark.parametrize("tau, mask, value", [
    (.80, [1, 1, 1, 0], .339291), (.90, [1, 0, 1, 0], .172858), (.95, [0, 0, 1, 0], .096269)])
def test_fixmatch_at_several_thresholds(tau, mask, value):
    m = kit.method("fixmatch", {"strong_views": 1, "threshold": tau})
    p, losses = losses_of(m, views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S)), kit.B.y)
    assert p.mask.tolist() == mask
    close(losses["u"], value)
    if tau == .80:
        close(sum(losses.values()), .999045)


def test_fixmatch_with_two_strong_views_takes_one_mean_over_both():
    m = kit.method("fixmatch", {"threshold": .80})
    v = views(l=view(kit.B.X), w=view(kit.B.W), s1=view(kit.B.S), s2=view(kit.B.Sa))
    p, losses = losses_of(m, v, kit.B.y)
    close(m.terms(v, kit.SimpleNamespace(y=kit.B.y), p, kit.time(0))["u"].rows,
          [.306356, .665732, .385077, 1.001943, .597301, .794377, .512269, 1.365732])
    close(losses["u"], .407639)


def test_fixmatch_counts_a_confidence_at_the_threshold_and_scales_by_lambda():
    even = f64([[0, 0], [0, 0.1]])
    v = views(l=view(even), w=view(even), s1=view(even))
    p, once = losses_of(kit.method("fixmatch", {"strong_views": 1, "threshold": 0.5}, counts=(2, 1)), v,
                        torch.tensor([0, 1]))
    assert p.mask.tolist() == [1, 1]
    twice = losses_of(kit.method("fixmatch", {"strong_views": 1, "threshold": 0.5, "lambda_u": 2.0}, counts=(2, 1)), v,
                      torch.tensor([0, 1]))[1]
    close(twice["u"], 2 * once["u"], 1e-12)
    close(twice["x"], once["x"], 0)


def test_two_equal_strong_views_are_one():
    v = dict(l=view(kit.A.X), w=view(kit.A.W), s1=view(kit.A.S1))
    _, one = losses_of(kit.method("fixmatch", {"strong_views": 1}), views(**v), kit.A.y)
    _, two = losses_of(kit.method("fixmatch"), views(**v, s2=view(kit.A.S1)), kit.A.y)
    close(one["u"], two["u"], 1e-12)


# ---- averages --------------------------------------------------------------------------------------------------------


class One(nn.Module):
    """One parameter, one floating and one integer buffer, all with the same value."""

    def __init__(self, value: float):
        super().__init__()
        self.w = nn.Parameter(f64([value]))
        self.register_buffer("b", f64([value]))
        self.register_buffer("n", torch.tensor([int(value)]))

    def set(self, value: float) -> None:
        with torch.no_grad():
            for tensor in (self.w, self.b, self.n):
                tensor.fill_(value)


def update(average: Average, step: int, lr: float = 0.0) -> list[float]:
    average.update(torch.tensor(step), torch.tensor(lr))
    return [float(average.net.w), float(average.net.b), float(average.net.n)]


def test_the_average_of_parameters_copies_buffers():
    live = One(1)
    average = Average(live, 0.999)
    live.set(2)
    close(update(average, 0), [1.001, 2, 2])
    live.set(3)
    close(update(average, 1), [1.002999, 3, 3])
    assert live.w.item() == 3 and not average.net.w.requires_grad and not average.net.training and live.training


@pytest.mark.parametrize("step, decay",
                         [(0, 0), (1, .5), (9, .9), (998, .998999), (999, .999), (1000, .999), (10**6, .999)])
def test_the_warm_up_average_begins_with_small_decays_and_averages_buffers(step, decay):
    live = One(0)
    average = Average(live, 0.999, "warmup")
    live.set(1)
    close(update(average, step), [1 - decay, 1 - decay, 1])


def test_the_first_step_of_the_warm_up_average_is_the_live_network_exactly():
    net = nn.Sequential(nn.Linear(64, 64), nn.BatchNorm1d(64))
    average = Average(net, 0.999, "warmup")
    with torch.no_grad():
        net[0].weight.copy_(torch.randn(64, 64, generator=torch.Generator().manual_seed(0)))
    average.update(torch.tensor(0), torch.tensor(0.1))
    kit.same_state(average.net.state_dict(), net.state_dict())


@pytest.mark.parametrize("weight_decay, lr, live_after", [(.02, .002, 1.99992), (.04, .0015, 1.999880)])
def test_the_decaying_average_shrinks_every_live_float_after_averaging(weight_decay, lr, live_after):
    live = One(1)
    average = Average(live, 0.999, "decaying", weight_decay)
    live.set(2)
    close(update(average, 0, lr), [1.001, 1.001, 2])
    close([live.w.item(), live.b.item(), live.n.item()], [live_after, live_after, 2])


def test_an_average_starts_as_a_copy_and_shares_nothing():
    live = One(1)
    average = Average(live, 0.9)
    assert float(average.net.w) == 1
    live.set(5)
    assert float(average.net.w) == 1 and float(average.net.b) == 1
    with pytest.raises(BadInput, match="ema_rule='mean'"):
        Average(live, 0.9, "mean")


def test_a_run_with_the_decaying_average_leaves_weight_decay_to_it():
    plain, decaying = (kit.trainer("supervised", ema_rule=rule) for rule in ("parameters", "decaying"))
    assert [g["weight_decay"] for g in plain.optimisers[0].param_groups] == [plain.run.weight_decay, 0.0]
    assert {g["weight_decay"] for g in decaying.optimisers[0].param_groups} == {0.0}


# ---- learning rates --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k, value", [
    (0, 0.03), (1, 0.029999971663), (500, 0.023190313601), (999, 0.005893145235), (1000, 0.005852709660)])
def test_the_cosine_rate(k, value):
    run = Run.of("cifar10", "fixmatch", steps=1000)
    have = rate(run, torch.tensor(k) / torch.tensor(1000, dtype=torch.float64))
    assert run.lr == 0.03 and have.ndim == 0 and have.dtype == torch.float64
    close(have, value, 1e-12)


@pytest.mark.parametrize("t, value", [(0, 1), (.25, .941544), (.5, .77301), (.75, .514103), (1, .19509)])
def test_the_cosine_spans_seven_sixteenths_of_pi(t, value):
    close(rate(Run.of("cifar10", "fixmatch", lr=1.0), f64(t)), value)
    close(rate(Run.of("cifar10", "fixmatch", lr=1.0, rate="constant"), f64(t)), 1)


@pytest.mark.parametrize("t, value", [(0, 1), (.25, .998795), (.5, .995185), (.75, .989177), (1, .980785)])
def test_the_slow_cosine_spans_a_sixteenth_of_pi(t, value):
    close(rate(Run.of("cifar10", "fixmatch", lr=1.0, rate="slow_cosine"), f64(t)), value)
    with pytest.raises(BadInput, match="rate='slow': unknown; did you mean 'slow_cosine'"):
        Run.of("cifar10", "fixmatch", rate="slow")


@pytest.mark.parametrize("t, value",
                         [(0, 0), (.0125, .5), (.025, 1), (.4999, 1), (.5, .1), (.74, .1), (.75, .01), (.99, .01)])
def test_the_stepped_rate_rises_over_a_fortieth_and_falls_to_a_tenth_twice(t, value):
    close(rate(Run.of("cifar10", "fixmatch", lr=1.0, rate="stepped"), f64(t)), value, 1e-12)


@pytest.mark.parametrize("kind, sixteenths", [("cosine", 7), ("slow_cosine", 1), ("constant", 0)])
def test_a_run_uses_the_rate_of_its_zero_based_step(kind, sixteenths):
    t = kit.trainer("supervised", lr=0.03, rate=kind)
    for step in range(3):
        t.advance()
        close(float(t.lr), 0.03 * math.cos(sixteenths * math.pi * step / (16 * t.total)), 1e-8)
        assert all(group["lr"] is t.lr for group in t.optimisers[0].param_groups)
