"""CReST and CReST+ against the values of methods-b 6.2 and 3.5, slow twins, and runs over their generations."""
from __future__ import annotations

import kit
import pytest
import torch
from kit import B, close, f64

from semilib.data.step import Batch
from semilib.errors import BadInput
from semilib.methods.crest import keep_rates, pick
from semilib.options import momentum_of
from semilib.training.config import Run
from semilib.training.engine import Trainer

COUNTS, FIRST = (100, 30, 10), "generation0"
P = B.W.softmax(-1)


def law(gamma: float, classes: int) -> torch.Tensor:
    """pi of the release, through the method."""
    m = kit.method("crest", {"prior": "power_law"}, counts=tuple(range(classes, 0, -1)), gamma_l=float(gamma), n1=100)
    return m.pi()


def plus(options: dict | None = None, steps: int = 250_000, **changes):
    return kit.method("crestplus", options, counts=COUNTS, steps=steps, **changes)


# ---- (1), (2): which images are taken over ---------------------------------------------------------------------------


def test_the_prior_and_the_rates_of_the_release():
    close(law(100, 10), [.402931, .241551, .144806, .086809, .052041, .031198, .018702, .011212, .006721, .004029])
    close(keep_rates(law(100, 10), 3),
          [.215443, .25551, .303027, .359381, .426216, .50548, .599484, .710971, .843191, 1])
    close(keep_rates(law(50, 10), 3),
          [.271442, .313763, .362682, .419229, .484592, .560145, .647479, .748429, .865118, 1])
    close(keep_rates(law(9, 3), 3), [.48075, .693361, 1])


def test_the_rates_go_by_a_class_s_place_not_by_its_number():
    close(kit.method("crest", counts=(30, 10, 100)).pi(), f64([30, 10, 100]) / 140)
    rates = keep_rates(f64([100, 30, 10]) / 140, 3)
    close(keep_rates(f64([30, 10, 100]) / 140, 3), rates[[1, 2, 0]])
    order = kit.method("crest", {"prior": "power_law"}, counts=(30, 10, 100), gamma_l=9.0).pi()
    close(order, law(9, 3)[[1, 2, 0]])
    close(keep_rates(f64([.25] * 4), 3), [1] * 4)


def test_what_is_picked():
    n = [2500, 2400, 1500, 900, 500, 300, 180, 90, 40, 10]
    label = torch.arange(10).repeat_interleave(torch.tensor(n))
    score = torch.rand(len(label), generator=torch.Generator().manual_seed(0))
    chosen = pick(label, score, keep_rates(law(100, 10), 3))
    assert label[chosen].bincount().tolist() == [538, 613, 454, 323, 213, 151, 107, 63, 33, 10]
    for k in range(10):
        taken = torch.zeros(len(label), dtype=torch.bool).index_fill_(0, chosen, True)
        assert k == 9 or score[taken & (label == k)].min() >= score[~taken & (label == k)].max()
    label = torch.tensor([0, 0, 1, 0, 2, 0, 1, 0, 1])
    confidence = f64([.9, .99, .6, .7, .55, .95, .8, .5, .97])
    assert pick(label, confidence, keep_rates(law(9, 3), 3)).tolist() == [1, 5, 8, 6, 4]
    assert pick(label[:0], f64([]), keep_rates(law(9, 3), 3)).tolist() == []


# ---- (3): progressive alignment --------------------------------------------------------------------------------------


def test_the_target_grows_flatter_with_each_generation():
    m = plus({"generations": 6})
    for g, t in enumerate([1, .9, .8, .7, .6, .5]):
        close(m.tempered(g), m.pi() ** t / (m.pi() ** t).sum())
    close(plus().tempered(2), [.536495, .29385, .169655])
    m = kit.method("crestplus", {"prior": "power_law"}, counts=tuple(range(10, 0, -1)), gamma_l=100.0, n1=100,
                   steps=250_000)
    close(m.tempered(0), m.pi())
    close(m.tempered(1), [.325725, .221914, .151188, .103003, .070175, .04781, .032573, .022191, .015119, .0103])
    close(m.tempered(2), [.244681, .189448, .146682, .113571, .087934, .068084, .052715, .040815, .031602, .024468])
    constant = plus({"adaptive": False})
    assert torch.equal(constant.wanted, constant.tempered(2)) and torch.equal(plus().wanted, plus().tempered(0))


def test_the_alignment_and_its_ring_have_the_reference_s_values():
    m = plus()
    assert m.ring.shape == (128, 3)
    close(m.ring, torch.full((128, 3), 1 / 3))
    batch = Batch(y=B.y)
    m.pseudo_prob(P, None, batch, kit.time(0))
    close(m.ring.mean(0), [1 / 3] * 3)
    m.end_step(None, batch, None, kit.time(0))
    close(m.ring.mean(0), [.333542, .333106, .333352])
    m.ring.copy_(f64([.6, .3, .1]).expand(128, 3))
    close(m.align(P), [[.943624, .028188, .028188], [.172492, .764734, .062773], [.028992, .021247, .949761],
                       [.528141, .259444, .212415]])
    m.wanted.copy_(m.tempered(2))
    close(m.align(P), [[.87032, .047466, .082214], [.097608, .790065, .112327], [.00944, .012631, .977929],
                       [.315586, .283041, .401374]])


def test_the_ring_holds_the_last_batches_before_their_alignment():
    m = plus(steps=90)                                       # 45 steps a generation, so the least window of 20
    past = [f64([1 / 3] * 3)] * len(m.ring)
    assert len(past) == 20
    for step in range(45):
        v, batch = kit.drawn(step)
        t = kit.time(step, 90, FIRST)
        raw = v.w["head"].softmax(-1)
        model = torch.stack(past[-20:]).mean(0)
        want = raw * (m.pi() + 1e-6) / (model + 1e-6)
        p = m.pseudo(v, batch, t)
        close(p.prob, want / want.sum(-1, keepdim=True), 1e-12)
        m.terms(v, batch, p, t)
        m.end_step(v, batch, p, t)
        past.append(raw.mean(0))


@pytest.mark.parametrize("own", [True, False])
def test_on_remixmatch_it_takes_the_place_of_the_base_s_alignment(own):
    """Aligned once, then sharpened; the base's own mean stays as it was."""
    t = kit.trainer("crestplus", {"align": own}, base="remixmatch", precision="fp64")
    m, align, seen = t.method, t.method.align, []
    m.align = lambda prob: seen.append((prob, align(prob))) or seen[-1][1]
    m.pseudo = lambda v, batch, time, pseudo=m.pseudo: seen.append(batch.notes.q) or pseudo(v, batch, time)
    for step in range(3):
        seen.clear()
        t.advance()
        (raw, aligned), q = seen
        close(q, aligned ** 2 / (aligned ** 2).sum(-1, keepdim=True), 1e-12)
        assert torch.equal(m.ring[step], raw.mean(0)) and (aligned - raw).abs().max() > .01
    assert not m.mean.any()


# ---- generations -----------------------------------------------------------------------------------------------------


def made(name: str = "crest", base: str = "", options: dict | None = None, **changes) -> Trainer:
    options = {"generations": 3, **(options or {})}
    return kit.trainer(name, options if base else {"threshold": 0.3, **options}, base=base, **changes)


def test_the_labelled_set_grows_by_what_the_average_was_sure_of_and_is_chosen_anew():
    t = made()
    grown = []
    for step in range(12):
        t.advance()
        if (step + 1) % 4:
            continue
        stream = t.data.streams["labelled"]
        grown.append(set(stream.members.tolist()))
        if step == 11:
            assert grown[2] == grown[1], "nothing is picked after the last generation"
            continue
        new = [int(i) for i in t.data.unlabelled if i not in t.data.labelled]
        with torch.no_grad():
            prob = t.average.net(t.data.normalise(t.data.images[new], t.dtype))["head"].softmax(-1)
        score, label = prob.max(-1)
        want = []
        for k, n in enumerate([14, 9, 6, 4]):
            place = sorted([14, 9, 6, 4], reverse=True).index(n)
            mine = sorted((i for i in range(len(new)) if label[i] == k), key=lambda i: -score[i])
            want += [(new[i], k) for i in mine[:int(len(mine) * ([4, 6, 9, 14][place] / 14) ** (1 / 3))]]
        assert want and not {i for i, _ in want} & set(t.data.labelled.tolist())
        pairs = list(zip(stream.members.tolist(), stream.targets.tolist()))
        assert pairs[:33] == list(zip(t.data.labelled.tolist(), t.data.y.tolist()))
        assert sorted(pairs[33:]) == sorted(want)
    assert not grown[0] <= grown[1], "an image that was picked once is not kept for that"
    assert t.data.of("unlabelled")[0].equal(t.data.unlabelled), "the pool stays whole"


@pytest.mark.parametrize("base", ["", "remixmatch"])
def test_a_generation_starts_from_nothing_but_its_labelled_set(base):
    t = made("crestplus", base)
    start = {k: v.clone() for k, v in t.net.state_dict().items() if not k.endswith("num_batches_tracked")}
    ring = t.method.ring.clone()
    entered = []
    enter = t.method.enter

    def watched(stage, ctx):
        enter(stage, ctx)
        same = all(torch.equal(x, t.net.state_dict()[k]) and torch.equal(x, t.average.net.state_dict()[k])
                   for k, x in start.items())
        entered.append((stage.name, same, torch.equal(t.method.ring, ring), t.method.wanted.clone()))
        assert not any(x.any() for o in t.optimisers for state in o.state.values() for x in state.values())
        assert not base or not t.method.mean.any()
    t.method.enter = watched
    kit.losses_of(t, range(12))
    assert [e[:3] for e in entered] == [("generation1", True, True), ("generation2", True, True)]
    assert torch.equal(entered[0][3], t.method.tempered(1)) and torch.equal(entered[1][3], t.method.tempered(2))
    assert t.monitor.never_active(t.method.must_act) == []


def test_remixmatch_s_own_alignment_begins_anew_with_crest():
    t = made("crest", "remixmatch")
    means = []
    enter = t.method.enter

    def watched(stage, ctx):
        means.append(t.method.mean.clone())
        enter(stage, ctx)
        means.append(t.method.mean.clone())
    t.method.enter = watched
    kit.losses_of(t, range(5))
    assert means[0].any() and not means[1].any() and t.method.momentum == momentum_of(.999, 12)


@pytest.mark.parametrize("base", ["fixmatch", "remixmatch"])
def test_the_first_generation_is_the_base(base):
    """The rate held constant, since it begins anew in each; the base's ramp over a generation of 6 steps."""
    changes = dict(rate="constant", steps=12, precision="fp64")
    ramp = {"ramp": .5} if base == "remixmatch" else {"threshold": .3}
    found = kit.losses_of(kit.trainer("crest", {**ramp, "generations": 2}, base=base, **changes), range(7))
    plain = kit.losses_of(kit.trainer(base, {**ramp, "ramp": .25} if base == "remixmatch" else ramp, **changes),
                          range(7))
    assert found[:6] == plain[:6] and found[6] != plain[6]
    if base == "remixmatch":
        assert found[6]["u"] == 0 and found[0]["u"] == 0, "the ramp rises in each generation"


@pytest.mark.parametrize("name, base", [("crestplus", ""), ("crest", "remixmatch")])
def test_a_run_resumes_in_and_between_generations(name, base, tmp_path):
    t = kit.check_resume(lambda: made(name, base), 12, [3, 4, 6, 9], tmp_path)
    assert len(t.data.streams["labelled"].members) > t.method.info.n_labelled
    assert t.monitor.never_active(t.method.must_act) == []


def test_the_last_generation_takes_the_remainder():
    m = kit.method("crest", {"generations": 3}, steps=14)
    assert [(s.name, s.start) for s in m.phases()] == [("generation0", 0), ("generation1", 4), ("generation2", 8)]
    t = made(steps=14)
    seen = []
    t.data.set_members = lambda *a, set_members=t.data.set_members: seen.append(t.step) or set_members(*a)
    kit.losses_of(t, range(14))
    assert seen == [4, 8]


def test_semi_s_bank_starts_anew_with_its_network():
    t = made(add="plce+oheml", options={"semi_warmup": 0, "plce_epoch": 1})
    kit.losses_of(t, range(4))
    assert t.method.plce_blend.bank.prototypes()[1].any()
    t.method.enter(t.phases[1], t.context(4))
    assert not t.method.plce_blend.bank.prototypes()[1].any()
    kit.losses_of(t, range(4, 6))


# ---- how many --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dataset, profile, generations, length", [
    ("cifar10", "paper", 3, 83_333), ("cifar10", "short", 3, 8333), ("mnistm5k", "quickstart", 3, 400),
    ("mnistm5k", "trial", 2, 300)])
def test_the_last_twenty_evaluations_lie_in_one_generation(dataset, profile, generations, length):
    run = Run.of(dataset, "crestplus", profile=profile)
    m = kit.method("crestplus", steps=run.steps, dataset=dataset, profile=profile, eval_every=run.eval_every)
    assert (m.generations, m.length) == (generations, length) and length >= 20 * run.eval_steps
    assert m.durations()["generation"] == length


@pytest.mark.parametrize("generations", [1, 13])
def test_a_run_of_one_generation_or_of_none_is_refused(generations):
    with pytest.raises(BadInput, match="generation="):
        made(options={"generations": generations})


def test_a_power_law_of_counts_that_follow_none_is_refused():
    with pytest.raises(BadInput, match="counted where n1 is None"):
        kit.method("crest", {"prior": "power_law"}, n1=None, gamma_l=1.0)


def test_their_own_recipe():
    for name in ("crest", "crestplus"):
        run = Run.of("cifar10", name, recipe="original")
        assert (run.steps, run.eval_every, run.mu, run.rate,
                run.report) == (393_216, 1024, 7, "slow_cosine", "median_last")
        assert run.options["generations"] == 6 and run.options["strong_views"] == 1
        assert run.options["prior"] == "power_law"
    run = Run.of("cifar10", "crestplus", base="remixmatch", recipe="original")
    assert (run.steps, run.rate, run.policy) == (393_216, "constant", "frozen")
