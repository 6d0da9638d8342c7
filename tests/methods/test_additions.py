"""SeMi's modules on other methods: switched off they change nothing, on each host each of them changes the loss, on
FixMatch they are SeMi, and hosts that they cannot help refuse them."""
import kit
import pytest
import torch
from kit import smoke_run

from semilib.errors import BadInput
from semilib.methods import METHODS, get
from semilib.methods.losses import reduce
from semilib.training import engine

pytestmark = pytest.mark.usefixtures("kept_views")

HOSTS = ("fixmatch", "freematch", "daso", "acr", "cpe", "abc", "darp")
OFF = {"oheml": {"oheml_scale": 0.0}, "plce": {"plce_alpha": 0.0}, "align": {"align_lambda": 0.0}}
EARLY = {"semi_warmup": 1}
QUICK = {"oheml": {}, "align": {},
         "plce": {"plce_epoch": 1, "plce_decay_every": 2, "plce_slots": 8, "plce_alpha": 1.0, "plce_u": "max"}}


def threshold(host: str, value: float) -> dict:
    """One that an untrained network's rows pass (0.12), miss (0.3), or partly pass (0.2)."""
    return {"threshold": value} if "threshold" in get(host).smoke else {}


def losses(method: str, source, steps: int = 5, acts: str = "", **changes) -> list[dict[str, float]]:
    """The losses of the first steps; the module `acts` has acted in them."""
    t = engine.Trainer(smoke_run(method, **changes), source)
    out = []
    for _ in range(steps):
        t.advance()
        out.append({name: float(x) for name, x in t.last_losses.items()})
    assert not acts or (acts in t.method.must_act and acts not in t.monitor.never_active(t.method.must_act))
    return out


@pytest.mark.parametrize("host", HOSTS)
def test_modules_that_are_switched_off_leave_the_host_to_the_last_bit(host, source):
    off = {k: v for options in OFF.values() for k, v in options.items()}
    plain = losses(host, source, steps=3, options=threshold(host, 0.12))
    found = losses(host, source, steps=3, add="oheml+plce+align", options={**threshold(host, 0.12), **EARLY, **off})
    assert [{k: x for k, x in step.items() if k != "e"} for step in found] == plain
    assert all(step["e"] == 0 for step in found)


@pytest.mark.parametrize("host", HOSTS)
def test_every_module_acts_on_every_host(host, source):
    for module, tau in (("oheml", 0.12), ("plce", 0.2), ("align", 0.3)):
        plain = losses(host, source, options=threshold(host, tau))
        options = {**threshold(host, tau), **EARLY, **QUICK[module]}
        with_it = losses(host, source, acts=module, add=module, options=options)
        no_e = {"e": 0.0} if module == "align" else {}
        assert with_it[0] == {**plain[0], **no_e}, "nothing acts during the warm-up"
        assert any({k: x for k, x in a.items() if k != "e"} != b for a, b in zip(with_it, plain, strict=True)), module


def test_on_fixmatch_they_are_semi_without_its_balanced_head(source):
    """With one threshold and no blend the masks agree, so the step is the same to the last bit."""
    shared = {"threshold": 0.2}
    semi = losses("semi", source, options={**shared, "balanced_head": False, "plce": False, "warmup": 2})
    fixmatch = losses("fixmatch", source, add="oheml+align", options={**shared, "semi_warmup": 2})
    assert [s.keys() for s in semi] == [{"x": 0, "u": 0, "e": 0}.keys()] * 5
    assert fixmatch == [{name: pytest.approx(x, rel=1e-6) for name, x in step.items()} for step in semi]


def test_the_blend_is_semis():
    """The same bank, share and step give SeMi's blended distribution."""
    steps = 40
    options = {"threshold": 0.5, "semi_warmup": 1, "plce_epoch": 2, "plce_slots": 4}
    host = kit.method("fixmatch", options, steps=steps, add="plce")
    semi = kit.method("semi", {"threshold": 0.5, "warmup": 1, "epoch": 2, "slots": 4, "balanced_head": False,
                               "embedding_align": False, "decay_every": 1}, steps=steps)
    for step in range(6):
        v, batch = kit.drawn(step)
        t = kit.time(step, steps)
        p = host.pseudo(v, batch, t)
        semi.blend.load_state_dict(host.plce_blend.state_dict())
        kit.close(p.prob, semi.blend(v.w["head"].softmax(-1), v.s1.f, t), 1e-12)
        host.end_step(v, batch, p, t)
    assert host.plce_blend.bank.prototypes()[1].any() and (p.prob - v.w["head"].softmax(-1)).abs().max() > 1e-3


def test_entropy_weights_act_within_the_host_s_mask_and_divisor():
    from semilib.methods.semi import entropy_weight
    m = kit.method("fixmatch", {"threshold": 0.5, "semi_warmup": 0, "oheml_scale": 0.6}, add="oheml")
    plain = kit.method("fixmatch", {"threshold": 0.5})
    v, batch = kit.drawn(3)
    t = kit.time(3)
    p = m.pseudo(v, batch, t)
    have, base = m.terms(v, batch, p, t)["u"], plain.terms(v, batch, p, t)["u"]
    by_hand = (base.rows * base.weight * torch.cat([entropy_weight(p.prob, 0.6)] * 2)).sum() / len(base.rows)
    kit.close(reduce(have), by_hand, 1e-12)
    assert base.weight.sum() > 0 and float(reduce(have)) < float(reduce(base))


def test_hosts_that_cannot_profit_refuse_with_the_reason():
    reasons = {"supervised": "no unlabelled images", "remixmatch": "mixed into the images", "semi": "all three"}
    for host, reason in reasons.items():
        with pytest.raises(BadInput, match=f"add='oheml'.*{reason}"):
            smoke_run(host, add="oheml")
    with pytest.raises(BadInput, match="mixed into the images"):
        smoke_run("abc", base="remixmatch", add="align")
    with pytest.raises(BadInput, match="did you mean 'oheml'"):
        smoke_run("fixmatch", add="ohem")
    with pytest.raises(BadInput, match="once"):
        smoke_run("fixmatch", add="oheml+oheml")


def test_each_method_takes_them_or_says_why_not():
    for name in METHODS:
        cls = get(name)
        parts = [c for c in cls.__mro__ if "refuses" in c.__dict__ and "add" in c.refuses]
        if name in HOSTS:
            assert not parts, name
        if parts:
            assert len(parts[0].refuses["add"]) > 20
        else:
            assert smoke_run(name, add="oheml+plce+align").label == f"{name}+oheml+plce+align"
