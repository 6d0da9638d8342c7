"""Row states: reads and writes by index, and checkpoints of those too large for the .npz: a run killed at any moment
goes on to the last bit, only touched rows are written, and a file that is not the right one is named."""
from __future__ import annotations

import kit
import numpy as np
import pytest
import torch

from semilib.errors import TrainingError
from semilib.methods import row_state
from semilib.methods.row_state import RowState, checksum
from semilib.training import checkpoint, record, resume
from semilib.training.engine import Trainer
from semilib.training.train import train

STEPS = 9
OPTIONS = dict(threshold=0.3, warmup=3)


@pytest.fixture
def split_large_rows(monkeypatch):
    """Every row state is a large one."""
    monkeypatch.setattr(row_state, "APART", 0)


def run():
    return kit.run("darp", OPTIONS, steps=STEPS, eval_every=3, keep_seconds=0.0)


def files(folder):
    return sorted(p.name for p in folder.glob("*.npy"))


# ---- in a step -------------------------------------------------------------------------------------------------------


def test_rows_are_read_and_written_by_index():
    r = RowState(5, 2, dtype=torch.float64, fill=0.5)
    r.touched.zero_()
    with kit.Captured():
        r.scatter(torch.tensor([3, 1]), kit.f64([[1, 2], [3, 4]]))
        got = r.gather(torch.tensor([1, 0]))
    assert got.tolist() == [[3, 4], [.5, .5]] and r.rows[3].tolist() == [1, 2]
    assert r.touched.int().tolist() == [[0, 1, 0, 1, 0]] * 2
    got.zero_()
    assert r.rows[1].tolist() == [3, 4], "what was read is a copy"


def test_of_an_image_twice_in_a_batch_the_later_row_counts():
    r = RowState(4, dtype=torch.int64, fill=-1)
    r.scatter(torch.tensor([2, 0, 2, 2, 0]), torch.tensor([10, 20, 30, 40, 50]))
    assert r.rows.tolist() == [50, -1, 40, -1]


def test_a_small_state_is_an_ordinary_buffer(tmp_path):
    t = Trainer(run(), kit.source())
    state = t.state_dict(tmp_path)
    assert torch.equal(state["method/q.rows"], t.method.q.rows) and not list(tmp_path.iterdir())
    assert not any("touched" in name for name in state)


# ---- files -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype, size", [(torch.float32, (7, 3)), (torch.float64, (7, 3)), (torch.int64, (7,))])
def test_only_rows_touched_since_a_file_was_written_go_into_it(tmp_path, monkeypatch, dtype, size):
    monkeypatch.setattr(row_state, "CHUNK", 2)
    r, written = RowState(*size, dtype=dtype), []

    def touch(*index):
        r.scatter(torch.tensor(index), torch.full((len(index), *size[1:]), len(written) + 1).to(dtype))

    def write(slot):
        monkeypatch.setattr(np, "load", watched)
        written.append([])
        total = r.write(tmp_path / f"{slot}.npy", slot)
        monkeypatch.undo()
        disk = np.load(tmp_path / f"{slot}.npy")
        assert torch.equal(torch.from_numpy(disk), r.rows) and checksum(disk) == total == checksum(r.rows.numpy())
        return sorted(written[-1])
    load = np.load

    class Disk(np.memmap):
        def __setitem__(self, index, value):
            written[-1].extend(index.tolist())
            super().__setitem__(index, value)

    def watched(*args, **kwargs):
        return load(*args, **kwargs).view(Disk)
    touch(1)
    assert write(0) == [] and write(1) == [], "whole at first"
    touch(2, 5, 6)
    assert write(0) == [2, 5, 6]
    touch(0, 2)
    assert write(1) == [0, 2, 5, 6], "file 1 is behind by two turns"
    assert write(0) == [0, 2] and write(0) == []


def test_the_checksum_sees_values_places_and_types():
    a = np.arange(12, dtype=np.float32).reshape(4, 3)
    other = np.where(a == 5, np.float32(6), a)
    assert len({checksum(x) for x in (a, a[::-1], a[:, ::-1], other, a + np.float32(1e-6), a.astype(np.float64))}) == 6
    assert checksum(a) == (checksum(a[[1, 3]], np.array([1, 3])) + checksum(a[[0, 2]], np.array([0, 2]))) % 2**64


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that was never stopped and held its rows in the checkpoint."""
    return train(run(), folder=tmp_path_factory.mktemp("whole"), source=kit.source())


def state_of(folder):
    t = Trainer(run(), kit.source())
    state = checkpoint.load(folder / "checkpoint.npz")
    state.pop("seconds")
    t.load_state_dict(state, folder)
    return t.state_dict()


def test_a_run_with_its_rows_apart_resumes_to_the_last_bit(tmp_path, split_large_rows):
    first = Trainer(run(), kit.source())
    losses = []
    for step in range(6):
        losses += kit.losses_of(first, range(step, step + 1))
        checkpoint.save(tmp_path / "checkpoint.npz", first.state_dict(tmp_path))
    assert files(tmp_path) == ["q.0.npy", "q.1.npy"]
    assert "method/q.rows" not in checkpoint.load(tmp_path / "checkpoint.npz")
    rest = kit.losses_of(first, range(6, STEPS))
    for _ in range(2):                                         # the second time from a checkpoint made by a resumed run
        again = Trainer(run(), kit.source())
        again.load_state_dict(checkpoint.load(tmp_path / "checkpoint.npz"), tmp_path)
        checkpoint.save(tmp_path / "checkpoint.npz", again.state_dict(tmp_path))
        assert again.step == 6 and kit.losses_of(again, range(6, STEPS)) == rest
        kit.same_state(again.state_dict(), first.state_dict())


def test_files_take_turns_by_what_the_checkpoint_names(tmp_path, split_large_rows):
    t = Trainer(run(), kit.source())

    def named():
        return int(checkpoint.load(tmp_path / "checkpoint.npz")["rows/q"][0])
    turns = []
    for _ in range(3):
        checkpoint.save(tmp_path / "checkpoint.npz", t.state_dict(tmp_path))
        turns.append(named())
    assert turns == [0, 1, 0]
    before = (tmp_path / "q.0.npy").read_bytes()
    kit.losses_of(t, range(1))
    for _ in range(3):                                             # checkpoints that never got written
        t.state_dict(tmp_path)
    assert (tmp_path / "q.0.npy").read_bytes() == before and named() == 0


class Killed(Exception):
    pass


@pytest.mark.parametrize("moment", ["among the rows", "before the checkpoint", "after the checkpoint"])
@pytest.mark.parametrize("at", [2, 5])
def test_a_kill_at_any_moment_of_a_checkpoint_leaves_a_pair_that_belongs_together(
        tmp_path, whole, split_large_rows, monkeypatch, moment, at):
    calls = []

    def dies(function, when):
        def dying(*args, **kwargs):
            calls.append(1)
            if len(calls) == at and when == "before":
                raise Killed
            out = function(*args, **kwargs)
            if len(calls) == at:
                raise Killed
            return out
        return dying

    def torn(self, file, slot):
        """As `write`, but the kill comes when half of the rows are down."""
        calls.append(1)
        if len(calls) == at:
            half = np.zeros(tuple(self.rows.shape), dtype=np.float32)
            half[::2] = self.rows[::2].numpy()
            np.save(file, half)
            raise Killed
        return write(self, file, slot)
    write = RowState.write
    with monkeypatch.context() as m:
        if moment == "among the rows":
            m.setattr(RowState, "write", torn)
        else:
            m.setattr(checkpoint, "save", dies(checkpoint.save, moment.split()[0]))
        with pytest.raises(Killed):
            train(run(), folder=tmp_path, source=kit.source())
    train(run(), folder=tmp_path, source=kit.source())
    assert len(record.read(tmp_path)["sessions"]) == 2
    kit.same_state(state_of(tmp_path), state_of(whole))
    assert files(tmp_path) == ["q.0.npy", "q.1.npy"] and not files(whole)
    logs = [[{**e, "seconds": 0} for e in record.read_log(folder)] for folder in (whole, tmp_path)]
    assert logs[0] == logs[1] and len(logs[0]) == 3


@pytest.mark.parametrize("damage, what", [("missing", "is missing"), ("cut", "is damaged"), ("text", "is damaged"),
                                          ("flipped", "is not the one that belongs to it"),
                                          ("other", "is not the one that belongs to it")])
def test_a_file_that_is_missing_or_damaged_makes_the_run_begin_again(tmp_path, whole, split_large_rows, damage, what):
    t = Trainer(run(), kit.source())
    kit.losses_of(t, range(2))
    resume.save(tmp_path, t, record.Log(tmp_path, record.identifier(run()), []), 0.0)
    file = tmp_path / "q.0.npy"
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "text":
        file.write_bytes(b"not an array")
    elif damage == "flipped":
        content[-50] ^= 1
        file.write_bytes(content)
    else:
        np.save(file, np.zeros((3, 4), dtype=np.float32))
    with pytest.raises(resume.Damaged, match=rf"q.0.npy, a part of checkpoint.npz, {what}"):
        resume.load(tmp_path, Trainer(run(), kit.source()), record.identifier(run()))
    if damage == "cut":
        train(run(), folder=tmp_path, source=kit.source())         # begins again, over what lies there
        kit.same_state(state_of(tmp_path), state_of(whole))


def test_a_checkpoint_without_its_folder_asks_for_it(tmp_path, split_large_rows):
    t = Trainer(run(), kit.source())
    with pytest.raises(TrainingError, match="name its folder"):
        t.load_state_dict(t.state_dict(tmp_path))
