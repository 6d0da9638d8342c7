"""Looking at a step without making it, and the two verbs that look at a method."""
from __future__ import annotations

import json

import pytest
import torch
from kit import last_phase, losses_of, same_state, smoke_run, smoke_trainer

from semilib import cli, files
from semilib.errors import BadInput
from semilib.methods.base import Method
from semilib.training import inspecting
from semilib.training.engine import Trainer

# ---- peek ------------------------------------------------------------------------------------------------------------


def everything(t: Trainer) -> dict[str, torch.Tensor]:
    """A copy of all that a trainer's next step depends on, what checkpoints leave out among it."""
    modules = {"net": t.net, "average": t.average.net, "method": t.method}
    out = {**t.state_dict(), "lr": t.lr, "global random state": torch.get_rng_state()}
    out |= {f"{name}/buffer {key}": value for name, module in modules.items() for key, value in module.named_buffers()}
    out |= {f"{name}/training {key}": torch.tensor(part.training) for name, module in modules.items()
            for key, part in module.named_modules()}
    out |= {f"stream/{name}/{key}": torch.as_tensor(value) for name, stream in t.data.streams.items()
            for key, value in vars(stream).items() if key not in ("name", "sampler")}
    numbers = {"step": t.step, "phase": t.phase_index, "version": t.data.version, "host": hash(t.method.phase)}
    return {name: value.clone() for name, value in {**out, **{k: torch.tensor(v) for k, v in numbers.items()}}.items()}


@pytest.mark.parametrize("variant", ["semi", "daso", "remixmatch+cossl"])
def test_a_peek_moves_nothing_and_the_steps_after_it_are_those_without_it(variant, source):
    """Also just before a phase begins, whose work on the host is then done on the copy alone."""
    watched, plain = smoke_trainer(variant, source), smoke_trainer(variant, source)
    boundary = last_phase(plain)
    for step in range(boundary + 3):
        if step in (0, 1, boundary, boundary + 2):
            before = everything(watched)
            seen = watched.peek()
            same_state(everything(watched), before)
            assert seen.step == step and torch.is_grad_enabled()
        assert losses_of(watched, range(step, step + 1)) == losses_of(plain, range(step, step + 1))
        if step in (0, 1, boundary, boundary + 2):
            assert seen.losses == {name: float(loss) for name, loss in watched.last_losses.items()}
            assert seen.phase == watched.phase
    same_state(watched.state_dict(), plain.state_dict())


def test_a_peek_prints_what_the_step_is_made_of(source):
    t = smoke_trainer("daso", source)
    losses_of(t, range(3))
    text = repr(t.peek())
    lines = text.splitlines()
    assert lines[0] == "step 3, phase main"
    assert "  l          float32 [16, 3, 16, 16]" in lines
    assert "  s          {head: float32 [32, 10], f: float32 [32, 16]}" in lines
    assert "  known_u    bool [16]" in lines and "  mask       float32 [16]" in lines
    (line,) = [line for line in lines if "weights above 0" in line]
    assert line.startswith("  u ") and line.endswith("weights above 0, over rows, times 1")
    supervised = repr(smoke_trainer("supervised", source).peek())
    assert "pseudo:\nterms:" in supervised


def test_a_peek_does_not_copy_the_images(source, monkeypatch):
    t = smoke_trainer("fixmatch", source)
    copied, deepcopy = [], torch.Tensor.__deepcopy__
    monkeypatch.setattr(torch.Tensor, "__deepcopy__",
                        lambda self, memo: copied.append(self.numel()) or deepcopy(self, memo))
    t.peek()
    assert copied and max(copied) < source.images.numel() // 100


# ---- explain and trace -----------------------------------------------------------------------------------------------


def hooks_of(text: str) -> dict[str, list[str]]:
    """Hook -> the classes that run."""
    blocks = [block.splitlines() for block in text.split("\n\n")[1:-1]]
    return {hook: [line.split()[0] for line in lines] for hook, *lines in blocks}


def test_explain_lists_the_classes_that_run_for_each_hook_outermost_first():
    text = inspecting.explain("bacon", add="oheml+plce+align")
    assert text.splitlines()[0] == "bacon: OHEML, PLCE, Align, Addition, BaCon, ABC, FixMatch, Method"
    found = hooks_of(text)
    assert found["terms"] == ["OHEML", "Align", "BaCon", "ABC", "FixMatch"]
    assert found["pseudo_prob"] == ["PLCE", "FixMatch"] and found["predict"] == ["ABC"]
    assert found["heads"] == ["BaCon", "ABC", "Method"], "down to the first that does not call super()"
    assert "host_work" in text.splitlines()[-1] and "host_work" not in found
    on_remixmatch = hooks_of(inspecting.explain("bacon", "remixmatch"))
    assert on_remixmatch["terms"] == ["BaCon", "ABC", "ReMixMatch"] and on_remixmatch["forward"] == ["ReMixMatch"]


def test_explain_gives_the_file_and_the_line_of_each_definition():
    lines = inspecting.explain("fixmatch").splitlines()
    file, number = lines[lines.index("terms") + 1].split()[1].split(":")
    assert file == "semilib/methods/fixmatch.py"
    assert "def terms" in (files.home() / file).read_text(encoding="utf-8").splitlines()[int(number) - 1]


def test_every_hook_that_a_method_may_define_is_explained():
    hooks = set(inspecting.HOOKS)
    assert {"original", "step_images", "pseudo_logits", "pseudo_prob", "terms", "acted", "enter", "predict"} <= hooks
    assert not {"per_view", "Config", "must_act"} & hooks and inspecting.definitions(Method, "terms") == [Method]


def test_the_verb_explain_takes_a_label_or_base_and_additions(capsys):
    said = []
    for words in (["remixmatch+abc"], ["abc", "base=remixmatch"], ["acr+oheml"], ["acr", "add=oheml"]):
        cli.main(["explain", *words])
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[2] == said[3] and said[0].startswith("abc: ABC, ReMixMatch, FixMatch, Method\n")
    with pytest.raises(SystemExit, match="parameter='bass': unknown; did you mean 'base'"):
        cli.main(["explain", "abc", "bass=remixmatch"])
    with pytest.raises(SystemExit, match="method='abd': unknown; did you mean 'abc'"):
        cli.main(["explain", "abd"])


def test_the_verb_trace_writes_a_trace_of_ten_steps_and_names_the_five_heaviest_operators(tmp_path, capsys):
    out = tmp_path / "semi.json"
    cli.main(["trace", "fixmatch", "profile=smoke", f"root={smoke_run().root}", "--out", str(out)])
    head, *rows, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["ms", "a", "step", "share", "calls", "a", "step", "operator"] and len(rows) == 5
    times = [float(row.split()[0]) for row in rows]
    assert times == sorted(times, reverse=True) and times[-1] > 0 and any("convolution_backward" in row for row in rows)
    assert last == f"trace: {out}" and [p.name for p in tmp_path.iterdir()] == ["semi.json"]
    events = json.loads(out.read_text())["traceEvents"]
    assert sum(event.get("name") == "Optimizer.step#SGD.step" for event in events) == 10


def test_a_run_too_short_to_trace_is_refused(tmp_path):
    with pytest.raises(BadInput, match="steps=12: at least 14: 4 to warm up and 10 that are traced"):
        inspecting.trace(smoke_run("fixmatch", steps=12), tmp_path / "t.json")
    assert not list(tmp_path.iterdir())
