"""What the engine promises any method: terms of one phase alone, positions that name images, sets that change between
steps, fresh phases, and exact resume in all of them. The methods' own tests prove what each of them needs besides."""
from __future__ import annotations

import math

import kit
import pytest
import torch
from kit import close
from torch import nn

from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.methods.base import Phase
from semilib.methods.fixmatch import FixMatch
from semilib.methods.flexmatch import FlexMatch
from semilib.methods.losses import Term

STEPS = 12


@pytest.fixture
def stub(monkeypatch):
    """Register a class as a method for the time of a test; returns a maker of trainers for it."""
    def register(cls, options: dict | None = None, **changes):
        monkeypatch.setitem(METHODS, "stub", cls)
        return lambda: kit.trainer("stub", {"threshold": 0.4, **(options or {})}, **{"steps": STEPS, **changes})
    return register


# ---- phases, images and sets -----------------------------------------------------------------------------------------


def test_a_term_and_an_activity_may_belong_to_one_stage_alone(stub):
    class Late(FixMatch):
        must_act = {**FixMatch.must_act, "late": "train longer"}

        def phases(self):
            return [Phase("main"), Phase("late", 2)]

        def terms(self, v, batch, p, t):
            out = super().terms(v, batch, p, t)
            return {"late": Term(v.l.f.square().mean(1)), **out} if t.phase == "late" else out

        def acted(self, v, batch, p, t, terms):
            out = super().acted(v, batch, p, t, terms)
            return {**out, "late": terms["late"].rows.sum() > 0} if t.phase == "late" else out
    t = stub(Late)()
    losses = kit.losses_of(t, range(5))
    assert [set(step) for step in losses] == [{"x", "u"}] * 2 + [{"x", "u", "late"}] * 3
    assert t.monitor.never_active(t.method.must_act) == []
    means = t.monitor.losses()
    assert set(means) == {"x", "u", "late"}
    close(means["x"], sum(step["x"] for step in losses) / 5, 1e-6)


def test_positions_in_the_unlabelled_set_name_images(stub):
    t = stub(FixMatch)()
    for step in range(9):
        t.data.prepare(step)
        batch, views = t.data.batch(kit.time(step))
        raw = t.data.images[t.data.unlabelled[batch.index_u]]
        assert torch.equal(views["w"], t.data.view(raw, "weak", "w", step))
        assert torch.equal(batch.known_u, torch.isin(t.data.unlabelled[batch.index_u], t.data.labelled))
        assert torch.equal(batch.y, t.data.y[batch.index_l])


def test_positions_and_state_by_image_stay_right_when_a_stream_deals_some_of_its_images(stub):
    class Some(FlexMatch):
        def host_every(self):
            return 2

        def host_work(self, ctx):
            data = ctx.data
            for name, images in (("labelled", data.labelled), ("unlabelled", data.unlabelled)):
                chosen = torch.arange(len(images)).flip(0)[ctx.step % 3::3]
                hidden = torch.full((len(chosen),), -1)
                data.set_members(name, images[chosen], data.y[chosen] if name == "labelled" else hidden, ctx.step)
    t, seen = stub(Some, {"threshold": 0.1})(), []
    pick, end_step = t.data.pick, t.method.end_step

    def picked(now):
        seen.append(pick(now))
        return seen[-1]

    def ended(v, batch, p, now):
        before = t.method.sel.clone()
        end_step(v, batch, p, now)
        changed = (t.method.sel != before).nonzero().flatten().tolist()
        assert set(changed) <= set(batch.index_u.tolist())
    t.data.pick, t.method.end_step = picked, ended
    kit.losses_of(t, range(9))
    for batch, raw in seen:
        assert torch.equal(raw["unlabelled"], t.data.images[t.data.unlabelled[batch.index_u]])
        assert torch.equal(raw["labelled"], t.data.images[t.data.labelled[batch.index_l]])
        assert torch.equal(batch.y, t.data.y[batch.index_l])
        assert torch.equal(batch.known_u, torch.isin(t.data.unlabelled[batch.index_u], t.data.labelled))
    assert len({tuple(sorted(batch.index_u.tolist())) for batch, _ in seen}) > 5
    outside = torch.tensor([i for i in range(120) if i not in set(t.data.unlabelled.tolist())][:1])
    with pytest.raises(BadInput, match="images of the unlabelled set"):
        t.data.set_members("unlabelled", outside, torch.tensor([-1]))


def test_set_members_takes_effect_in_the_next_step_and_survives_a_checkpoint(stub):
    class Other(FixMatch):
        called: list[int] = []

        def host_every(self):
            return 3

        def host_work(self, ctx):
            self.called.append(ctx.step)
            ctx.data.set_members("labelled", ctx.data.labelled[:5], ctx.data.y[:5])
    t = stub(Other)()
    kit.losses_of(t, range(3))
    assert len(t.data.streams["labelled"].members) == 5
    t.data.prepare(3)
    batch, _ = t.data.batch(kit.time(3))
    assert int(batch.index_l.max()) < 5 and len(batch.y) == 8, "a set smaller than the batch fills it by repeating"
    again = stub(Other)()
    again.load_state_dict({k: v.clone() for k, v in t.state_dict().items()})
    assert Other.called == [3]
    assert kit.losses_of(again, range(3, 7)) == kit.losses_of(t, range(3, 7))
    assert Other.called == [3, 6, 6]


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
    kit.losses_of(t, range(1))
    assert t.graphs
    kit.losses_of(t, range(1, 2))
    assert not t.graphs


# ---- generations (CReST): a fresh network and a rate that begins anew ------------------------------------------------


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

    t = kit.check_resume(stub(Generations), STEPS, [4, 6, 9], tmp_path)
    assert Generations.entered[:2] == [("g1", 4, "g1"), ("g2", 9, "g2")] and int(t.method.steps_seen) == STEPS
    t = stub(Generations)()
    start = {k: v.clone() for k, v in t.net.state_dict().items()}
    rates = []
    for _ in range(STEPS):
        t.advance()
        rates.append(float(t.lr))
    close(rates, [t.run.lr * math.cos(7 * math.pi * i / (16 * length)) for length in (4, 5, 3) for i in range(length)],
          1e-6)
    t.restart()
    for name, value in t.net.state_dict().items():
        assert torch.equal(value, start[name]) or name.endswith("num_batches_tracked"), name
    assert not any(x.any() for o in t.optimisers for state in o.state.values() for x in state.values())
    kit.same_state(t.average.net.state_dict(), t.net.state_dict())


# ---- initial values --------------------------------------------------------------------------------------------------


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
    kit.same_state(*states)
