"""The method interface holds what other methods need: throw-away stubs of CoSSL, CPE, DARP, CCL and CPG (as their references
describe them, reduced to what is special), trained for a few steps, and resumed from checkpoints to the last bit."""
from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import toy
from torch import Tensor, nn
from toy import close, f64

from semilib.data import rng
from semilib.data.step import StepImages, Stream
from semilib.methods import METHODS
from semilib.methods.base import Phase, Pseudo
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, ce, log_prior, reduce
from semilib.networks.net import View, linear

STEPS = 12


@pytest.fixture
def stub(monkeypatch):
    """Register a class as a method for the time of a test; returns a maker of trainers for it."""
    def register(cls, options: dict | None = None, **changes):
        monkeypatch.setitem(METHODS, "stub", cls)
        return lambda: toy.trainer("stub", {"threshold": 0.4, **(options or {})}, **{"steps": STEPS, **changes})
    return register


# ---- CoSSL: stages, an own optimiser for a teacher head, further streams, pseudo-labels of the average -----------------------


class CoSSL(FixMatch):
    """Phase 1 is FixMatch. At its end the teacher head is imprinted. In phase 2 that head reads features of the average, labels
    the weak view, and learns from class-balanced images mixed with images of the whole pool."""

    START = 5

    def step_images(self):
        base = super().step_images()
        return StepImages({**base.views, "b": ("balanced", "strong"), "m": ("pool", "strong")}, base.policy,
                    {"balanced": Stream("labelled", "balanced"), "pool": Stream("union")})

    def heads(self):
        return {**super().heads(), "teacher": linear(self.info.features, self.info.classes)}

    def build(self):
        counts = self.info.counts.double()
        self.register_buffer("mixing", ((counts.max() - counts) / counts.max()).to(self.info.dtype))
        self.register_buffer("second", torch.zeros((), dtype=torch.bool))

    def phases(self):
        return [Phase("represent"), Phase("cotrain", self.START)]

    def optimisers(self, net, make):
        return [make([net.backbone, net.heads["head"]]),
                make([net.heads["teacher"]], optimiser="adam", lr=0.002, weight_decay=5e-4)]

    def forward(self, net, images, batch, t, teacher):
        student = {name: images[name] for name in ("l", "w", "s1", "s2")}
        if t.phase == "represent":
            return net.views(student, self.step_images().strong, "joint")
        v = net.views(student, self.step_images().strong, "ema_eval", teacher)
        with torch.no_grad():
            fb, fm = teacher(images["b"]).f, teacher(images["m"]).f
        draws = rng.uniform(rng.words(self.info.seed, "cossl", t.step, len(fb), 2, fb.device)).to(fb.dtype)
        use = draws[:, 0] < self.mixing[batch.targets["balanced"]]
        share = torch.where(use, 0.6 + 0.4 * draws[:, 1], 1.0).unsqueeze(1)
        mixed = share * fb + (1 - share) * fm
        v["t"] = View({"teacher": net.heads["teacher"](mixed)}, mixed)
        v["w"] = View({**v.w, "teacher": net.heads["teacher"](v.w.f)}, v.w.f)              # the raw teacher, not its average
        return v

    def pseudo(self, v, batch, t):
        prob = v.w["head" if t.phase == "represent" else "teacher"].softmax(-1)
        confidence, label = prob.max(-1)
        return Pseudo(prob=prob, label=label, mask=(confidence >= self.cfg.threshold).to(prob.dtype))

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        return out if t.phase == "represent" else {**out, "t": Term(ce(v.t["teacher"], batch.targets["balanced"]))}

    def acted(self, v, batch, p, t, terms):
        out = super().acted(v, batch, p, t, terms)
        return out if t.phase == "represent" else {**out, "t": torch.ones((), dtype=torch.bool)}

    must_act = ("u", "t")

    def enter(self, stage, ctx):
        """Host work: the teacher's rows are the mean features of the labelled classes."""
        v, y, _ = ctx.scan("labelled")
        assert v.f.shape[0] == len(y) == self.info.n_labelled and not ctx.ema.training
        means = torch.stack([v.f[y == k].mean(0) for k in range(self.info.classes)])
        with torch.no_grad():
            for net in (ctx.net, ctx.ema):
                net.heads["teacher"].weight.copy_(means / means.norm(dim=1, keepdim=True))
        self.second.fill_(True)

    def predict(self, net, x):
        v = net(x)
        return torch.where(self.second, v["teacher"], v["head"])


def test_a_term_and_an_activity_may_belong_to_one_stage_alone(stub):
    class Late(FixMatch):
        must_act = ("u", "late")

        def phases(self):
            return [Phase("main"), Phase("late", 2)]

        def terms(self, v, batch, p, t):
            out = super().terms(v, batch, p, t)
            return {"late": Term(v.l.f.square().mean(1)), **out} if t.phase == "late" else out

        def acted(self, v, batch, p, t, terms):
            out = super().acted(v, batch, p, t, terms)
            return {**out, "late": terms["late"].rows.sum() > 0} if t.phase == "late" else out
    t = stub(Late)()
    losses = toy.train(t, range(5))
    assert [set(step) for step in losses] == [{"x", "u"}] * 2 + [{"x", "u", "late"}] * 3
    assert t.monitor.never_active(t.method.must_act) == []
    means = t.monitor.losses()
    assert set(means) == {"x", "u", "late"}
    close(means["x"], sum(step["x"] for step in losses) / 5, 1e-6)


def test_cossl_two_stages_two_optimisers_and_its_own_streams(stub, tmp_path):
    make = stub(CoSSL)
    t = toy.check_resume(make, STEPS, [3, CoSSL.START, 8], tmp_path)          # before, at and after the boundary
    assert t.phase == "cotrain" and t.method.second
    assert t.monitor.never_active(t.method.must_act) == []
    teacher = set(t.net.heads["teacher"].parameters())
    assert [len(o.state) for o in t.optimisers] == [len(list(t.net.parameters())) - len(teacher), 2]
    assert set(t.optimisers[1].state) == teacher and all("exp_avg" in s for s in t.optimisers[1].state.values())
    assert {g["lr"] for g in t.optimisers[1].param_groups} == {0.002}, "the teacher's rate does not follow the run's schedule"


def test_cossl_moves_the_teacher_head_in_its_own_stage_alone(stub):
    t = stub(CoSSL)()
    head = t.net.heads["teacher"]
    start = head.weight.clone()
    toy.train(t, range(CoSSL.START))
    assert torch.equal(head.weight, start) and not t.optimisers[1].state
    toy.train(t, range(CoSSL.START, CoSSL.START + 1))
    scan, y, members = t.context(CoSSL.START).scan("labelled")
    assert torch.equal(members, t.data.labelled) and torch.equal(y, t.data.y)
    assert head.weight.norm(dim=1).sub(1).abs().max() < 0.1, "imprinted with unit rows, then one Adam step"
    assert not torch.equal(t.average.net.heads["teacher"].weight, head.weight)
    live = dict(t.net.named_buffers())
    assert all(torch.equal(b, live[name]) for name, b in t.average.net.named_buffers()), "teacher passes are in eval mode"
    images = t.data.normalise(t.source.test_images, t.dtype)
    with torch.no_grad():
        v = t.average.net(images)
        assert torch.equal(t.method.predict(t.average.net, images), v["teacher"])


def test_cossl_takes_pseudo_labels_from_the_average_and_shows_the_student_the_other_views(stub, monkeypatch):
    t = stub(CoSSL)()
    toy.train(t, range(CoSSL.START + 1))
    passes = []
    for name, net in (("student", t.net), ("average", t.average.net)):
        compute = net.compute
        monkeypatch.setattr(net, "compute", lambda x, c=compute, n=name, m=net: passes.append((n, len(x), m.training)) or c(x))
    t.advance()
    assert sorted(passes) == [("average", 8, False)] * 3 + [("student", 24, True)]


def test_cossl_draws_a_balanced_stream_and_the_whole_pool(stub):
    t = stub(CoSSL)()
    drawn, seen = torch.zeros(4), set()
    for step in range(60):
        t.data.prepare(step)
        batch, views = t.data.batch(toy.time(step))
        drawn += torch.bincount(batch.targets["balanced"], minlength=4)
        seen |= set(t.data.streams["pool"].members[batch.index["pool"]].tolist())
        assert (batch.targets["balanced"] == t.data.y[batch.index["balanced"]]).all()
    assert (drawn / drawn.sum() - 0.25).abs().max() < 0.1                # the labelled classes are 14, 9, 6 and 4
    assert seen == set(t.data.labelled.tolist()) | set(t.data.unlabelled.tolist())
    members = t.data.streams["pool"].members
    assert len(members.unique()) == len(members)
    plain = t.data.images[t.data.labelled[batch.index["balanced"]]]
    assert views["b"].shape == plain.shape and not torch.equal(views["b"], plain)
    assert t.method.step_images().strong == ["s1", "s2"]


# ---- CPE: a head that reads the map ------------------------------------------------------------------------------------------


class Experts(nn.Module):
    """Three norms before pooling, three linear heads: logits [B, head, norm, C]."""

    reads = "map"

    def __init__(self, features: int, classes: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.BatchNorm2d(features) for _ in range(3))
        self.linears = nn.ModuleList(nn.Linear(features, classes) for _ in range(3))

    def forward(self, fmap: Tensor) -> Tensor:
        f = torch.stack([norm(fmap).mean((2, 3)) for norm in self.norms], 1)
        return torch.stack([head(f) for head in self.linears], 1)


class CPE(FixMatch):
    """Three heads of different adjustment; three norms, whose losses are masked by nested sets of classes."""

    TAUS, CUTS = (0.0, 2.0, 4.0), (0, 1, 2)

    def heads(self):
        return {"experts": Experts(self.info.features, self.info.classes)}

    def build(self):
        self.register_buffer("offset", torch.stack([log_prior(self.info.prior(), tau) for tau in self.TAUS]))

    def pseudo(self, v, batch, t):
        prob = v.w["experts"].mean(2).softmax(-1)                                               # [mu B, head, C]
        confidence, label = prob.max(-1)
        sure = confidence >= self.cfg.threshold
        mask = torch.stack([sure & (label >= cut) for cut in self.CUTS], -1).to(prob.dtype)     # [mu B, head, norm]
        return Pseudo(prob=prob[:, 1], label=label[:, 1], mask=sure[:, 1].to(prob.dtype)).add(labels=label, masks=mask)

    def terms(self, v, batch, p, t):
        z, labels, masks = v.s["experts"], self.per_view(p.labels), self.per_view(p.masks)
        out = {}
        for k in range(3):
            out[f"x{k}"] = Term(ce(v.l["experts"][:, k].mean(1) + self.offset[k], batch.y))
            rows = torch.cat([ce(z[:, k, n], labels[:, k]) for n in range(3)])
            out[f"u{k}"] = Term(rows, masks[:, k].T.flatten(), "weight")
        return out

    def predict(self, net, x):
        return net(x)["experts"][:, 1].mean(1)


def test_cpe_a_head_reads_the_map_and_holds_norms_before_pooling(stub, tmp_path):
    t = toy.check_resume(stub(CPE), STEPS, [4], tmp_path)
    experts = t.net.heads["experts"]
    assert set(t.last_losses) == {f"{kind}{k}" for kind in "xu" for k in range(3)} and float(t.last_losses["u1"]) > 0
    norms = [dict(n.named_buffers()) for n in experts.norms]
    for name in ("running_mean", "running_var"):                       # same inputs, so the same statistics
        assert torch.equal(norms[0][name], norms[1][name]) and torch.equal(norms[0][name], norms[2][name])
    assert norms[0]["running_mean"].any()
    assert not torch.equal(experts.norms[0].weight, experts.norms[2].weight), "nested masks part their affine parameters"
    assert not torch.equal(experts.linears[0].weight, experts.linears[1].weight)
    averaged = t.average.net.heads["experts"]
    assert torch.equal(averaged.norms[0].running_mean, experts.norms[0].running_mean)
    assert t.evaluate().sum() == len(t.test_y)
    grouped = [len(g["params"]) for g in t.optimisers[0].param_groups]
    convs = sum(isinstance(m, nn.Conv2d) for m in t.net.modules())
    assert grouped[0] == convs + 3, "the norms and biases of the head are not decayed"


def test_cpe_equals_its_heads_done_by_hand(stub):
    t = stub(CPE)()
    toy.train(t, range(1))
    t.net.eval()
    x = t.data.normalise(t.source.test_images, t.dtype)
    with torch.no_grad():
        v, e = t.net(x), t.net.heads["experts"]
        for k in range(3):
            for n, norm in enumerate(e.norms):
                standard = (v.map.mean((2, 3)) - norm.running_mean) / torch.sqrt(norm.running_var + norm.eps)
                logits = (standard * norm.weight + norm.bias) @ e.linears[k].weight.T + e.linears[k].bias
                torch.testing.assert_close(v["experts"][:, k, n], logits, rtol=1e-4, atol=1e-5)


def test_a_head_on_the_map_keeps_its_own_precision_when_the_backbone_is_in_bf16(stub):
    t = stub(CPE, precision="bf16")()
    toy.train(t, range(2))
    assert t.net(t.data.normalise(t.source.test_images, t.dtype))["experts"].dtype == torch.float32


# ---- DARP: state by image, a solver on the host ------------------------------------------------------------------------------


class DARP(FixMatch):
    """Q and R hold a row for every unlabelled image; every ten steps the host refines Q to the wanted class totals."""

    def build(self):
        info = self.info
        for name in ("q", "r"):
            self.register_buffer(name, torch.full((info.n_unlabelled, info.classes), 1 / info.classes, dtype=info.dtype))
        self.register_buffer("totals", info.prior() * info.n_unlabelled)
        self.register_buffer("solved", torch.zeros((), dtype=torch.int64))

    def pseudo(self, v, batch, t):
        rows = torch.where(self.solved > 0, self.r[batch.index_u], v.w["head"].softmax(-1))
        confidence, label = rows.max(-1)
        return Pseudo(prob=rows, label=label, mask=(confidence >= self.cfg.threshold).to(rows.dtype))

    def end_step(self, v, batch, p, t):
        self.q[batch.index_u] = v.w["head"].softmax(-1)

    def host_every(self):
        return 10

    def host_work(self, ctx):
        assert ctx.step % 10 == 0
        r = self.q.double().cpu().numpy()
        for _ in range(200):
            r = r * (self.totals.cpu().numpy() / r.sum(0))
            r = r / r.sum(1, keepdims=True)
        self.r.copy_(torch.from_numpy(r))
        self.solved.add_(1)


def test_darp_a_row_for_every_unlabelled_image_and_a_solver_every_ten_steps(stub, tmp_path):
    class Watched(DARP):
        used: list = []

        def pseudo(self, v, batch, t):
            p = super().pseudo(v, batch, t)
            self.used.append((int(t.step), batch.index_u.clone(), v.w["head"].softmax(-1), p.prob))
            return p

    t = toy.check_resume(stub(Watched, steps=22), 22, [7, 10, 13, 20], tmp_path)
    m = t.method
    first = Watched.used[:22]
    assert [step for step, *_ in first] == list(range(22)) and int(m.solved) == 2
    assert m.q.shape == (len(t.data.unlabelled), 4)
    q = torch.full_like(m.q, 0.25)
    for step, index, weak, used in first:
        assert len(index.unique()) == len(index)
        if step < 10:
            assert torch.equal(used, weak)
        q[index] = weak
    assert torch.equal(m.q, q), "a row is what its image's last weak view gave"
    last = {int(i): row for step, index, _, used in first if step >= 20 for i, row in zip(index, used)}
    assert last and all(torch.equal(row, m.r[i]) for i, row in last.items())
    torch.testing.assert_close(m.r.sum(0), m.totals, rtol=1e-3, atol=1e-3)


def test_positions_in_the_unlabelled_set_name_images(stub):
    t = stub(FixMatch)()
    for step in range(9):
        t.data.prepare(step)
        batch, views = t.data.batch(toy.time(step))
        raw = t.data.images[t.data.unlabelled[batch.index_u]]
        assert torch.equal(views["w"], t.data.view(raw, "weak", "w", step))
        assert torch.equal(batch.known_u, torch.isin(t.data.unlabelled[batch.index_u], t.data.labelled))
        assert torch.equal(batch.y, t.data.y[batch.index_l])


# ---- CCL: views of labelled images, projectors, a term over the whole batch --------------------------------------------------


class Projector(nn.Sequential):
    def __init__(self, features: int, out: int, reads: str | None = "features"):
        super().__init__(nn.Linear(features, features), nn.BatchNorm1d(features), nn.ReLU(), nn.Linear(features, out))
        self.reads = reads

    def forward(self, f: Tensor) -> Tensor:
        return nn.functional.normalize(super().forward(f), dim=1)


def reliable(h: Tensor, y: Tensor, classes: int, temperature: float = 0.1) -> Tensor:
    """Rows of CCL's reliable term: a class posterior by kernel density over the batch. The first C rows are the centres."""
    kernel = torch.exp(h @ h.T / temperature)
    kernel = kernel - torch.diag_embed(kernel.diagonal())
    rows = slice(classes, None)
    s = (kernel[rows] @ y) / (y.sum(0) - y[rows]).clamp(min=1e-9)
    return -(y[rows] * torch.log(s / s.sum(1, keepdim=True) + 1e-12)).sum(1)


class CCL(FixMatch):
    """Two more strong views of labelled images, a projector of features, one of the class weights, and the reliable term."""

    def step_images(self):
        base = super().step_images()
        return StepImages({"l": ("labelled", "weak"), "w": ("unlabelled", "weak"), **{n: base.views[n] for n in base.strong},
                     "l1": ("labelled", "strong"), "l2": ("labelled", "strong")})

    def heads(self):
        d = self.info.features
        return {**super().heads(), "balanced": linear(d, self.info.classes), "g": Projector(d, 8), "g_c": Projector(d, 8, None)}

    def build(self):
        self.register_buffer("offset", log_prior(self.info.prior(), 2.0))

    def forward(self, net, images, batch, t, teacher):
        v = super().forward(net, images, batch, t, teacher)
        weights = net.heads["balanced"].weight
        v["c"] = View({"g": net.heads["g_c"](weights)}, weights)
        return v

    def terms(self, v, batch, p, t):
        out = super().terms(v, batch, p, t)
        out["x_b"] = Term(ce(v.l["balanced"] + self.offset, batch.y))
        c, mask = self.info.classes, self.per_view(p.mask)
        hot = nn.functional.one_hot(batch.y, c).to(mask.dtype)
        h = torch.cat([v.c["g"], v.l1["g"], v.l2["g"], v.s["g"]])
        soft = self.per_view(p.prob**4 / (p.prob**4).sum(1, keepdim=True))
        y = torch.cat([torch.ones(c, c, dtype=hot.dtype), hot, hot, soft * mask.unsqueeze(1)])
        weight = torch.cat([torch.ones(2 * len(hot), dtype=mask.dtype), mask])
        out["rpl"] = Term(reliable(h, y, c), weight, "weight", 0.3)
        return out


def test_ccl_further_labelled_views_projectors_and_a_term_over_the_whole_batch(stub, tmp_path):
    make = stub(CCL)
    t = toy.check_resume(make, STEPS, [5], tmp_path)
    assert float(t.last_losses["rpl"]) > 0
    moved = make().net.state_dict()
    for name in ("heads.g.0.weight", "heads.g_c.0.weight", "heads.g_c.1.weight", "heads.balanced.weight"):
        assert not torch.equal(t.net.state_dict()[name], moved[name]), f"{name} has not learnt"
    assert not torch.equal(t.net.heads["g_c"][1].running_mean, moved["heads.g_c.1.running_mean"])

    terms, seen = t.method.terms, []

    def watched(v, *rest):
        seen.append((v, terms(v, *rest)))
        return seen[0][1]
    t.method.terms = watched
    t.advance()
    v, term = seen[0][0], seen[0][1]["rpl"]
    assert set(v.l1) == {"head", "balanced", "g"}, "a head that reads nothing is not applied"
    assert v.c["g"].shape == (4, 8) and v.s["g"].shape == (16, 8) and v.strong == ["s1", "s2"]
    assert term.rows.shape == (32,) and term.denominator == "weight"
    close(float(reduce(term).detach()), 0.3 * float((term.rows * term.weight).sum().detach() / term.weight.sum()), 1e-5)
    assert t.average.net(t.data.normalise(t.source.test_images, t.dtype)).keys() == {"head", "balanced", "g"}


def test_ccl_views_of_one_stream_show_the_same_images(stub):
    t = stub(CCL)()
    t.data.prepare(0)
    batch, views = t.data.batch(toy.time(0))
    assert list(views) == ["l", "w", "s1", "s2", "l1", "l2"], "the order of the plan is the order of the joint batch"
    plain = t.data.images[t.data.labelled[batch.index_l]]
    for name in ("l1", "l2"):
        want = t.data.view(plain, "strong", name, 0)
        assert torch.equal(views[name], want) and not torch.equal(views[name], views["l"])
    assert not torch.equal(views["l1"], views["l2"])


def test_ccl_s_reliable_term_fits_a_term_with_the_denominator_weight():
    """methods-c 3.8, unit vectors at these degrees: centres, the Sim views of two labelled images, two strong views of four."""
    degrees = [10, 130, 250, 0, 100, 20, 120, 15, 90, 260, 150, 350, 120, 230, 170]
    h = f64([[math.cos(math.radians(d)), math.sin(math.radians(d))] for d in degrees])
    fused = f64([[2.830019, -.543095, -.020411], [-.419981, 2.206905, .479589], [-.869981, -.443095, 4.729589],
                 [1.330019, .956905, .029589]]).softmax(1)
    soft, hot = fused**4 / (fused**4).sum(1, keepdim=True), f64([[1, 0, 0], [0, 0, 1]])
    for chosen, value in (([0, 0, 1, 0], .954873), ([0, 0, 0, 0], .757095), ([1, 1, 1, 1], .870324)):
        m = f64(chosen * 2)
        y = torch.cat([torch.ones(3, 3).double(), hot, hot, torch.cat([soft, soft]) * m.unsqueeze(1)])
        close(reduce(Term(reliable(h, y, 3), torch.cat([torch.ones(4).double(), m]), "weight")), value, 5e-6)


# ---- CPG: a labelled set that grows ------------------------------------------------------------------------------------------


class CPG(FixMatch):
    """Votes for every unlabelled image. From phase B on the labelled stream has soft rows: the labelled images smoothed, and,
    after each window, the images whose votes were stable."""

    START, WINDOW = 4, 4

    def build(self):
        info = self.info
        self.register_buffer("votes", torch.zeros(info.n_unlabelled, info.classes, dtype=torch.int16))
        self.register_buffer("phi", info.counts.to(info.device, info.dtype))
        self.register_buffer("windows", torch.zeros((), dtype=torch.int64))

    def phases(self):
        return [Phase("A"), Phase("B", self.START)]

    def smooth(self, y: Tensor) -> Tensor:
        c = self.info.classes
        return nn.functional.one_hot(y, c).to(self.info.dtype) * (0.9 - 0.1 / (c - 1)) + 0.1 / (c - 1)

    def terms(self, v, batch, p, t):
        rows = batch.y if batch.y.ndim == 2 else self.smooth(batch.y)
        prior = (self.phi / self.phi.sum()).log()
        return {"x": Term(ce(v.l["head"] + prior, rows)),
                "u": Term(ce(v.s["head"], self.per_view(p.label)), self.per_view(p.mask))}

    def end_step(self, v, batch, p, t):
        vote = (p.mask > 0) & ~batch.known_u
        flat = batch.index_u * self.info.classes + p.label
        self.votes.view(-1).scatter_add_(0, flat, vote.to(torch.int16))

    def host_every(self):
        return self.WINDOW

    def grow(self, ctx):
        votes = self.votes.to(self.info.dtype)
        total = votes.sum(1)
        chosen = (total > 0) & (votes.amax(1) > 0.8 * total)
        members = torch.cat([ctx.data.labelled, ctx.data.unlabelled[chosen.cpu()]])
        rows = torch.cat([self.smooth(ctx.data.y), votes[chosen] / total[chosen].unsqueeze(1)])
        ctx.data.set_members("labelled", members, rows)
        self.phi.copy_(self.info.counts + torch.bincount(rows[len(ctx.data.labelled):].argmax(1), minlength=self.info.classes))
        self.votes.zero_()
        self.windows.add_(1)

    def enter(self, stage, ctx):
        assert stage.name == "B" and ctx.step == self.START
        ctx.data.set_members("labelled", ctx.data.labelled, self.smooth(ctx.data.y))

    def host_work(self, ctx):
        v, _, members = ctx.scan("union", view="weak", net=ctx.net)
        assert len(v.f) == len(members.unique()) and ctx.net.training
        if ctx.step > self.START:
            self.grow(ctx)


def test_cpg_a_labelled_stream_that_grows_and_votes_by_image(stub, tmp_path):
    make = stub(CPG, {"threshold": 0.35}, steps=16)
    t = toy.check_resume(make, 16, [3, 4, 6, 8, 9, 12, 14], tmp_path)         # stage boundary 4, windows end after 8, 12 and 16
    m, stream = t.method, t.data.streams["labelled"]
    assert int(m.windows) == 3 and len(stream.members) > m.info.n_labelled
    assert stream.targets.shape == (len(stream.members), 4) and stream.targets.dtype == t.dtype
    close(stream.targets.sum(1).double(), torch.ones(len(stream.members)), 1e-5)
    assert torch.equal(stream.members[:m.info.n_labelled], t.data.labelled)
    added = stream.members[m.info.n_labelled:]
    assert not torch.isin(added, t.data.labelled).any() and torch.isin(added, t.data.unlabelled).all()
    assert float(m.phi.sum()) == len(stream.members) and m.votes.dtype == torch.int16 and not m.votes.any()
    assert "data/labelled/members" in t.state_dict()


def test_cpg_deals_the_grown_stream_with_its_soft_rows(stub):
    t = stub(CPG, {"threshold": 0.35}, steps=16)()
    toy.train(t, range(3))
    assert t.data.batch(toy.time(2))[0].y.ndim == 1 and t.method.votes.sum() > 0
    toy.train(t, range(3, 9))
    stream, seen = t.data.streams["labelled"], []
    for step in range(9, 9 + 2 * stream.batches):
        t.data.prepare(step)
        batch, views = t.data.batch(toy.time(step))
        assert torch.equal(batch.y, stream.targets[batch.index_l]) and batch.y.shape == (8, 4) and views["l"].shape[0] == 8
        seen += batch.index_l.tolist()
    assert max(seen) >= t.method.info.n_labelled and max(np.bincount(seen)) <= 3


def test_votes_are_counted_for_their_image_and_class(stub):
    t = stub(CPG, {"threshold": 0.35}, steps=16)()
    counted = torch.zeros_like(t.method.votes)
    end_step = t.method.end_step

    def watched(v, batch, p, time):
        end_step(v, batch, p, time)
        for i, k, m, known in zip(batch.index_u.tolist(), p.label.tolist(), p.mask.tolist(), batch.known_u.tolist()):
            counted[i, k] += int(m > 0 and not known)
    t.method.end_step = watched
    toy.train(t, range(7))
    assert counted.sum() > 0 and torch.equal(t.method.votes, counted)


def test_set_members_takes_effect_in_the_next_step_and_survives_a_checkpoint(stub):
    class Other(FixMatch):
        def host_every(self):
            return 3

        def host_work(self, ctx):
            ctx.data.set_members("labelled", ctx.data.labelled[:5], ctx.data.y[:5])
    t = stub(Other)()
    toy.train(t, range(3))
    assert len(t.data.streams["labelled"].members) == 5
    t.data.prepare(3)
    batch, _ = t.data.batch(toy.time(3))
    assert int(batch.index_l.max()) < 5 and len(batch.y) == 8, "a set smaller than the batch fills it by repeating"
    again = stub(Other)()
    again.load_state_dict({k: v.clone() for k, v in t.state_dict().items()})
    assert toy.train(again, range(3, 7)) == toy.train(t, range(3, 7))


@pytest.mark.parametrize("change", ["members", "restart"])
def test_a_change_between_steps_discards_the_captured_step(stub, change):
    """A captured graph would go on with the tensors that it was captured with."""
    class Changing(FixMatch):
        def host_every(self):
            return 2

        def host_work(self, ctx):
            if change == "restart":
                ctx.restart()
            else:
                ctx.data.set_members("labelled", ctx.data.labelled[:9], ctx.data.y[:9])
    t = stub(Changing)()
    t.graphs["main"] = object()
    toy.train(t, range(1))
    assert t.graphs
    toy.train(t, range(1, 2))
    assert not t.graphs


# ---- generations (CReST): a fresh network and a rate that begins anew --------------------------------------------------------


def test_a_fresh_stage_starts_network_average_optimiser_and_rate_anew_and_keeps_the_state(stub, tmp_path):
    class Generations(FixMatch):
        entered: list = []

        def build(self):
            self.register_buffer("steps_seen", torch.zeros((), dtype=torch.int64))

        def phases(self):
            return [Phase("g0", 0, restart_rate=True), Phase("g1", 4, restart_rate=True, fresh=True),
                    Phase("g2", 9, restart_rate=True, fresh=True)]

        def enter(self, stage, ctx):
            self.entered.append((stage.name, ctx.step, ctx.phase))

        def end_step(self, v, batch, p, t):
            self.steps_seen.add_(1)

    t = toy.check_resume(stub(Generations), STEPS, [4, 6, 9], tmp_path)
    assert Generations.entered[:2] == [("g1", 4, "g1"), ("g2", 9, "g2")] and int(t.method.steps_seen) == STEPS
    t = stub(Generations)()
    start = {k: v.clone() for k, v in t.net.state_dict().items()}
    rates = []
    for step in range(STEPS):
        t.advance()
        rates.append(float(t.lr))
    close(rates, [t.run.lr * math.cos(7 * math.pi * i / (16 * length)) for length in (4, 5, 3) for i in range(length)], 1e-6)
    t.restart()
    for name, value in t.net.state_dict().items():
        assert torch.equal(value, start[name]) or name.endswith("num_batches_tracked"), name
    assert not any(x.any() for o in t.optimisers for state in o.state.values() for x in state.values())
    toy.same_state(t.average.net.state_dict(), t.net.state_dict())


# ---- initial values ----------------------------------------------------------------------------------------------------------


def test_no_initial_value_depends_on_the_global_random_state(stub):
    """Also that of a parameter of a kind that the engine does not know."""
    class Prompt(nn.Module):
        def __init__(self, features: int, classes: int):
            super().__init__()
            self.prompt = nn.Parameter(torch.randn(classes, features))

        def forward(self, f):
            return f @ self.prompt.T

    class Own(FixMatch):
        def heads(self):
            return {"head": Prompt(self.info.features, self.info.classes)}
    states = []
    for seed in (1, 2):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            states.append(stub(Own)().net.state_dict())
    toy.same_state(*states)
