"""Our steps in another benchmark's run: its lines, the images that they name, and what is refused."""
from __future__ import annotations

import json
import shutil
from pathlib import Path

import kit
import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks import adapter, cifar_part
from semilib.data.splits import long_tailed_counts
from semilib.errors import BadInput

NAMES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="module")
def images() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """As many random images and labels as the cell uses, to train and to test."""
    draw = np.random.default_rng(0)
    counts = np.array(long_tailed_counts(1500, 10, 100.0)) + np.array(long_tailed_counts(3000, 10, 100.0))
    labels = {"train": draw.permutation(np.repeat(np.arange(10), counts)), "test": np.arange(20) % 10}
    return {part: (draw.integers(0, 256, (len(y), 3, 32, 32), dtype=np.uint8), y) for part, y in labels.items()}


@pytest.fixture(scope="module")
def packed(images, tmp_path_factory) -> tuple[Path, str]:
    """These images as a pack, and their checksum."""
    folder, info = tmp_path_factory.mktemp("pack"), {"names": NAMES}
    for part, (x, y) in images.items():
        rows = -(-len(x) // 100)
        picture = np.zeros((rows * 32, 3200, 3), np.uint8)
        for i, image in enumerate(x):
            row, column = 32 * (i // 100), 32 * (i % 100)
            picture[row:row + 32, column:column + 32] = image.transpose(1, 2, 0)
        Image.fromarray(picture).save(folder / f"{part}.webp", lossless=True, quality=0, method=0)
        info[f"{part}_labels"] = y.tolist()
    (folder / "pack.json").write_text(json.dumps(info))
    return folder, cifar_part.digest([(torch.from_numpy(x), torch.from_numpy(y)) for x, y in images.values()])


@pytest.fixture
def pack(packed, tmp_path, monkeypatch) -> Path:
    """A pack of its own, whose checksum is the one that is asked for."""
    folder, checksum = packed
    monkeypatch.setattr(cifar_part, "SHA256", checksum)
    return shutil.copytree(folder, tmp_path / "pack")


def test_a_pack_is_read_as_it_is(pack, images):
    source = cifar_part.read_pack(pack)
    for have, want in zip((source.images, source.labels, source.test_images, source.test_labels),
                          (*images["train"], *images["test"]), strict=True):
        assert torch.equal(have, torch.from_numpy(want)) and have.is_contiguous()
    assert source.class_names == NAMES and source.flip and len(source.images) == 11_163


def change_a_pixel(pack: Path) -> None:
    picture = np.array(Image.open(pack / "test.webp"))
    picture[5, 7, 1] ^= 1
    Image.fromarray(picture).save(pack / "test.webp", lossless=True)


def change_a_label(pack: Path) -> None:
    info = json.loads((pack / "pack.json").read_text())
    info["train_labels"][3] ^= 1
    (pack / "pack.json").write_text(json.dumps(info))


def cut_a_file(pack: Path) -> None:
    (pack / "train.webp").write_bytes((pack / "train.webp").read_bytes()[:5000])


@pytest.mark.parametrize("damage, wanted", [
    (change_a_pixel, "whose SHA-256 is"), (change_a_label, "whose SHA-256 is"), (cut_a_file, "intact"),
    (lambda pack: (pack / "pack.json").unlink(), "a folder with pack.json")])
def test_a_changed_byte_is_refused(damage, wanted, pack):
    damage(pack)
    with pytest.raises(BadInput, match=wanted):
        cifar_part.read_pack(pack)


def lines(capsys, *arguments: str) -> list[dict]:
    adapter.main([*arguments, "--profile", "smoke", "--device", "cpu"])
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_its_lines_are_those_of_the_benchmark(pack, capsys):
    meta, *steps, summary = lines(capsys, "--pack", str(pack), "--steps", "3", "--warmup", "2")
    assert [row["event"] for row in (meta, *steps, summary)] == ["meta", "step", "step", "step", "summary"]
    assert meta["peer"] == "semilib"
    assert (meta["images_forward"], meta["images_backward"]) == (64, 64)                     # four views of 16 images
    assert (meta["precision"], meta["capture"], meta["on"], meta["threads"]) == ("fp32", "off", "cpu", 1)
    assert meta["startup_s"] > 0 and isinstance(meta["cpu_units"], list)
    assert [row["i"] for row in steps] == [0, 1, 2] and all(row["wall_s"] > 0 and row["cpu_s"] > 0 for row in steps)
    assert summary["steps"] == 3 and summary["window_s"] >= sum(row["wall_s"] for row in steps) - 1e-5
    assert summary["window_cpu_main_s"] > 0 and summary["max_rss_MiB"] > 0


def test_a_bound_in_seconds_ends_the_window(pack, capsys):
    rows = lines(capsys, "--pack", str(pack), "--steps", "1000", "--warmup", "0", "--max-seconds", "0.2")
    assert 1 <= rows[-1]["steps"] == len(rows) - 2 < 1000


@pytest.mark.parametrize("method, forward, backward", [
    ("supervised", 8, 8),
    ("fixmatch", 32, 32),
    ("daso", 40, 32)])                                    # the labelled images once more through the average
def test_the_images_of_a_step_are_counted(method, forward, backward):
    counted, alone = kit.trainer(method), kit.trainer(method)
    assert adapter.images_of_a_step(counted) == {"images_forward": forward, "images_backward": backward}
    assert counted.step == 1
    assert kit.losses_of(counted, range(1, 4)) == kit.losses_of(alone, range(4))[1:]     # nothing of the counting stays
    kit.same_state(counted.state_dict(), alone.state_dict())


@pytest.mark.parametrize("arguments, wanted", [
    (["--pack", "nowhere"], "pack='nowhere': a folder with pack.json"),
    (["--pack", "nowhere", "--method", "simi"], "did you mean 'semi'"),
    (["--pack", "nowhere", "--precision", "fp8"], "precision='fp8'")])
def test_what_is_of_no_use_is_refused_in_a_sentence(arguments, wanted, monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        adapter.main(arguments)
    printed = capsys.readouterr()
    assert stop.value.code == 2 and wanted in printed.err and "Traceback" not in printed.err and not printed.out
