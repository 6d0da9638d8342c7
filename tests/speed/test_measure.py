"""Measures of speed: the clock, the record that goes on where it was, what each section promises; what a step consists
of, counted."""
from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import kit
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from semilib.errors import BadInput
from semilib.networks.backbones import make_backbone
from semilib.speed import measure as speed
from semilib.speed import workloads
from semilib.speed.counting import count_operators, network_cost
from semilib.speed.measure import Settings, measure
from semilib.speed.workloads import timed
from semilib.training.config import Run
from semilib.training.engine import Trainer

CPU = torch.device("cpu")
TINY = dict(device="cpu", profile="smoke", growth_profile="smoke", methods="semi+fixmatch", steps=2, window=1,
            largest=10_000, whole_steps=4, most_runs=2, captures="off", precisions="fp32")


# ---- counting --------------------------------------------------------------------------------------------------------

def relu_twice(x):
    return F.relu_(F.relu(x))


@pytest.mark.parametrize("program, count", [
    (lambda x: x + 1, 1),
    (lambda x: relu_twice(x * 2 + 1), 4),
    (lambda x: x.view(2, 8).T[1:].unsqueeze(0).detach().expand(3, 7, 2).split(1), 0),           # views
    (lambda x: (torch.empty(3), torch.empty_like(x), x.new_empty(2)), 0),  # memory without contents
    (lambda x: torch.zeros(3), 1),
    (lambda x: x.T.reshape(16), 1),                                                             # a copy
    (lambda x: x.detach().clone().add_(1).mul_(2), 3),                                          # in place
    (lambda x: torch.cat(x.split(1)), 1),
    (lambda x: torch._foreach_mul([x.detach(), x.detach()], 2), 1),
    (lambda x: torch.optim.SGD([x], 0.1, fused=True).step(), 0),  # no gradient yet: a mark for profilers
    (lambda x: (x * 2).sum().backward(), 4)])  # product, sum; a one; its product (spreading it is a view)
def test_operators_are_counted(program, count):
    assert count_operators(lambda: program(torch.ones(4, 4).requires_grad_())) == count + 1  # 1: the ones


def test_the_cost_of_two_convolutions_is_the_one_worked_out_by_hand():
    """Of 5 images of 3 x 8 x 8: 3 x 3 to 4 channels, then 1 x 1 to 2. Products forward 27 * 4 and 4 * 2 for each of 5 *
    64 places; as many again for the gradient of the weights, and for the input's but in the first layer."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 1))
    places = 5 * 64
    assert network_cost(net, (5, 3, 8, 8)) == {"flops": 2 * places * (2 * 27 * 4 + 3 * 4 * 2),
                                               "elements": places * (3 * 3 + 2 * 4 + 3 * 4 + 2 * 2)}
    assert next(net.parameters()).device == CPU and next(net.parameters()).grad is None


def test_the_cost_of_a_published_step_is_the_one_worked_out_by_hand():
    """WRN-28-2, 256 images. Each group has eight 3 x 3 convolutions, but the first is of half as many channels, and a 1
    x 1; in the later groups a quarter of the places and twice the channels make the same products."""
    stem = 27 * 16 * 32**2
    group = (9 * 16 * 32 + 7 * 9 * 32 * 32 + 16 * 32) * 32**2
    assert stem + 3 * group == 214_351_872
    found = network_cost(make_backbone("wrn-28-2"), (256, 3, 32, 32))["flops"]
    assert found == 256 * 2 * (3 * (stem + 3 * group) - stem) == 329_017_982_976                 # 0.33 TFLOP


# ---- the clock -------------------------------------------------------------------------------------------------------

def test_seconds_are_those_of_windows(monkeypatch):
    """Two steps to warm up, then three windows of two."""
    lengths = iter([100, 100, 1, 3, 2, 2, 5, 1])
    now = {"s": 0.0}
    monkeypatch.setattr(workloads, "time", SimpleNamespace(perf_counter=lambda: now["s"]))

    def step():
        now["s"] += next(lengths)
    assert timed(step, CPU, steps=3, window=2, warm=2) == {"median_s": 2.0, "min_s": 2.0, "windows": 3, "window": 2}
    assert next(lengths, None) is None
    lengths = iter([4, 1, 8])
    assert timed(step, CPU, steps=3, warm=0) == {"median_s": 4.0, "min_s": 1.0, "windows": 3, "window": 1}


# ---- the record ------------------------------------------------------------------------------------------------------

@pytest.fixture
def sections(monkeypatch) -> list[str]:
    """Sections that measure nothing; the names of those that were asked."""
    asked = []

    def section(name):
        def measured(settings):
            asked.append(name)
            if name == "parts" and asked.count(name) == 1:
                raise KeyboardInterrupt
            yield {"what": name}
        return measured
    for name in speed.SECTIONS:
        monkeypatch.setitem(speed.SECTIONS, name, section(name))
    return asked


def quiet(text: str) -> None:
    pass


def test_a_record_goes_on_where_it_was_killed(sections, tmp_path):
    file = tmp_path / "deep" / "cpu.json"
    settings = Settings(**TINY, sections="limits+steps+parts+whole")
    with pytest.raises(KeyboardInterrupt):
        measure(settings, file, quiet)
    assert sections == ["limits", "steps", "parts"]
    written = [key for key in json.loads(file.read_text()) if key in speed.SECTIONS]
    assert written == ["limits", "steps"]                                        # as they came
    said = []
    found = measure(settings, file, said.append)
    assert sections[3:] == ["parts", "whole"] and said == ["measuring parts", "measuring whole"]
    assert found == json.loads(file.read_text()) and found["whole"]["rows"] == [{"what": "whole"}]
    assert found["steps"]["seconds"] >= 0 and found["steps"]["code"]
    assert found["machine"]["device"] == "cpu" and found["machine"]["torch"] == torch.__version__
    assert found["settings"] == {**{k: v for k, v in vars(Settings(**TINY)).items() if k != "sections"}}
    assert measure(settings, file, quiet) == found and len(sections) == 5  # nothing is left
    more = measure(Settings(**TINY, sections="imports"), file, quiet)  # one more, of the same
    assert sections[5:] == ["imports"] and more["steps"] == found["steps"]


def test_unknown_sections_are_refused_before_anything_is_measured(sections, tmp_path):
    with pytest.raises(BadInput, match="did you mean 'steps'"):
        measure(Settings(**TINY, sections="limits+step"), tmp_path / "cpu.json", quiet)
    assert not sections and not list(tmp_path.iterdir())


@pytest.mark.parametrize("change", [{"steps": 3}, {"profile": "quickstart"}, {"captures": ""}])
def test_other_settings_need_another_file(change, sections, tmp_path):
    measure(Settings(**TINY, sections="limits"), tmp_path / "cpu.json", quiet)
    before = (tmp_path / "cpu.json").read_text()
    with pytest.raises(BadInput, match="a new file"):
        measure(Settings(**{**TINY, **change}, sections="limits"), tmp_path / "cpu.json", quiet)
    assert (tmp_path / "cpu.json").read_text() == before


@pytest.mark.parametrize("fact, value", [("device", "NVIDIA H100"), ("cpu", "another"), ("threads", 64)])
def test_another_machine_needs_another_file(fact, value, sections, tmp_path):
    file = tmp_path / "cpu.json"
    found = measure(Settings(**TINY, sections="limits"), file, quiet)
    file.write_text(json.dumps({**found, "machine": {**found["machine"], fact: value}}))
    with pytest.raises(BadInput, match="another machine"):
        measure(Settings(**TINY, sections="steps"), file, quiet)
    assert sections == ["limits"]


@pytest.mark.parametrize("field, value", [("steps", 1), ("window", 0), ("most_runs", 0), ("largest", 10)])
def test_settings_have_bounds(field, value):
    with pytest.raises(BadInput, match=field):
        Settings(**{**TINY, field: value})


# ---- sections --------------------------------------------------------------------------------------------------------

@pytest.fixture
def tiny(monkeypatch) -> Settings:
    """The cell of the measures with a fiftieth of its images."""
    cell = dict(n1=30, m1=60, gamma_l=10.0, gamma_u=10.0)
    monkeypatch.setattr(Settings, "run", lambda self, method="semi", **changes: Run.of(
        "cifar10", method, **{"profile": self.profile, "device": self.device, **cell, **changes}))
    source = workloads.random_source(1000, 10, test=10)
    monkeypatch.setattr(workloads, "like_cifar10", lambda: source)
    return Settings(**TINY)


def is_timed(row: dict) -> bool:
    return row["median_s"] >= row["min_s"] > 0 and (row["windows"], row["window"]) == (2, 1)


def test_the_cell_is_that_of_the_published_scripts():
    run = Settings().run()
    assert (run.dataset, run.n1, run.m1, run.gamma_l, run.gamma_u, run.network, run.batch) == \
        ("cifar10", 1500, 3000, 100.0, 100.0, "wrn-28-2", 64)


def test_imports_are_those_of_fresh_interpreters(monkeypatch):
    """The least of five each after one for the file cache, in turn, beyond torch's own."""
    seconds = {"import torch": iter([1, 3, 2, 4, 5, 6]), "import torch, semilib": iter([1, 2.5, 9, 9, 9, 9]),
               "import torch, semilib; semilib.Run, semilib.train": iter([1, 9, 9, 9, 9, 3.5])}
    now = {"s": 0.0}

    def run(command, **kind):
        assert command[1] == "-c" and kind["check"]
        now["s"] += next(seconds[command[2]])
    monkeypatch.setattr(speed, "subprocess", SimpleNamespace(run=run))
    monkeypatch.setattr(speed, "time", SimpleNamespace(perf_counter=lambda: now["s"]))
    assert [row["s"] for row in speed.imports(Settings(**TINY))] == [2.0, 0.5, 1.5]
    assert all(next(left, None) is None for left in seconds.values())


@pytest.mark.skipif(sys.platform != "linux", reason="how a process starts another is Linux's")
def test_peak_memory_is_that_of_the_process_and_not_of_the_one_that_started_it():
    program = "from semilib.speed.measure import peak_memory; print(peak_memory())"
    start = ("import subprocess, sys; held = b'1' * 2**30; "
             f"subprocess.run([sys.executable, '-c', {program!r}], check=True)")
    done = subprocess.run([sys.executable, "-c", start], capture_output=True, text=True, check=True)
    assert 2**26 < int(done.stdout) < 2**30


def test_limits_are_rates_and_the_step_on_paper(tiny, monkeypatch):
    monkeypatch.setattr(speed, "timed", lambda step, device, steps: {"median_s": 2.0, "min_s": 0.5})
    copy, fp32, bf16, paper32, paper16 = speed.limits(tiny)
    assert copy["GB_s"] == 2 * 4 * 2**25 / 0.5 / 1e9
    assert fp32["TFLOP_s"] == 2 * 2048**3 / 0.5 / 1e12 and bf16["TFLOP_s"] == 2 * 512**3 / 0.5 / 1e12
    cost = network_cost(make_backbone("wrn-10-0.25"), (4 * 16, 3, 32, 32))
    for row, rate, size in ((paper32, fp32, 4), (paper16, bf16, 2)):
        assert row["TFLOP"] == cost["flops"] / 1e12 and row["GB"] == size * cost["elements"] / 1e9
        assert row["at_matrix_rate_s"] == pytest.approx(row["TFLOP"] / rate["TFLOP_s"])
        assert row["at_copy_rate_s"] == pytest.approx(row["GB"] / copy["GB_s"])
    assert torch.get_float32_matmul_precision() == "highest"


def test_steps_are_timed_for_each_method_and_the_network_alone(tiny):
    rows = list(speed.steps(tiny))
    assert [(r["method"], r["precision"], r["capture"], r["images"], r["network"]) for r in rows] == \
        [(name, "fp32", "off", 64, "wrn-10-0.25") for name in ("bare", "semi", "fixmatch")]
    assert all(map(is_timed, rows))


@pytest.mark.parametrize("mu", [1, 2])
def test_the_network_alone_sees_as_many_images_as_a_step(mu, tiny):
    step, images = workloads.bare(tiny.trainer("supervised", mu=mu))
    assert images == workloads.images_of(tiny.trainer(mu=mu)) == tiny.run().batch * (1 + 3 * mu)
    step()
    step()


def test_parts_have_seconds_and_operators(tiny):
    rows = list(speed.parts(tiny))
    assert [r["part"] for r in rows] == ["views", "network, losses, backward", "optimiser",
                                         "average, state, measurements", "of these: memory bank", "whole step"]
    assert all(is_timed(r) and r["capture"] == "off" and r["operators"] > 0 and "kernels" not in r for r in rows)
    count = {r["part"]: r["operators"] for r in rows}
    assert count["of these: memory bank"] < count["average, state, measurements"]
    assert count["optimiser"] == 2                                               # fused, two groups


@pytest.mark.parametrize("method", ["semi", "fixmatch", "supervised"])
def test_the_parts_together_are_the_step(method):
    pieces = workloads.parts_of(kit.trainer(method))
    assert ("of these: memory bank" in pieces) == (method == "semi")
    count = {name: count_operators(piece) for name, piece in pieces.items() if not name.startswith("of these")}
    whole = count.pop("whole step")
    assert len(count) == 4 and sum(count.values()) == whole


def test_the_parts_one_after_the_other_make_the_same_step():
    one, other = kit.trainer("semi"), kit.trainer("semi")
    started = [value.clone() for value in one.net.buffers()]
    kit.losses_of(other, range(1))
    one.data.prepare(0)
    pieces = workloads.parts_of(one)
    for value, before in zip(one.net.buffers(), started, strict=True):              # it has passed the images already
        value.copy_(before)
    for name in ("network, losses, backward", "optimiser", "average, state, measurements"):
        pieces[name]()
    kit.same_state(one.state_dict(), other.state_dict())


def test_a_whole_run_is_worked_out_from_its_pieces(tiny):
    rows = {r["what"]: r for r in speed.whole(tiny)}
    start, first, step, evaluation, state, peak, total = rows.values()
    assert list(rows)[0].startswith("start") and list(rows)[1] == "first 4 steps, compiling included"
    assert total["s"] == pytest.approx(start["s"] + first["s"] + 250_000 * step["s"] + 500 * evaluation["s"], rel=1e-12)
    assert step["s"] >= step["min_s"] > 0 and step["steps"] == 4 and evaluation["images"] == 10
    assert state["s"] > 0 and peak["MiB"] > 0 and start["s"] > 0


def test_growth_has_its_curves(monkeypatch):
    files, drawn = [], workloads.random_source

    def source(n: int, classes: int, file: Path | None = None):
        files.append(file)
        return drawn(max(10 * classes, 400), classes, file=file)
    monkeypatch.setattr(speed, "random_source", source)
    rows = list(speed.growth(Settings(**TINY)))
    curves = {}
    for row in rows:
        curves.setdefault(row["curve"], []).append(row["value"])
        assert is_timed(row) and row["network"] == "wrn-10-0.25" and ("bank_s" in row) == (row["method"] == "semi")
    assert curves == {"classes": [10, 100, 1000], "slots": [32, 128, 512], "unlabelled images, resident": [10_000],
                      "unlabelled images, memory-mapped": [10_000], "views": [1, 3, 4]}
    assert [(r["method"], r["images"]) for r in rows[-3:]] == [("supervised", 16), ("fixmatch", 48), ("semi", 64)]
    (file,) = filter(None, files)
    assert not file.parent.exists()                                              # mapped images leave nothing behind


def test_images_are_read_through_a_map(tmp_path):
    mapped = workloads.random_source(300, 10, test=20, file=tmp_path / "images.npy")
    plain = workloads.random_source(300, 10, test=20)
    assert (tmp_path / "images.npy").stat().st_size >= 320 * 3 * 32 * 32
    assert torch.equal(mapped.images, plain.images) and torch.equal(mapped.test_images, plain.test_images)
    assert mapped.images.float().std() > 50 and torch.bincount(mapped.labels).tolist() == [30] * 10
    (tmp_path / "images.npy").unlink()


def test_sharing_counts_the_steps_of_all(tiny):
    rows = list(speed.sharing(tiny))
    assert [(r["how"], r["runs"]) for r in rows] == [("runs in one process", n) for n in (1, 2)]
    for r in rows:
        assert is_timed(r) and r["steps_a_second"] == r["runs"] / r["median_s"]


def test_runs_that_share_a_process_go_on_side_by_side():
    seeds = [kit.trainer("semi", seed=seed) for seed in range(2)]
    step = workloads.side_by_side(seeds)
    step()
    step()
    for seed, trainer in enumerate(seeds):
        alone = kit.trainer("semi", seed=seed)
        kit.losses_of(alone, range(2))
        kit.same_state(trainer.state_dict(), alone.state_dict())


def test_the_parts_of_a_step_are_together_what_a_step_does(tmp_path):
    """Of a network that came with weights, too, which learns at a rate of its own."""
    name, side, weights = kit.tiny_encoder(tmp_path)
    run = kit.smoke_run(network=name, encoder_side=side, encoder_weights=weights, n1=14, m1=16, gamma_l=3.0, batch=4)
    whole, timed = (Trainer(run, kit.source()) for _ in range(2))
    whole.compute_step()
    for part in list(workloads.parts_of(timed).values())[:-1]:
        part()
    assert float(timed.encoder_lr) == float(whole.encoder_lr) == pytest.approx(0.1 * run.lr)
    kit.same_state(dict(timed.net.named_parameters()), dict(whole.net.named_parameters()))
    kit.same_state(dict(timed.average.net.named_parameters()), dict(whole.average.net.named_parameters()))


def test_random_images_are_the_same_each_time():
    a, b = workloads.random_source(40, 4, test=4), workloads.random_source(40, 4, test=4)
    assert torch.equal(a.images, b.images) and torch.bincount(a.labels).tolist() == [10] * 4
    assert a.test_labels.tolist() == [0, 1, 2, 3] and len(a.test_images) == 4
