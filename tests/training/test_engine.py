"""The engine's promises, for every registered method: exact resume, no gradient into targets, no global random state,
ten stored steps (what keeps a step fast is in `test_step_guard`); and what happens when a run is killed, asked for
twice, diverges, or does nothing."""
from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import sys
import time

import pytest
import torch
from kit import ROOT, VARIANTS, last_phase, losses_of, processes, same_state, smoke_run, smoke_trainer

from semilib import files
from semilib.data.step import Time
from semilib.errors import BadInput, RunBusy, TrainingError
from semilib.training import checkpoint, engine, record, writer
from semilib.training.config import Run
from semilib.training.monitor import Monitor
from semilib.training.progress import Progress
from semilib.training.train import train

GOLDEN = ROOT / "tests" / "golden"


@pytest.mark.parametrize("variant", VARIANTS)
def test_ten_steps_in_float64_are_the_stored_ones_and_leave_the_global_random_state_alone(variant, embedded, request,
                                                                                          kept_views):
    before = torch.get_rng_state()
    found = losses_of(smoke_trainer(variant, embedded, precision="fp64"), range(10))
    assert torch.equal(torch.get_rng_state(), before)
    file = GOLDEN / f"{variant}.json"
    if request.config.getoption("--regenerate"):
        file.parent.mkdir(exist_ok=True)
        made = {"platform": platform.machine(), "torch": torch.__version__, "losses": found}
        file.write_text(json.dumps(made, indent=1) + "\n")
    stored = json.loads(file.read_text())["losses"]
    assert len(stored) == 10 and [list(s) for s in stored] == [list(f) for f in found]
    for step, (want, have) in enumerate(zip(stored, found, strict=True)):
        assert have == pytest.approx(want, rel=1e-8, abs=1e-12), f"step {step}"


def test_a_run_in_float64_has_its_rate_in_float64(source):
    trainer = smoke_trainer("fixmatch", source, precision="fp64")
    losses_of(trainer, range(3))
    want = trainer.run.lr * math.cos(7 * math.pi / 16 * 2 / trainer.total)
    assert trainer.lr.dtype == torch.float64 and float(trainer.lr) == pytest.approx(want, rel=1e-15)
    assert trainer.optimisers[0].param_groups[0]["lr"] is trainer.lr


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_resumed_run_goes_on_to_the_last_bit(variant, source, tmp_path, backbone, kept_views):
    whole = smoke_trainer(variant, source)
    first = losses_of(whole, range(4))
    checkpoint.save(tmp_path / "c.npz", whole.state_dict())
    rest = losses_of(whole, range(4, 8))
    again = smoke_trainer(variant, source)
    again.load_state_dict(checkpoint.load(tmp_path / "c.npz"))
    assert again.step == 4 and len(first) == 4
    assert losses_of(again, range(4, 8)) == rest
    same_state(again.state_dict(), whole.state_dict())


# L_e reads features of other rows, weak ones among them (the release's defect 1); a mean prediction; a graph.
LEARNING_FROM_WEAK = ("semi-readme", "proportion", "remixmatch+proportion", "sage")


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in ("supervised", "la")])
def test_no_gradient_reaches_a_target(variant, source, monkeypatch, backbone, kept_views):
    t = smoke_trainer(variant, source)
    begun = max(2, last_phase(t))
    losses_of(t, range(begun))
    seen = {}
    terms = t.method.terms

    def watched(v, batch, p, time):
        seen["targets"] = [x for x in (*vars(p).values(), *vars(batch.notes).values()) if isinstance(x, torch.Tensor)]
        out = terms(v, batch, p, time)
        seen["weights"] = [term.weight for term in out.values() if term.weight is not None]
        if v.w.f.requires_grad:
            v.w.f.retain_grad()
        seen["weak"] = v.w
        return out

    monkeypatch.setattr(t.method, "terms", watched)
    t.advance()
    assert seen["targets"] and not any(x.requires_grad for x in [*seen["targets"], *seen["weights"]])
    if variant not in LEARNING_FROM_WEAK:
        assert seen["weak"].f.grad is None or not seen["weak"].f.grad.any(), "a loss reached the weak view directly"


def test_all_methods_of_a_seed_see_the_same_images(source):
    batches = []
    for method in ("supervised", "fixmatch", "semi"):
        t = engine.Trainer(smoke_run(method), source)
        t.data.prepare(5)
        batches.append(t.data.batch(Time(torch.tensor(5), t.total, t.dtype))[1])
    assert torch.equal(batches[0]["l"], batches[1]["l"])
    for name in ("l", "w", "s1", "s2"):
        assert torch.equal(batches[1][name], batches[2][name]), name
    assert not torch.equal(batches[1]["s1"], batches[1]["s2"])


def test_the_optimiser_follows_the_schedule_and_the_textbook(source):
    """Nesterov SGD with decay on weights alone, the rate of each step read from the device:
    a plain twin over three steps."""
    t = smoke_trainer("fixmatch", source, precision="fp64", steps=24)
    name = "heads.head"
    params = {k: dict(t.net.named_parameters())[f"{name}.{k}"] for k in ("weight", "bias")}
    twin = {k: p.detach().clone() for k, p in params.items()}
    velocity = {k: torch.zeros_like(p) for k, p in twin.items()}
    for step in range(3):
        t.advance()
        lr = torch.tensor(0.05 * math.cos(7 * math.pi * step / (16 * 24)), dtype=torch.float64)
        assert float(t.lr) == pytest.approx(float(lr), rel=1e-15)
        for k, p in params.items():
            g = p.grad + (5e-4 * twin[k] if k == "weight" else 0)
            velocity[k] = 0.9 * velocity[k] + g
            twin[k] -= lr * (g + 0.9 * velocity[k])
            assert torch.allclose(p, twin[k], rtol=1e-12, atol=1e-14), (step, k)


@pytest.mark.parametrize("network", ["wrn-28-2", "wrn-10-0.5"])
def test_the_backbone_compiles_to_one_graph(network):
    from semilib.networks.backbones import make_backbone
    net = make_backbone(network)
    x = torch.randn(2, 3, 32, 32)
    compiled = torch.compile(net, backend="eager", fullgraph=True)       # raises at a graph break
    assert compiled(x).shape == net(x).shape


# ---- whole runs ------------------------------------------------------------------------------------------------------


def without_times(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in line.items() if k != "seconds"} for line in log]


def test_a_run_leaves_its_record_and_is_not_repeated(tmp_path, source):
    run = smoke_run("semi")
    path = train(run, tmp_path, source=source)
    found, log = record.read(path), record.read_log(path)
    assert found["status"] == "done" and found["name"] == "mnistm5k-lt.n40.m360.g20-20.s0/semi"
    assert found["key"] == run.key
    assert [e["step"] for e in log] == [6, 12, 18, 24]
    assert found["result"]["mean_last"] == pytest.approx(sum(e["balanced_accuracy"] for e in log) / 4)
    assert found["result"]["rule"] == "mean of all 4 evaluations"
    assert found["resolved"]["durations"] == {"warmup": 1, "epoch": 1, "decay_every": 1}
    assert found["split"]["labelled_counts"][0] == 40 and found["split"]["unlabelled_counts"][0] == 400
    assert str(ROOT) not in json.dumps({k: v for k, v in found.items() if k != "config"})
    before = (path / "run.json").stat().st_mtime_ns
    assert train(run, tmp_path, source=source) == path and (path / "run.json").stat().st_mtime_ns == before
    assert record.state(run, tmp_path) == "done"


def wait_for(condition, process, seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process.is_alive() and time.monotonic() < end, "nothing happened"
        time.sleep(0.02)


@pytest.mark.skipif(os.name != "posix", reason="kill -9 is a POSIX signal")
def test_a_run_killed_at_any_moment_ends_with_the_same_numbers(tmp_path, embedded):
    run = smoke_run("semi", options={"threshold": 0.2}, keep_seconds=0.0, steps=30, eval_every=5)
    train(run, folder=tmp_path / "whole", source=embedded)

    def start():
        process = processes().Process(target=train, args=(run,), kwargs={"folder": tmp_path / "killed"})
        process.start()
        return process

    killed = start()
    for evaluations in (2, 4):
        wait_for(lambda n=evaluations: len(record.read_log(tmp_path / "killed")) >= n, killed)
        killed.kill()
        killed.join()
        assert record.read(tmp_path / "killed")["status"] == "running" and not writer.is_busy(tmp_path / "killed")
        killed = start()
    killed.join(180)
    assert killed.exitcode == 0
    logs = [without_times(record.read_log(tmp_path / name)) for name in ("whole", "killed")]
    assert len(logs[0]) == 6 and logs[0] == logs[1]
    results = [record.read(tmp_path / name)["result"] for name in ("whole", "killed")]
    assert results[0] == results[1]
    states = [checkpoint.load(tmp_path / name / "checkpoint.npz") for name in ("whole", "killed")]
    same_state(*({k: v for k, v in state.items() if k not in ("seconds", "seal")} for state in states))


def test_a_run_that_another_process_has_is_refused(tmp_path, source):
    holder = subprocess.Popen([sys.executable, "-c",
                               "import sys, time; from pathlib import Path; from semilib.training import writer\n"
                               "with writer.hold(Path(sys.argv[1])):\n print('held', flush=True); time.sleep(60)",
                               str(tmp_path)],
                              stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(RunBusy, match="another process"):
            train(smoke_run(), folder=tmp_path, source=source)
        assert writer.is_busy(tmp_path)
    finally:
        holder.kill()
        holder.wait()
    assert not writer.is_busy(tmp_path)          # the lock died with its process


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_no_checkpoint_after_it(tmp_path, source):
    run = smoke_run("fixmatch", lr=1e30, keep_seconds=0.0)
    with pytest.raises(TrainingError, match=r"the loss '[xu]' was not finite in step \d+"):
        train(run, folder=tmp_path, source=source)
    found = record.read(tmp_path)
    assert found["status"] == "failed" and "TrainingError" in found["traceback"] and "not finite" in found["error"]
    kept = tmp_path / "checkpoint.npz"
    if kept.exists():
        assert all(torch.isfinite(v).all() for k, v in checkpoint.load(kept).items()
                   if v.is_floating_point()), "a bad checkpoint"


def test_the_first_bad_step_and_term_are_named():
    monitor = Monitor(3, torch.device("cpu"))
    nan = torch.tensor(float("nan"))
    monitor.expect(("x", "u"), ())
    for step, losses in enumerate([(1.0, 2.0), (1.0, nan), (nan, nan)]):
        monitor.add({"x": torch.as_tensor(losses[0]), "u": torch.as_tensor(losses[1])}, torch.tensor(step), {})
    with pytest.raises(TrainingError, match="'u' was not finite in step 1"):
        monitor.check_finite()


NEVER_ACTED = {"u": "no pseudo-label reached the threshold: lower it, or train longer"}


def test_a_component_that_never_acts_is_told_in_the_record_and_the_last_line(tmp_path, source):
    progress = Progress()
    train(smoke_run("fixmatch", options={"threshold": 1.0}), folder=tmp_path, source=source, progress=progress)
    found = record.read(tmp_path)
    assert found["status"] == "done" and found["result"]["never_acted"] == NEVER_ACTED
    assert progress.lines()[-1].endswith("%  never acted: u")


def test_a_component_that_never_acts_is_an_error_in_a_strict_run(tmp_path, source):
    with pytest.raises(TrainingError, match=r"never active in 24 steps of fixmatch: u \(no pseudo-label reached"):
        train(smoke_run("fixmatch", options={"threshold": 1.0}, strict=True), folder=tmp_path, source=source)
    found = record.read(tmp_path)
    assert found["status"] == "failed" and found["so_far"]["evaluations"] == len(record.read_log(tmp_path)) == 4


def test_a_strict_run_is_an_error_too_where_its_record_is_done_already(tmp_path, source):
    run = smoke_run("fixmatch", options={"threshold": 1.0}, steps=6)
    train(run, folder=tmp_path, source=source)
    assert run.with_(strict=True).key == run.key
    with pytest.raises(TrainingError, match="never active in 6 steps of fixmatch: u"):
        train(run.with_(strict=True), folder=tmp_path, source=source)
    assert record.read(tmp_path)["status"] == "done", "its record stays"


def test_a_duration_outside_the_run_is_refused_before_it_starts(source):
    with pytest.raises(BadInput, match="warmup=24.*steps=24.*never becomes active"):
        engine.Trainer(smoke_run("semi", options={"warmup": 24}), source)


def test_a_finished_run_cannot_be_made_longer(tmp_path, source):
    train(smoke_run(), folder=tmp_path, source=source)
    with pytest.raises(BadInput, match="steps=48: 24.*cannot be made longer or shorter"):
        train(smoke_run(steps=48), folder=tmp_path, source=source)
    with pytest.raises(BadInput, match="lr="):
        train(smoke_run(lr=0.01), folder=tmp_path, source=source)


def test_a_run_refused_before_it_began_leaves_nothing(tmp_path, source):
    with pytest.raises(BadInput, match="n1"):
        train(smoke_run(n1=450), tmp_path / "runs", source=source)
    assert not list((tmp_path / "runs").rglob("*"))


def test_a_damaged_checkpoint_is_not_loaded(tmp_path):
    checkpoint.save(tmp_path / "c.npz", {"a": torch.arange(1000)})
    content = bytearray((tmp_path / "c.npz").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "c.npz").write_bytes(content)
    with pytest.raises(TrainingError, match="c.npz is damaged .*CRC"):
        checkpoint.load(tmp_path / "c.npz")


def test_an_interrupted_write_leaves_the_old_file(tmp_path):
    files.write_text(tmp_path / "a.txt", "old")

    def broken(file):
        file.write(b"half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        files.write_atomically(tmp_path / "a.txt", broken)
    assert (tmp_path / "a.txt").read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["a.txt"]


def test_every_optimiser_and_average_trains_and_resumes(source, tmp_path):
    for changes in ({"optimiser": "adam", "lr": 0.002}, {"ema_rule": "warmup"}, {"ema_rule": "decaying"},
                    {"rate": "constant"}, {"precision": "bf16"}, {"strong_pool": "B"}, {"decay": "all"}):
        whole = engine.Trainer(smoke_run("fixmatch", **changes), source)
        losses_of(whole, range(3))
        checkpoint.save(tmp_path / "c.npz", whole.state_dict())
        again = engine.Trainer(whole.run, source)
        again.load_state_dict(checkpoint.load(tmp_path / "c.npz"))
        assert losses_of(again, range(3, 6)) == losses_of(whole, range(3, 6)), changes
        assert all(torch.isfinite(p).all() for p in whole.average.net.parameters())


def test_a_run_with_a_held_out_fold_evaluates_on_it_and_not_on_the_test_set(source):
    plain, folded = (engine.Trainer(smoke_run(holdout=share), source) for share in (0.0, 0.25))
    left = set(folded.data.labelled.tolist())
    held = [i for i in plain.data.labelled.tolist() if i not in left]
    assert len(folded.test_y) == len(held) > 10 and torch.equal(folded.test_x, source.images[held])
    folded.advance()
    assert int(folded.evaluate().sum()) == len(held) and len(source.test_labels) == len(plain.test_y)
    assert "holdout0.25" in folded.run.cell and "holdout" not in plain.run.cell
    assert "holdout" not in plain.run.identity()


@pytest.mark.parametrize("network, units, precision", [
    ("wrn-28-2", True, "bf16"), ("wrn-28-2", False, "fp32"), ("wrn-10-0.5", True, "fp32"), ("resnet50", True, "fp32"),
    ("efficientnet-lite0", True, "fp32")])
def test_auto_takes_bf16_on_a_cpu_where_units_for_it_serve_a_wide_network(network, units, precision, monkeypatch):
    monkeypatch.setattr(engine, "has_bf16_units", lambda: units)
    run = Run.of("cifar10", "semi", network=network)
    assert engine.resolve_precision(run, torch.device("cpu")) == precision
    assert engine.resolve_precision(run.with_(precision="fp64"), torch.device("cpu")) == "fp64"


def test_auto_is_fp32_on_features_and_bf16_on_cuda(monkeypatch):
    monkeypatch.setattr(engine, "has_bf16_units", lambda: True)
    run = Run.of("cifar10", "semi", profile="features")
    assert engine.resolve_precision(run, torch.device("cpu")) == "fp32"
    assert engine.resolve_precision(run, torch.device("cuda")) == "bf16"
