"""CPE: its equations on toy tensors and by hand, its head against three whole batch norms, its cuts,
and SeMi's modules on it."""
from __future__ import annotations

from types import SimpleNamespace

import kit
import numpy as np
import pytest
import torch
from kit import close, f64
from torch import nn

from semilib.errors import BadInput
from semilib.methods.cpe import Affine, Experts
from semilib.methods.losses import reduce
from semilib.methods.semi import entropy_weight
from semilib.networks.backbones import initialise, make_backbone
from semilib.networks.net import Net, View, Views
from semilib.training.engine import decay_groups


def views(**experts) -> Views:
    """Views of these logits [n, head, norm, C] each."""
    return Views({name: View({"experts": z}, torch.zeros(len(z), 4).double()) for name, z in experts.items()},
                 [name for name in experts if name.startswith("s")])


def equal_heads(*norms) -> torch.Tensor:
    """Three heads that agree, from the logits [n, C] of the three norms."""
    return torch.stack(norms, 1).unsqueeze(1).expand(-1, 3, -1, -1)


def drawn(rows: int = 8, classes: int = 5, seed: int = 0):
    g = torch.Generator().manual_seed(seed)
    z = {name: 2 * torch.randn(rows, 3, 3, classes, generator=g, dtype=torch.float64)
         for name in ("l", "w", "s1", "s2")}
    return views(**z), SimpleNamespace(y=torch.randint(0, classes, (rows,), generator=g))


def step(m, v, batch):
    p = m.pseudo(v, batch, kit.time(0))
    return p, m.terms(v, batch, p, kit.time(0))


# ---- the equations ---------------------------------------------------------------------------------------------------


def test_the_toy_tensors():
    hot = f64([[1, 0, 0, 0, 0], [0, 0, 0, 1, 0], [0, 0, 0, 0, 1], [0, 0, 0, 0, 0]])
    weak = f64([[5, 0, 0, 0, 0], [0, 0, 0, 5, 0], [0, 0, 0, 0, 6], [1, 1, 0, 0, 0]])
    shift = f64([[1, 0, 2, 0, 0]])                     # weak norms that differ and have `weak` as their mean
    x = f64([[1, 0, 0, 0, 0], [0, 0, 1, 0, 0]])
    m = kit.method("cpe", {"strong_views": 1, "cut_1": 2, "cut_2": 4}, counts=(8, 4, 2, 1, 1))
    v = views(l=equal_heads(x, x, x), w=equal_heads(weak, weak + shift, weak - shift),
              s1=equal_heads(hot, 2 * hot, 3 * hot))
    p, terms = step(m, v, SimpleNamespace(y=torch.tensor([0, 4])))
    close(p.prob.max(-1).values, [.973756, .973756, .990182, .322202])
    assert p.label.tolist() == [0, 3, 4, 0] and p.mask.tolist() == [1, 1, 1, 0]
    for k in range(3):
        assert p.masks[:, k].T.tolist() == [[1, 1, 1, 0], [0, 1, 1, 0], [0, 0, 1, 0]]
        term = terms[f"u{k + 1}"]
        close(term.rows[[0, 4, 8]], [.904832, .432653, .181612])
        close((term.rows * term.weight).sum(), 3.761415)
        assert float(term.weight.sum()) == 6
        close(reduce(term), .626902)
    close([float(reduce(terms[f"x{k}"])) for k in (1, 2, 3)], [1.404832, 2.325157, 4.206550])
    close(sum(float(reduce(term)) for term in terms.values()), 9.817247)


@pytest.mark.parametrize("counts", [(9, 6, 4, 2, 1), (2, 9, 1, 6, 4)])
def test_heads_norms_and_views_row_by_row(counts):
    """A slow twin; classes are cut by their rank in the labelled counts, wherever they stand."""
    m = kit.method("cpe", {"threshold": .5, "cut_1": 1, "cut_2": 3, "lambda_u": .7}, counts=counts)
    v, batch = drawn()
    _, terms = step(m, v, batch)
    pi = np.array(counts) / sum(counts)
    rank = {c: r for r, c in enumerate(sorted(range(5), key=lambda c: -counts[c]))}

    def soft(z):
        return np.exp(z) / np.exp(z).sum()
    for k, tau in enumerate((0, 2, 4)):
        z = {name: v[name]["experts"][:, k].numpy() for name in ("l", "w", "s1", "s2")}
        want = [-np.log(soft(z["l"][i].mean(0) + tau * np.log(pi))[y]) for i, y in enumerate(batch.y.tolist())]
        close(reduce(terms[f"x{k + 1}"]), np.mean(want), 1e-10)
        total, chosen = 0.0, 0
        for i in range(8):
            p = soft(z["w"][i].mean(0))
            label = int(p.argmax())
            for n, cut in enumerate((0, 1, 3)):
                if p[label] >= .5 and rank[label] >= cut:
                    total -= np.log(soft(z["s1"][i, n])[label]) + np.log(soft(z["s2"][i, n])[label])
                    chosen += 2
        assert 6 < chosen < 40
        close(reduce(terms[f"u{k + 1}"]), .7 * total / chosen, 1e-10)


def test_with_cuts_beyond_the_classes_head_1_is_fixmatch_over_its_sure_rows():
    m = kit.method("cpe", {"threshold": .6, "cut_1": 5, "cut_2": 5}, counts=(9, 6, 4, 2, 1))
    v, batch = drawn()
    one = Views({name: View({"experts": v[name]["experts"][:, :, :1].expand(-1, -1, 3, -1)}, v[name].f)
                 for name in ("l", "w", "s1", "s2")},
                ["s1", "s2"])
    p, terms = step(m, one, batch)
    fixmatch = kit.method("fixmatch", {"threshold": .6}, counts=(9, 6, 4, 2, 1))
    plain = Views({name: View({"head": one[name]["experts"][:, 0, 0]}, one[name].f)
                   for name in ("l", "w", "s1", "s2")}, ["s1", "s2"])
    q, want = step(fixmatch, plain, batch)
    assert torch.equal(p.mask, q.mask) and torch.equal(p.label, q.label) and 0 < p.mask.sum() < 8
    close(reduce(terms["x1"]), reduce(want["x"]), 1e-12)
    close(reduce(terms["u1"]), reduce(want["u"]) * 8 / p.mask.sum(), 1e-9)
    assert "tail" not in m.must_act and set(m.must_act) == {"u1", "u2", "u3"}


def test_a_batch_without_a_sure_row_has_no_unsupervised_loss_and_no_nan():
    m = kit.method("cpe", {"threshold": 1.0}, counts=(9, 6, 4, 2, 1))
    _, terms = step(m, *drawn())
    assert all(float(reduce(terms[f"u{k}"])) == 0 for k in (1, 2, 3))


@pytest.mark.parametrize("classes, cuts",
                         [(10, (2, 4)), (100, (35, 70)), (127, (25, 50)), (4, (1, 2)), (3, (1, 2)), (2, (1, 1))])
def test_the_cuts_follow_the_number_of_classes(classes, cuts):
    m = kit.method("cpe", counts=(2,) * classes)
    assert m.cuts == cuts and m.first.tolist() == [0, *cuts] and "tail" in m.must_act
    assert kit.method("cpe", {"cut_2": classes}, counts=(2,) * classes).cuts == (cuts[0], classes)


def test_sets_of_classes_that_are_not_nested_are_refused():
    with pytest.raises(BadInput, match="cut_1=4: at most cut_2=3"):
        kit.method("cpe", {"cut_1": 4, "cut_2": 3}, counts=(9, 6, 4, 2, 1))


# ---- the head --------------------------------------------------------------------------------------------------------


class ThreeNorms(nn.Module):
    """The head as released: three whole batch norms before pooling."""

    reads = "map"

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(features, classes) for _ in range(3))

    def forward(self, fmap):
        f = torch.stack([norm(fmap).mean((2, 3)) for norm in self.norms], 1)
        return torch.stack([head(f) for head in self.linears], 1)


def test_one_norm_and_three_affine_pairs_are_three_batch_norms():
    g = torch.Generator().manual_seed(3)

    def normal(*size):
        return torch.randn(*size, generator=g, dtype=torch.float64)
    with torch.random.fork_rng(devices=[]):
        whole, ours = ThreeNorms(6, 4).double(), Experts(6, 4).double()
    with torch.no_grad():
        for p, q in zip(whole.parameters(), ours.parameters(), strict=True):
            assert p.shape == q.shape
            p.copy_(q.copy_(normal(*p.shape)))
    for _ in range(4):
        x = 3 * normal(5, 6, 4, 4) + normal(1, 6, 1, 1)
        want, have = whole(x), ours(x)
        close(have.detach(), want.detach(), 1e-12)
        direction = normal(*want.shape)
        for net, z in ((whole, want), (ours, have)):
            net.zero_grad()
            (z * direction).sum().backward()
        for p, q in zip(whole.parameters(), ours.parameters(), strict=True):
            close(q.grad, p.grad, 1e-9)
    for norm in whole.norms:
        close(ours.standardise.running_mean, norm.running_mean, 1e-14)
        close(ours.standardise.running_var, norm.running_var, 1e-14)
    close(ours.eval()(x).detach(), whole.eval()(x).detach(), 1e-12)


def test_the_published_number_of_parameters():
    with torch.random.fork_rng(devices=[]):
        net = Net(make_backbone("wrn-28-2", "USB"), {"experts": Experts(128, 10)})
    assert sum(p.numel() for p in net.parameters()) == 1_470_974


@pytest.mark.parametrize("rule", ["weights", "ndim", "norms", "all"])
def test_scale_and_shift_start_and_decay_as_those_of_a_norm(rule):
    with torch.random.fork_rng(devices=[]):
        nets = [Net(make_backbone("wrn-10-0.25"), {"experts": head(16, 4)}) for head in (ThreeNorms, Experts)]
    for net in nets:
        for p in net.heads.parameters():
            p.data.fill_(7)
        initialise(net, 0)
    whole, ours = ([len(group) for group in decay_groups([net], rule)] for net in nets)
    assert ours == whole
    affine = [m for m in nets[1].modules() if isinstance(m, Affine)]
    assert len(affine) == 3 and all((m.weight == 1).all() and (m.bias == 0).all() for m in affine)
    free = {id(p) for p in decay_groups([nets[1]], rule)[1]}
    assert all((id(p) in free) == (rule != "all") for m in affine for p in (m.weight, m.bias))


def test_the_norms_part_and_head_2_predicts():
    t = kit.trainer("cpe", {"threshold": .3, "cut_1": 1, "cut_2": 2})
    kit.losses_of(t, range(4))
    experts = t.net.heads["experts"]
    assert not torch.equal(experts.norms[0].weight,
                           experts.norms[2].weight), "nested masks part their affine parameters"
    assert experts.standardise.running_mean.any()
    assert torch.equal(t.average.net.heads["experts"].standardise.running_mean, experts.standardise.running_mean)
    x = t.data.normalise(t.source.test_images, t.dtype)
    with torch.no_grad():
        v, e = t.average.net(x), t.average.net.heads["experts"]
        scale, shift = (torch.stack([getattr(n, name) for n in e.norms]).mean(0) for name in ("weight", "bias"))
        f = e.standardise(v.map).mean((2, 3)) * scale + shift         # the mean over norms is the head on the mean pair
        torch.testing.assert_close(t.method.predict(t.average.net, x), e.linears[1](f), rtol=1e-4, atol=1e-5)


def test_the_head_keeps_its_own_precision_when_the_backbone_is_in_bf16():
    t = kit.trainer("cpe", {"threshold": .3}, precision="bf16")
    kit.losses_of(t, range(2))
    v = t.net(t.data.normalise(t.source.test_images, t.dtype))
    assert t.net.compute(t.source.test_images.float()).dtype == torch.bfloat16 and v["experts"].dtype == torch.float32


# ---- SeMi's modules --------------------------------------------------------------------------------------------------


def test_each_head_is_adjusted_once_in_their_order(monkeypatch):
    m = kit.method("cpe", {"threshold": .6}, counts=(9, 6, 4, 2, 1))
    v, batch = drawn()
    seen = []
    monkeypatch.setattr(m, "pseudo_prob", lambda prob, *rest: seen.append(prob) or prob.flip(-1))
    p, _ = step(m, v, batch)
    close(torch.stack(seen, 1), v.w["experts"].mean(2).softmax(-1), 1e-12)
    for k in range(3):
        assert torch.equal(p.branches[f"u{k + 1}"], seen[k].flip(-1))
        assert torch.equal(p.labels[:, k], seen[k].flip(-1).argmax(-1))


def test_entropy_weights_act_on_every_head_by_its_own_entropy():
    options = {"threshold": .5, "cut_1": 1, "cut_2": 3}
    v, batch = drawn()
    _, plain = step(kit.method("cpe", options, counts=(9, 6, 4, 2, 1)), v, batch)
    m = kit.method("cpe", {**options, "semi_warmup": 0}, counts=(9, 6, 4, 2, 1), add="oheml")
    p, terms = step(m, v, batch)
    for k in range(3):
        prob = v.w["experts"][:, k].mean(1).softmax(-1)
        masks = plain[f"u{k + 1}"].weight.view(3, 2, 8)                                    # norm, view, image
        want = (plain[f"u{k + 1}"].rows.view(3, 2, 8) * masks * entropy_weight(prob, .75)).sum() / masks.sum()
        close(reduce(terms[f"u{k + 1}"]), want, 1e-10)
        assert reduce(terms[f"u{k + 1}"]) < reduce(plain[f"u{k + 1}"])
        assert torch.equal(reduce(terms[f"x{k + 1}"]), reduce(plain[f"x{k + 1}"]))


def test_all_three_modules_train_on_it_and_resume(tmp_path):
    options = {"threshold": .4, "cut_1": 1, "cut_2": 2, "plce_epoch": 2, "plce_decay_every": 2, "semi_warmup": 1}
    t = kit.check_resume(lambda: kit.trainer("cpe", options, add="oheml+plce+align"), 8, [5], tmp_path)
    assert t.monitor.never_active([*t.method.must_act, "oheml", "plce", "align"]) == []
