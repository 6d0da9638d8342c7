"""What only a CUDA device can show: the same views, captured and compiled steps that learn what eager ones do, exact
resume under a graph, checkpoints that change devices, host data, a whole run. Skipped without a device; `.ci/gpu.py`
runs it where there is one."""
from __future__ import annotations

import pytest
import torch
from kit import SEQUENTIAL, VARIANTS, last_phase, losses_of, same_state, smoke_run

from semilib.data.step import Time
from semilib.training import checkpoint, engine, record
from semilib.training.train import kernels, train

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
COMPILED = ("fixmatch", "semi", "daso")           # a minute or so of compiling each


@pytest.fixture(scope="module")
def source(embedded):
    """The whole images, as a run on a GPU has them."""
    return embedded


def trainer(variant: str, source, **changes) -> engine.Trainer:
    return engine.Trainer(smoke_run(**{**VARIANTS[variant], "device": "cuda", **changes}), source)


def test_the_views_of_a_step_are_those_of_the_cpu(source):
    for capture in ("off", "compile"):
        gpu, cpu = trainer("semi", source, capture=capture, precision="fp32"), trainer("semi", source, device="cpu")
        for t in (gpu, cpu):
            t.data.prepare(5)
            t.jump(5)
        drawn = []
        for t in (gpu, cpu):
            now = Time(t.now, t.total, t.dtype)
            drawn.append(t.parts["views"](t.data.pick(now)[1], now))
        for name, x in drawn[1].items():
            assert torch.equal(drawn[0][name].cpu(), x), (capture, name)


@pytest.mark.parametrize("variant", ["supervised", "fixmatch", "semi", "daso", "remixmatch"])
def test_steps_in_float64_are_those_of_the_cpu(variant, source):
    gpu = trainer(variant, source, capture="off", precision="fp64")
    cpu = trainer(variant, source, device="cpu", precision="fp64")
    for have, want in zip(losses_of(gpu, range(6)), losses_of(cpu, range(6)), strict=True):
        assert have == pytest.approx(want, rel=1e-7, abs=1e-10)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if v not in SEQUENTIAL])
def test_a_captured_step_is_the_eager_one(variant, source):
    """In float64, over the start of the last phase and enough steps to replay a graph in it."""
    eager = trainer(variant, source, capture="off", precision="fp64")
    captured = trainer(variant, source, capture="graph", precision="fp64")
    steps = range(min(last_phase(eager) + 8, eager.total))
    for have, want in zip(losses_of(captured, steps), losses_of(eager, steps), strict=True):
        assert have == pytest.approx(want, rel=1e-7, abs=1e-10)
    assert not captured.method.capturable or captured.graphs[captured.phase].graph is not None


@pytest.mark.parametrize("variant", COMPILED)
def test_a_compiled_and_captured_step_is_the_eager_one(variant, source):
    eager, fast = (trainer(variant, source, capture=c, precision="fp64") for c in ("off", "auto"))
    for have, want in zip(losses_of(fast, range(8)), losses_of(eager, range(8)), strict=True):
        assert have == pytest.approx(want, rel=1e-6, abs=1e-9)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_lower_precision_stays_near(precision, source):
    """The first steps' losses against float64: rounding has not grown yet. bf16 keeps 8 bits in the network alone."""
    want = losses_of(trainer("semi", source, capture="off", precision="fp64"), range(3))
    have = losses_of(trainer("semi", source, capture="graph", precision=precision), range(3))
    for a, b in zip(have, want, strict=True):
        assert a == pytest.approx(b, rel={"fp32": 5e-3, "bf16": 5e-2}[precision],
                                  abs={"fp32": 1e-4, "bf16": 2e-2}[precision])


@pytest.mark.parametrize("capture", ["graph", "auto"])
def test_a_run_under_a_graph_resumes_to_the_last_bit(capture, source, tmp_path):
    run = smoke_run(**{**VARIANTS["semi"], "device": "cuda", "capture": capture, "deterministic": True})
    with kernels(run, torch.device("cuda")):
        whole = engine.Trainer(run, source)
        losses_of(whole, range(6))
        checkpoint.save(tmp_path / "c.npz", whole.state_dict())
        rest = losses_of(whole, range(6, 12))
        again = engine.Trainer(run, source)
        again.load_state_dict(checkpoint.load(tmp_path / "c.npz"))
        assert losses_of(again, range(6, 12)) == rest
        same_state(again.state_dict(), whole.state_dict())


def test_a_checkpoint_goes_on_on_the_cpu(source, tmp_path):
    gpu = trainer("semi", source, capture="graph", precision="fp64")
    losses_of(gpu, range(6))
    checkpoint.save(tmp_path / "c.npz", gpu.state_dict())
    cpu = trainer("semi", source, device="cpu", precision="fp64")
    cpu.load_state_dict(checkpoint.load(tmp_path / "c.npz"))
    for have, want in zip(losses_of(cpu, range(6, 9)), losses_of(gpu, range(6, 9)), strict=True):
        assert have == pytest.approx(want, rel=1e-6, abs=1e-9)


def test_images_may_stay_on_the_host(source):
    here, there = (trainer("semi", source, capture="graph", precision="fp64", data_on=where)
                   for where in ("device", "host"))
    assert here.data.resident and not there.data.resident
    for have, want in zip(losses_of(there, range(8)), losses_of(here, range(8)), strict=True):
        assert have == pytest.approx(want, rel=1e-9, abs=1e-12)


def test_a_whole_run_leaves_its_record(source, tmp_path):
    run = smoke_run("fixmatch", device="cuda", capture="graph")
    found = record.read(train(run, tmp_path, source=source))
    assert found["status"] == "done" and found["resolved"]["precision"] == "bf16"
    assert found["resolved"]["capture"] == "graph"
    assert found["resolved"]["device"] == torch.cuda.get_device_name(0)
