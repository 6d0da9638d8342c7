"""A record for TensorBoard, which need not be installed: what is written is looked at."""
import sys
import types

import pytest
from kit import steady, write_record

from semilib import cli
from semilib.errors import BadInput
from semilib.report import board
from semilib.training import writer


@pytest.fixture
def written(monkeypatch):
    """What a writer in place of TensorBoard's was given: (folder, kind, name, value, step)."""
    lines = []

    class Writer:
        def __init__(self, folder):
            self.folder = folder

        def add_scalar(self, name, value, step):
            lines.append((self.folder, "scalar", name, value, step))

        def add_image(self, name, image, step, dataformats):
            lines.append((self.folder, "image", name, image, step))

        def flush(self):
            pass

        close = flush
    module = types.ModuleType("torch.utils.tensorboard")
    module.SummaryWriter = Writer
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", module)
    return lines


def test_a_board_holds_each_evaluation_s_scalars_recalls_and_confusion_matrix(written, tmp_path):
    folder = write_record(tmp_path, [[60, 70, 80], [70, 80, 90]])
    board.write(folder)
    scalars = {(name, step): value for _, kind, name, value, step in written if kind == "scalar"}
    assert scalars["balanced_accuracy", 20] == pytest.approx(0.8) and scalars["recall/cow", 10] == pytest.approx(0.8)
    assert scalars["loss/x", 10] == 1.0 and {line[0] for line in written} == {str(folder / "tensorboard")}
    images = [value for _, kind, name, value, _ in written if kind == "image"]
    assert len(images) == 2 and images[0].shape == (258, 258) and images[0][0, 0] == pytest.approx(0.6)


def test_a_board_follows_a_log_and_is_whole_at_the_end(written, tmp_path):
    folder = write_record(tmp_path, steady(50, 60, 70, n=1))
    with board.followed(folder, period=60):
        log = folder / "log.jsonl"
        log.write_text(log.read_text() + log.read_text().replace('"step": 10', '"step": 20'))
    assert [step for _, _, name, _, step in written if name == "balanced_accuracy"] == [10, 20]


def test_the_board_of_a_run_that_another_process_has_is_left_alone(written, tmp_path):
    shown = tmp_path / "tensorboard" / "events"
    shown.parent.mkdir()
    shown.write_text("of the other process")
    with writer.hold(tmp_path):
        with pytest.raises(SystemExit, match="is being trained by another process"):
            cli.main(["run", "profile=smoke", "--log", "tensorboard", "--folder", str(tmp_path)])
        board.write(tmp_path)
    assert shown.read_text() == "of the other process" and not written


def test_without_tensorboard_the_board_that_is_there_stays(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    (tmp_path / "tensorboard").mkdir()
    with pytest.raises(BadInput, match="log='tensorboard'"):
        board.write(tmp_path)
    assert (tmp_path / "tensorboard").is_dir()


def test_without_tensorboard_a_run_is_refused_before_it_starts(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(BadInput, match=r"log='tensorboard': installed first: pip install .*\[tensorboard\]"):
        board.summary_writer()
    for words in (["seed=0"], ["seed=0..1"]):
        with pytest.raises(SystemExit, match="semilib run: log='tensorboard'"):
            cli.main(["run", "profile=smoke", *words, "--log", "tensorboard", "--runs", str(tmp_path / "runs")])
    assert not (tmp_path / "runs").exists()
