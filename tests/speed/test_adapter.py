"""Our steps in another benchmark's run: its lines, the images that they say, and what is refused."""
from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import kit
import numpy as np
import pytest
import torch
from kit import ROOT

from semilib.data.splits import long_tailed_counts
from semilib.speed import adapter

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def part(tmp_path_factory) -> Path:
    """As many images as the cell uses, at random, in torchvision's format; none more."""
    root, draw = tmp_path_factory.mktemp("cifar"), np.random.default_rng(0)
    folder = root / "cifar-10-batches-py"
    folder.mkdir()
    counts = np.array(long_tailed_counts(1500, 10, 100.0)) + np.array(long_tailed_counts(3000, 10, 100.0))
    labels = draw.permutation(np.repeat(np.arange(10), counts))
    for i, rows in enumerate([*np.array_split(labels, 5), np.arange(20) % 10]):
        data = draw.integers(0, 256, (len(rows), 3072), dtype=np.uint8)
        name = f"data_batch_{i + 1}" if i < 5 else "test_batch"
        (folder / name).write_bytes(pickle.dumps({"data": data, "labels": rows.tolist()}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": NAMES}))
    return root


def test_a_part_of_cifar10_is_read_as_it_is(part):
    source = adapter.part_of_cifar10(str(part))
    first = pickle.loads((part / "cifar-10-batches-py/data_batch_1").read_bytes())
    assert torch.equal(source.images[:2], torch.from_numpy(first["data"][:2]).view(2, 3, 32, 32)) and source.images.is_contiguous()
    assert source.labels[:5].tolist() == first["labels"][:5] and source.class_names == NAMES
    assert len(source.images) == len(source.labels) == 11_163 and source.test_images.shape == (20, 3, 32, 32) and source.flip


def test_its_lines_are_those_of_the_benchmark(part):
    command = [sys.executable, "-m", "semilib.speed.adapter", "--data", str(part), "--profile", "smoke", "--device", "cpu", "--steps", "3",
               "--warmup", "2"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT,
                          env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["event"] for row in rows] == ["meta", "step", "step", "step", "summary"]
    meta, *steps, summary = rows
    assert (meta["images_forward"], meta["images_backward"]) == (64, 64) and meta["peer"] == "semilib"       # four views of 16 images
    assert (meta["precision"], meta["capture"], meta["on"], meta["threads"]) == ("fp32", "off", "cpu", 1) and meta["startup_s"] > 0
    assert [row["i"] for row in steps] == [0, 1, 2] and all(row["wall_s"] > 0 and row["cpu_s"] > 0 for row in steps)
    assert summary["steps"] == 3 and summary["window_s"] >= sum(row["wall_s"] for row in steps) - 1e-5
    assert summary["window_cpu_main_s"] > 0 and summary["max_rss_MiB"] > 0


@pytest.mark.parametrize("method, forward, backward", [
    ("supervised", 8, 8),
    ("fixmatch", 32, 32),
    ("daso", 40, 32)])                                    # the labelled images once more through the average
def test_the_images_of_a_step_are_counted(method, forward, backward):
    t, alone = kit.trainer(method), kit.trainer(method)
    assert adapter.passes(t) == {"images_forward": forward, "images_backward": backward}
    assert t.step == 1
    assert kit.losses_of(t, range(1, 4)) == kit.losses_of(alone, range(4))[1:]              # nothing of the counting stays
    kit.same_state(t.state_dict(), alone.state_dict())


@pytest.mark.parametrize("arguments, wanted", [
    (["--data", "nowhere"], "data='nowhere': a folder that holds cifar-10-batches-py"),
    (["--data", "nowhere", "--method", "simi"], "did you mean 'semi'"),
    (["--data", "nowhere", "--precision", "fp8"], "precision='fp8'")])
def test_what_is_of_no_use_is_refused_in_a_sentence(arguments, wanted, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["adapter", *arguments])
    with pytest.raises(SystemExit) as stop:
        adapter.main()
    said = capsys.readouterr()
    assert stop.value.code == 2 and wanted in said.err and "Traceback" not in said.err and not said.out


def test_a_bound_in_seconds_ends_the_window(part, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["adapter", "--data", str(part), "--profile", "smoke", "--device", "cpu", "--steps", "1000",
                                      "--warmup", "0", "--max-seconds", "0.2"])
    adapter.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert 1 <= rows[-1]["steps"] == len(rows) - 2 < 1000
