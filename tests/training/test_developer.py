"""What a method's author is told, and when: misspelt names, shapes that do not fit, components that no one hears of."""
from __future__ import annotations

import pytest
import torch
from kit import last_phase, losses_of, smoke_run, smoke_trainer

from semilib.data.step import Batch, Notes
from semilib.errors import BadInput, MethodError, TrainingError
from semilib.methods import METHODS
from semilib.methods.base import Phase, Pseudo
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term, reduce
from semilib.training import record
from semilib.training.config import Run
from semilib.training.engine import Trainer, resolve_capture
from semilib.training.progress import Progress
from semilib.training.train import train

PROB = torch.full((4, 3), 1 / 3)


def pseudo() -> Pseudo:
    return Pseudo(prob=PROB, label=torch.arange(4), mask=torch.ones(4))


# ---- the values of a step --------------------------------------------------------------------------------------------


def test_a_field_that_pseudo_labels_do_not_have_is_refused_by_name_on_writing_and_on_reading():
    p = pseudo()
    with pytest.raises(AttributeError, match=r"Pseudo has no field 'msk': it has branches, label, .*add\(msk=\.\.\.\)"):
        p.msk = torch.zeros(4)
    with pytest.raises(AttributeError, match="this step's Pseudo has no 'msk': it has prob, label, mask, target, br"):
        p.msk  # noqa: B018
    with pytest.raises(TypeError, match="'mask'"):
        Pseudo(prob=PROB, label=torch.arange(4))
    with pytest.raises(TypeError, match="'msk'"):
        Pseudo(prob=PROB, label=torch.arange(4), msk=torch.ones(4))


def test_a_method_adds_fields_of_its_own_but_none_twice():
    p = pseudo().add(label_b=torch.zeros(4))
    p.label_b = torch.ones(4)                                               # once added it is a field like any other
    assert p.label_b.sum() == 4 and "label_b" not in vars(pseudo())
    for name in ("label_b", "mask"):
        with pytest.raises(MethodError, match=f"Pseudo has a field '{name}' already"):
            p.add(**{name: torch.zeros(4)})


def test_pseudo_labels_that_say_no_more_are_trained_on_their_labels_and_have_one_branch():
    p = pseudo()
    assert p.target is p.label and list(p.branches) == ["u"] and p.branches["u"] is PROB
    soft = Pseudo(PROB, p.label, p.mask, target=PROB, branches={})
    assert soft.target is PROB and soft.branches == {}


def test_a_batch_without_unlabelled_images_says_so():
    batch = Batch(y=torch.arange(2), index_l=torch.arange(2))
    with pytest.raises(AttributeError, match="this step's Batch has no 'index_u': it has y, index_l, notes"):
        batch.index_u  # noqa: B018
    with pytest.raises(AttributeError, match="Batch has no field 'semantic'"):
        batch.semantic = PROB


def test_a_note_that_no_hook_wrote_is_an_error_and_each_batch_has_notes_of_its_own():
    first, second = Batch(), Batch()
    first.notes.semantic = PROB
    assert first.notes.semantic is PROB and not hasattr(second.notes, "semantic")
    with pytest.raises(AttributeError, match="this step's Notes has no 'semantic': it has nothing"):
        second.notes.semantic  # noqa: B018


def test_a_changed_copy_leaves_the_original_as_it_is():
    batch = Batch(y=torch.arange(2), notes=Notes(mixed=1))
    other = batch.with_(y=PROB, notes=batch.notes.with_(mixed=2))
    assert batch.y.tolist() == [0, 1] and batch.notes.mixed == 1
    assert other.y is PROB and other.notes.mixed == 2
    with pytest.raises(AttributeError, match="no field 'target'"):
        batch.with_(target=PROB)


def test_printed_a_batch_and_pseudo_labels_show_each_field_s_dtype_and_shape():
    batch = Batch(y=torch.arange(2), targets={"labelled": torch.zeros(2, 3)}, notes=Notes(semantic=PROB))
    assert repr(batch) == ("Batch(y: int64 [2], targets: {labelled: float32 [2, 3]}, "
                           "notes: Notes(semantic: float32 [4, 3]))")
    assert repr(pseudo().add(sure=torch.ones(4, dtype=torch.bool))) == (
        "Pseudo(prob: float32 [4, 3], label: int64 [4], mask: float32 [4], target: int64 [4], "
        "branches: {u: float32 [4, 3]}, sure: bool [4])")


# ---- the schedule ----------------------------------------------------------------------------------------------------


def test_a_lead_in_may_be_no_steps_and_another_duration_may_not(source):
    assert Trainer(smoke_run("semi", options={"warmup": 0}), source).method.durations()["warmup"] == 0
    with pytest.raises(BadInput, match="epoch=0: between 1 and 23 steps"):
        Trainer(smoke_run("semi", options={"epoch": 0}), source)


def test_a_jump_makes_another_step_the_next_one(source):
    walked, jumped = (Trainer(smoke_run("fixmatch"), source) for _ in range(2))
    for _ in range(2):
        walked.advance()
    jumped.jump(2)
    assert jumped.step == walked.step == int(jumped.now) == int(walked.now) == 2
    seen = []
    for t in (walked, jumped):
        pick = t.data.pick
        t.data.pick = lambda now, pick=pick: seen.append(pick(now)) or seen[-1]
        t.advance()
    assert torch.equal(seen[0][0].index_u, seen[1][0].index_u) and jumped.step == 3


# ---- terms -----------------------------------------------------------------------------------------------------------


ROWS = torch.ones(4)


@pytest.mark.parametrize("term, wrong", [
    (Term(ROWS, torch.ones(4, 1)), r"term 'u': a weight of shape \[4, 1\] beside rows of shape \[4\]"),
    (Term(ROWS, torch.ones(1)), r"a weight of shape \[1\] beside rows"),
    (Term(torch.ones(4, 1)), r"term 'u': rows of shape \[4, 1\]"),
    (Term(ROWS.sum()), r"rows of shape \[\]; a term has one loss a row"),
    (Term(ROWS, torch.ones(4, requires_grad=True)), "its weight has a gradient"),
    (Term(ROWS, None, "mean"), "the denominator 'mean'; it is 'rows', 'weight' or a number"),
    (Term(ROWS, None, torch.ones(4)), r"a denominator of shape \[4\]"),
    (Term(ROWS, scale=torch.ones(4)), r"a scale of shape \[4\]; it is a number or a 0-dim tensor")])
def test_a_term_whose_parts_do_not_fit_is_refused_by_its_name(term, wrong):
    with pytest.raises(MethodError, match=wrong):
        reduce(term, "u")


def test_the_engine_names_the_term_that_does_not_fit(method, source):
    class Wide(FixMatch):
        def terms(self, v, batch, p, t):
            out = super().terms(v, batch, p, t)
            return {**out, "u": out["u"]._replace(weight=out["u"].weight.unsqueeze(1))}
    with pytest.raises(MethodError, match=r"term 'u': a weight of shape \[32, 1\]"):
        method(Wide).advance()


# ---- hooks -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def method(monkeypatch, source):
    """Makes a trainer of a method's class."""
    def make(cls: type[FixMatch], **changes) -> Trainer:
        monkeypatch.setitem(METHODS, "mine", cls)
        return Trainer(smoke_run("mine", **{"options": {"threshold": 0.12}, **changes}), source)
    return make


@pytest.mark.parametrize("name, meant", [
    ("end_steps", "end_step"), ("psuedo", "pseudo"), ("host_evry", "host_every"),
    ("must_acts", "must_act"), ("predicts", "predict")])
def test_a_misspelt_hook_is_refused_when_its_class_is_made(name, meant):
    with pytest.raises(MethodError, match=f"Mine.{name}: no hook has this name.*did you mean '{meant}'"):
        type("Mine", (FixMatch,), {name: lambda self, *given: None})


def test_a_helper_that_the_class_uses_may_be_called_nearly_as_a_hook():
    class Mine(FixMatch):
        pseudo_logit = property(lambda self: 1)

        def end_steps(self, *given):
            return self.end_steps

        def terms(self, v, batch, p, t):
            return [super().terms(v, batch, p, t), self.end_steps, self.pseudo_logit]

    class Heir(Mine):                                       # and a class that inherits it may change it
        def end_steps(self, *given):
            return None
    assert Heir.end_steps is not Mine.end_steps
    with pytest.raises(MethodError, match="end_steps"):     # a helper that only calls itself is not used
        type("Loop", (FixMatch,), {"end_steps": lambda self: self.end_steps()})


# ---- components ------------------------------------------------------------------------------------------------------


def test_a_component_that_must_act_does_not_know_is_refused_in_the_first_step(method):
    class Mine(FixMatch):
        def acted(self, v, batch, p, t, terms):
            return {**super().acted(v, batch, p, t, terms), "blended": p.mask.sum() > 0}
    with pytest.raises(MethodError, match="Mine.acted: 'blended' is not in must_act, which has 'u'"):
        method(Mine).advance()


def test_a_component_that_acted_never_reports_is_refused_after_the_first_step_of_the_last_phase(method):
    class Mine(FixMatch):
        must_act = {**FixMatch.must_act, "late": "begin earlier"}
        reports = True

        def phases(self):
            return [Phase("first"), Phase("last", 3)]

        def acted(self, v, batch, p, t, terms):
            out = super().acted(v, batch, p, t, terms)
            return {**out, "late": p.mask.sum() > 0} if t.phase == "last" and self.reports else out
    t = method(Mine)
    for _ in range(6):
        t.advance()

    class Silent(Mine):
        reports = False
    t = method(Silent)
    for _ in range(3):
        t.advance()
    with pytest.raises(MethodError, match="Silent.acted: it reports 'late' of must_act in no phase; it reports 'u'"):
        t.advance()


def test_a_run_that_goes_on_in_its_last_phase_does_not_ask_again_for_what_acted_before(method, tmp_path):
    class Mine(FixMatch):
        must_act = {**FixMatch.must_act, "early": "train longer"}

        def phases(self):
            return [Phase("first"), Phase("last", 3)]

        def acted(self, v, batch, p, t, terms):
            out = super().acted(v, batch, p, t, terms)
            return {**out, "early": p.mask.sum() >= 0} if t.phase == "first" else out
    t = method(Mine)
    for _ in range(5):
        t.advance()
    again = method(Mine)
    again.load_state_dict(t.state_dict())
    again.advance()
    assert again.complete and again.reported == {"u"}


class Told(Progress):
    def __init__(self):
        super().__init__()
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def test_a_component_that_has_not_acted_after_a_quarter_of_the_run_is_told_once(tmp_path, source):
    told = Told()
    run = smoke_run("fixmatch", options={"threshold": 1.0}, eval_every=4, strict=True)
    with pytest.raises(TrainingError, match="never active in 24 steps"):
        train(run, folder=tmp_path, progress=told, source=source)
    assert told.notes == ["mnistm5k-lt.n40.m360.g20-20.s0/fixmatch: not active in the first 8 of 24 steps: "
                          "u (no pseudo-label reached the threshold: lower it, or train longer)"]


def test_a_component_that_has_acted_or_may_begin_later_is_not_told_of(tmp_path, source):
    for name, changes in (("fixmatch", {}), ("bacon", {"steps": 48})):         # BaCon's term begins at half of the run
        told = Told()
        train(smoke_run(name, eval_every=6, **changes), folder=tmp_path / name, progress=told, source=source)
        assert told.notes == [], name


# ---- options and checkpoints -----------------------------------------------------------------------------------------


def test_an_option_without_its_method_s_name_is_told_where_it_belongs():
    with pytest.raises(BadInput, match="threshold=0.5: an option of fixmatch: fixmatch.threshold=0.5 on the command"):
        Run.of(method="fixmatch", threshold=0.5)
    with pytest.raises(BadInput, match=r"plce_alpha=0.5: an option of acr: .*options={'plce_alpha': 0.5} in Python"):
        Run.of(method="acr", add="plce", plce_alpha=0.5)
    with pytest.raises(BadInput, match="parameter='treshold': unknown"):
        Run.of(method="fixmatch", treshold=0.5)


@pytest.mark.parametrize("name, other, wrong", [
    ("method/beta", "method/share", r"it holds method/share \[10\] where this code has method/beta \[10\]"),
    ("net/heads.head.bias", "net/heads.first.bias", r"it holds net/heads.first.bias \[10\] where this code has net/"),
    ("average/heads.head.bias", None, r"it holds no more where this code has average/heads.head.bias \[10\]")])
def test_a_checkpoint_of_other_code_is_refused_with_what_differs(name, other, wrong, source):
    trainer = Trainer(smoke_run("flexmatch"), source)
    state = trainer.state_dict()
    value = state.pop(name)
    with pytest.raises(TrainingError, match=rf"written by other code \(run.json names its commit\): {wrong}"):
        trainer.load_state_dict({**state, **({other: value} if other else {})})


# ---- debug=True ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("variant", METHODS)
def test_debugging_passes_every_method_and_changes_no_number(variant, source, backbone, kept_views):
    debugged, plain = (smoke_trainer(variant, source, debug=debug) for debug in (True, False))
    steps = range(min(last_phase(plain) + 2, plain.total))
    assert losses_of(debugged, steps) == losses_of(plain, steps)


def test_debugging_is_not_in_the_key_and_takes_steps_as_they_are_written(tmp_path, source):
    run = smoke_run("fixmatch", debug=True)
    assert run.key == smoke_run("fixmatch").key and "debug" not in run.identity()
    assert resolve_capture(run, torch.device("cuda")) == "off" != resolve_capture(smoke_run(), torch.device("cuda"))
    assert resolve_capture(smoke_run(debug=True, capture="compile"), torch.device("cpu")) == "off"
    found = record.read(train(run, tmp_path, source=source))
    assert found["resolved"]["debug"] is True and "debug" not in found["config"]


def test_debugging_names_the_step_and_the_part_of_a_term_that_is_not_finite(method):
    class Mine(FixMatch):
        part = "rows"

        def terms(self, v, batch, p, t):
            out = super().terms(v, batch, p, t)
            bad = torch.where(t.step == 2, torch.inf, 0.0)
            u = out["u"]
            return {**out, "u": u._replace(**{self.part: getattr(u, self.part) + bad})}
    for part, message in (("rows", r"step 2: the rows of term 'u' are not finite in 32 of 32 values"),
                          ("weight", r"step 2: the weight of term 'u' is not finite in 32 of 32"),
                          ("scale", r"step 2: the scale of term 'u' is not finite in 1 of 1")):
        Mine.part = part
        t = method(Mine, debug=True)
        losses_of(t, range(2))
        with pytest.raises(TrainingError, match=message):
            t.advance()


def test_debugging_names_the_operation_whose_gradient_is_not_finite(method):
    class Mine(FixMatch):
        def terms(self, v, batch, p, t):
            out = super().terms(v, batch, p, t)
            return {**out, "root": Term((v.l["head"][:, 0] * 0).sqrt())}                    # 0, and its gradient 0 / 0
    method(Mine).advance()
    with pytest.raises(RuntimeError, match="'MulBackward0' returned nan"), \
            pytest.warns(UserWarning, match="(?s)MulBackward0.*sqrt"):
        method(Mine, debug=True).advance()
    assert not torch.is_anomaly_enabled()


@pytest.mark.parametrize("change, wrong", [
    (lambda p: {"mask": p.mask.unsqueeze(1)}, r"step 0: pseudo.mask is float32 \[16, 1\]; it is float \[16\]"),
    (lambda p: {"mask": p.mask > 0}, r"pseudo.mask is bool \[16\]; it is float \[16\]"),
    (lambda p: {"label": p.label.float()}, r"pseudo.label is float32 \[16\]; it is int64 \[16\]"),
    (lambda p: {"prob": p.prob[:, :3]}, r"pseudo.prob is float32 \[16, 3\]; it is float \[16, 10\]"),
    (lambda p: {"target": p.prob[:8]}, r"pseudo.target is float32 \[8, 10\]; it is float \[16, 10\]"),
    (lambda p: {"prob": p.prob.clone().requires_grad_()}, "with a gradient; it is float .* without one")])
def test_debugging_names_a_pseudo_label_of_a_wrong_shape_or_dtype(change, wrong, method):
    class Mine(FixMatch):
        def pseudo(self, v, batch, t):
            p = super().pseudo(v, batch, t)
            return p.with_(**change(p))

        def terms(self, v, batch, p, t):
            return {"x": super().terms(v, batch, FixMatch.pseudo(self, v.detach(), batch, t), t)["x"]}
    with pytest.raises(MethodError, match=wrong):
        method(Mine, debug=True).advance()
