"""What keeps a step fast, held without a clock: no operation of it waits for the device, each of its parts is traced as
one graph, and once a phase has made its first step nothing is compiled again. And compiled parts compute what
uncompiled ones do.

Tracing is PyTorch's own, but no code is generated (backend "eager") except for the compiled values, which take most of
a minute until PyTorch's cache has their code. Losses, state and the network's passes are traced for every method in
each of its phases, on a small backbone but where the backbone itself is used in another way. Views depend on a method
through its plan alone and take the longest to trace, so each plan's are traced once. Every pair of methods is held to
the first rule; pairs are one class that inherits from both, and of the second rule only a few are asked, each with code
that no other case runs.
"""
from __future__ import annotations

import shutil
from types import SimpleNamespace

import kit
import pytest
import torch
from kit import SEQUENTIAL, VARIANTS, losses_of, same_state, smoke_run, smoke_trainer

from semilib.data import augment, rng
from semilib.data.step import StepImages, Time
from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.speed import costs
from semilib.training import compiling, engine

CAPTURED = [v for v in VARIANTS if v not in SEQUENTIAL]
CPU = torch.device("cpu")
SINCE_2_14 = compiling.can_compile(CPU)


def running(t: engine.Trainer):
    """Makes the first step of each phase in turn and gives its name.
    Of phases that start together only the last makes a step."""
    for index in range(len(t.phases)):
        if index == 0 or index > t.phase_index:
            costs.enter(t, index)
            yield t.phase


def one_more(t: engine.Trainer) -> dict[str, float]:
    t.data.prepare(int(t.now))
    t.compute_step()
    return {name: float(loss) for name, loss in t.last_losses.items()}


def end_period(t: engine.Trainer) -> None:
    """What the host does at the end of the running phase's next period, if the method has one."""
    every = t.method.host_every()
    if every:
        t.jump(-(-int(t.now) // every) * every)
        t.method.host_work(t.context(t.step))


# ---- nothing waits for the device ------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", CAPTURED)
def test_no_step_waits_for_the_device(variant, source, plans, backbone, kept_views):
    """In every phase, within a period and after the end of one. A phase's first step fills small tables and is not
    watched. The views are, plan by plan, in `test_views_are_compiled_once_and_whole`."""
    t, seen = smoke_trainer(variant, source), []
    for phase in running(t):
        assert images_of(t.data.step_images) in plans, f"{phase}: its views are watched by no test"
        for between in (lambda t: None, end_period):
            between(t)
            t.data.prepare(int(t.now))
            now = Time(t.now, t.total, t.dtype, t.phase)
            images = t.views(t.data.pick(now)[1], now)
            t.parts["views"] = lambda raw, now, images=images: images
            with kit.Captured():
                t.compute_step()
        t.parts["views"] = t.views
        seen.append(phase)
    assert seen == list({s.start: s.name for s in t.phases}.values())


WAITS = {"item": lambda x: x.sum().item(), "float": lambda x: float(x[0]), "bool": lambda x: bool((x > 0).all()),
         "equal": lambda x: torch.equal(x, x.clone()), "nonzero": lambda x: x.nonzero(),
         "where": lambda x: torch.where(x > 0), "unique": lambda x: x.unique(),
         "bincount": lambda x: x.long().bincount(),
         "masked_select": lambda x: x.masked_select(x > 1), "index by a mask": lambda x: x[x > 1],
         "write by a mask": lambda x: x.index_put_((x > 1,), torch.tensor(0.)),
         "assign by a mask": lambda x: x.__setitem__(x > 1, -x[:2]),
         "repeat by a tensor": lambda x: x.repeat_interleave(x.long()), "tolist": lambda x: x.tolist(),
         "numpy": lambda x: x.numpy(), "cpu": lambda x: x.cpu()}


@pytest.mark.parametrize("name", WAITS)
def test_the_trap_for_waiting_works(name):
    WAITS[name](torch.tensor([1., 2., 3.]))
    with pytest.raises(AssertionError, match="in a step"), kit.Captured():
        WAITS[name](torch.tensor([1., 2., 3.]))


def test_the_trap_for_waiting_lets_all_else_pass():
    x, i = torch.tensor([1., 2., 3.], requires_grad=True), torch.tensor([2, 0])
    with kit.Captured():
        y = x[i] + torch.where(x > 1, x, 0)[:2] + x[:2].masked_fill(x[:2] > 1, 0)
        y.repeat_interleave(2).sum().backward()
    assert x.grad.tolist() == [4, 2, 2]


# ---- one graph a part, compiled once a phase -------------------------------------------------------------------------


def nothing_compiles():
    """Within, a recompilation is an error, which names what changed."""
    return torch._dynamo.config.patch(error_on_recompile=True)


def images_of(plan: StepImages) -> str:
    """All that views depend on."""
    return repr((list(plan.views.items()), plan.streams))


TRACED = {**{name: VARIANTS[name] for name in METHODS},
          # all the others alike
          **{name: {"method": name, "options": {"generations": 2}} for name in ("crest", "crestplus")},
          **{name: VARIANTS[name]
             for name in ("remixmatch+cossl", "remixmatch+bacon", "daso+oheml+plce+align", "semi-pool")},
          "bf16": {"method": "semi", "precision": "bf16"}}
# A method for each plan, and the images' other settings.
VIEWS = {"labelled": {"method": "supervised"}, "usual": {"method": "fixmatch"}, "partners": {"method": "cossl"},
         "strong labelled": {"method": "simpro"}, "sim": {"method": "ccl"},
         "pool B": {"method": "fixmatch", "strong_pool": "B"},
         "pool C": {"method": "fixmatch", "strong_pool": "C", "crop": "zero"}}


@pytest.fixture(scope="module")
def plans(source):
    """The plans of VIEWS."""
    trainers = [engine.Trainer(smoke_run(**changes), source) for changes in VIEWS.values()]
    for t in trainers:
        t._open_phase(len(t.phases) - 1)
    return {images_of(t.data.step_images) for t in trainers}


@pytest.mark.parametrize("variant", TRACED)
def test_every_phase_is_compiled_once_and_whole(variant, source, tracer, plans, backbone, kept_views):
    """And gives what it gives uncompiled, to the last bit; before 2.14 PyTorch's tracing takes the average's weighted
    mean apart, which then rounds twice, so there in float64 and within its rounding. A graph break raises in a phase's
    first step."""
    changes = {"precision": "auto" if SINCE_2_14 else "fp64", **TRACED[variant]}
    t, plain = (engine.Trainer(smoke_run(**{**changes, "capture": c}), source) for c in ("compile", "off"))
    t.parts["views"] = t.views
    for phase, _ in zip(running(t), running(plain), strict=True):
        assert images_of(t.data.step_images) in plans, f"{phase}: its views are traced by no test"
        made, ran = tracer.made, tracer.ran
        for between in (lambda t: None, lambda t: None, end_period):
            for each in (t, plain):
                between(each)
            with nothing_compiles():
                have = one_more(t)
            want = one_more(plain)
            assert have == (want if SINCE_2_14 else pytest.approx(want))
        assert made > 0 and tracer.made == made, f"{phase}: compiled again"
        assert tracer.ran == ran + 6, f"{phase}: a part was not run as compiled"
    have, want = t.state_dict(), plain.state_dict()
    if SINCE_2_14:
        same_state(have, want)
    else:
        assert have.keys() == want.keys()
        for name in want:
            torch.testing.assert_close(have[name], want[name], msg=name)


@pytest.mark.parametrize("name", VIEWS)
def test_views_are_compiled_once_and_whole(name, source, tracer):
    t = engine.Trainer(smoke_run(**VIEWS[name], capture="compile"), source)
    t._open_phase(len(t.phases) - 1)
    for step in range(3):
        t.data.prepare(step)
        t.jump(step)
        now = Time(t.now, t.total, t.dtype, t.phase)
        raw = t.data.pick(now)[1]
        with nothing_compiles():                   # a first compilation passes
            have = t.parts["views"](raw, now)
        with kit.Captured():
            want = t.views(raw, now)
        assert have.keys() == want.keys() and all(torch.equal(have[view], want[view]) for view in want)
        assert (tracer.made, tracer.ran) == (1, step + 1)


def test_what_cannot_be_captured_is_not_compiled(source, tracer):
    t = smoke_trainer("semi-readme", source, capture="compile")
    assert not t.method.capturable and t.parts["losses_of_step"] == t.losses_of_step
    one_more(t)
    assert tracer.made == 0


def test_the_traps_for_breaks_and_recompilations_work(tracer):
    x = torch.ones(3)
    assert compiling.compile_parts({"part": lambda x: x + 1})["part"](x).tolist() == [2, 2, 2]
    assert (tracer.made, tracer.ran) == (1, 1)
    for breaks in (lambda x: x + 1 if x.sum() > 0 else x, lambda x: (print("in a step"), x + 1)):
        with pytest.raises(torch._dynamo.exc.TorchDynamoException):
            compiling.compile_parts({"part": breaks})["part"](x)
    state = SimpleNamespace(factor=2)
    part = compiling.compile_parts({"part": lambda x: x * state.factor})["part"]
    made = tracer.made
    assert part(x).tolist() == [2, 2, 2] and tracer.made == made + 1
    state.factor = 3
    with nothing_compiles(), pytest.raises(torch._dynamo.exc.RecompileError, match="factor"):
        part(x)
    assert part(x).tolist() == [3, 3, 3] and tracer.made == made + 2           # what the count shows without that error


# ---- many runs in one process ----------------------------------------------------------------------------------------


def test_a_dozen_runs_one_after_the_other_are_all_compiled(small, tracer):
    for seed in range(12):
        t = kit.trainer("supervised", seed=seed, capture="compile")
        t.parts["views"] = t.views
        losses_of(t, range(2))
        assert (tracer.made, tracer.ran) == (2 * (seed + 1), 4 * (seed + 1))


def test_two_runs_in_turn_stay_compiled(small, tracer):
    """The second run's start forgets what was compiled for the first. When that goes on it shares what was compiled for
    the second, but for its own constants."""
    steps = [range(n, n + 1) for n in range(4)]
    want = [[losses_of(t, s) for s in steps] for t in (kit.trainer("supervised", seed=seed) for seed in (0, 1))]
    first = kit.trainer("supervised", seed=0, capture="compile")
    have = [[losses_of(first, steps[0])], []]
    second = kit.trainer("supervised", seed=1, capture="compile")
    have[1].append(losses_of(second, steps[0]))
    have[0].append(losses_of(first, steps[1]))
    made = tracer.made
    assert 6 < made <= 9 and tracer.ran == 9
    with nothing_compiles():
        for t, seen in ((second, have[1]), (first, have[0]), (second, have[1]), (first, have[0]), (second, have[1])):
            seen.append(losses_of(t, steps[len(seen)]))
    assert (tracer.made, tracer.ran) == (made, 24) and have == want


def test_more_runs_than_versions_are_kept(tracer):
    x = torch.ones(2)
    for n in range(compiling.ROOM + 5):
        state = SimpleNamespace(factor=n)
        assert compiling.compile_parts({"part": lambda x, state=state: x * state.factor})["part"](x).tolist() == [n, n]
        assert tracer.made == tracer.ran == n + 1


# ---- compiled values -------------------------------------------------------------------------------------------------


needs_compiler = pytest.mark.skipif(not (compiling.can_compile(CPU) and any(map(shutil.which, ("g++", "clang++")))),
                                    reason="needs a C++ compiler and a PyTorch that compiles for CPUs")


@needs_compiler
def test_compiled_views_are_the_same_in_every_bit(monkeypatch):
    """A strong view, which makes a weak one first, over all of its operations:
    one slot of them, which halves the code."""
    monkeypatch.setitem(augment.SLOTS, "A", 1)
    t = kit.trainer("fixmatch", precision="fp64")

    def view(raw, step):
        return t.data.normalise(t.data.view(raw, "strong", "s1", step), t.dtype)
    x, drawn = t.data.images[:32], set()
    compiled = compiling.compile_parts({"views": view})["views"]
    for n in range(12):
        step = torch.tensor(n)
        assert torch.equal(compiled(x, step), view(x, step)), n
        drawn |= set(augment.draw_ops(rng.words(t.run.seed, "view/s1", step, 32, 10)[:, 3:7], "A", 16, 16)[0].tolist())
    assert drawn == set(range(14))


@needs_compiler
def test_a_compiled_step_is_an_uncompiled_one_but_for_rounding(small):
    """Losses and state in float64, over steps in which some pseudo-labels count."""
    compiled, plain = (kit.trainer("fixmatch", {"threshold": 0.4}, precision="fp64", capture=c)
                       for c in ("compile", "off"))
    compiled.parts["views"] = compiled.views
    for have, want in zip(losses_of(compiled, range(6)), losses_of(plain, range(6)), strict=True):
        assert have == pytest.approx(want, rel=1e-12, abs=1e-14)
    have, want = compiled.state_dict(), plain.state_dict()
    assert have.keys() == want.keys() and 0 < want["monitor/predicted"].sum() < want["monitor/shown"]
    for name in want:
        torch.testing.assert_close(have[name], want[name], rtol=1e-10, atol=1e-13, msg=name)


def test_compiling_without_a_compiler_is_refused(monkeypatch, source):
    monkeypatch.setattr(compiling, "can_compile", lambda device: True)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(BadInput, match=r"capture='compile'.*C\+\+ compiler"):
        smoke_trainer("fixmatch", source, capture="compile")
    smoke_trainer("fixmatch", source)                                                     # auto needs none on a CPU


def test_compiling_with_a_pytorch_that_cannot_is_refused_and_auto_does_without(monkeypatch, source):
    monkeypatch.setattr(torch, "__version__", "2.6.1+cpu")
    with pytest.raises(BadInput, match=r"capture='compile': off: .* cpu from PyTorch 2\.14 on, and this is 2\.6\.1"):
        smoke_trainer("fixmatch", source, capture="compile")
    how = {}
    for version in ("2.6.1+cpu", "2.11.0+cu130", "2.14.1+cu130", "3.0.0"):
        monkeypatch.setattr(torch, "__version__", version)
        how[version] = [engine.resolve_capture(smoke_run(), torch.device(device)) for device in ("cuda", "cpu")]
    assert how == {"2.6.1+cpu": ["graph", "off"],
                   **dict.fromkeys(("2.11.0+cu130", "2.14.1+cu130", "3.0.0"), ["compile+graph", "off"])}
