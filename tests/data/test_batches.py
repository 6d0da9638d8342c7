"""Streams of batches: passes without repeats, small sets, balanced sampling, host-side images,
and what a method may see."""
import dataclasses

import numpy as np
import pytest
import torch
from kit import smoke_run

from semilib.data import augment, batches, examples, rng
from semilib.data.step import StepImages, Stream, Time
from semilib.errors import BadInput
from semilib.training import engine


def stream(n: int, size: int, sampler: str = "shuffled", targets=None, seed: int = 0) -> batches.LiveStream:
    targets = torch.zeros(n, dtype=torch.int64) if targets is None else targets
    return batches.LiveStream("labelled", torch.arange(n) * 10, targets, size, sampler, seed)


def drawn(s: batches.LiveStream, step: int) -> torch.Tensor:
    s.prepare(step)
    return s.draw(torch.tensor(step))


def test_a_pass_deals_every_image_at_most_once_and_drops_the_rest():
    s = stream(23, 5)
    assert s.batches == 4
    passes = [torch.cat([drawn(s, 4 * p + i) for i in range(4)]) for p in range(3)]
    for p in passes:
        assert p.unique().numel() == 20 and int(p.max()) < 23
    assert not torch.equal(passes[0], passes[1])
    assert torch.equal(passes[0], rng.permutation(0, "order/labelled", 0, 23)[:20])


def test_a_set_smaller_than_the_batch_is_dealt_from_permutations_end_to_end():
    s = stream(5, 8)
    batches = [drawn(s, i) for i in range(5)]                      # 5 batches of 8 = 8 permutations of 5
    assert all(len(b) == 8 for b in batches)
    dealt = torch.cat(batches).view(8, 5)
    assert all(torch.equal(row.sort().values, torch.arange(5)) for row in dealt)


def test_any_batch_can_be_drawn_again_out_of_order():
    a, b = stream(23, 5), stream(23, 5)
    later = drawn(a, 17)
    for step in (3, 17):
        again = drawn(b, step)
    assert torch.equal(later, again)


def test_balanced_sampling_draws_classes_evenly_and_images_within_them():
    targets = torch.tensor([0] * 90 + [1] * 9 + [2])
    s = stream(100, 50, "balanced", targets)
    rows = torch.cat([drawn(s, i) for i in range(60)])
    counts = torch.bincount(targets[rows], minlength=3)
    assert (counts - 1000).abs().max() < 5 * (1000 * 2 / 3) ** 0.5
    assert rows[targets[rows] == 0].unique().numel() == 90


def test_an_empty_stream_and_an_unknown_sampler_are_refused():
    with pytest.raises(BadInput, match="at least one image"):
        stream(0, 4)
    with pytest.raises(BadInput, match="sampler='sorted'"):
        stream(4, 4, "sorted")


def test_images_in_host_memory_give_the_same_batches(source, tmp_path):
    mapped = np.lib.format.open_memmap(tmp_path / "images.npy", mode="w+", dtype=np.uint8,
                                       shape=tuple(source.images.shape))
    mapped[:] = source.images.numpy()
    on_disk = dataclasses.replace(source, images=torch.from_numpy(np.load(tmp_path / "images.npy", mmap_mode="r+")))
    resident = engine.Trainer(smoke_run("fixmatch"), source)
    host = engine.Trainer(smoke_run("fixmatch", data_on="host"), on_disk)
    assert resident.data.resident and not host.data.resident
    for step in (0, 1, 7):
        views = []
        for t in (resident, host):
            t.data.prepare(step)
            views.append(t.data.batch(Time(torch.tensor(step), 24, torch.float32))[1])
        for name in views[0]:
            assert torch.equal(views[0][name], views[1][name]), name


def test_a_method_does_not_see_labels_of_unlabelled_images(source):
    t = engine.Trainer(smoke_run("fixmatch"), source)
    t.data.prepare(0)
    batch, views = t.data.batch(Time(torch.tensor(0), 24, torch.float32))
    assert (batch.targets["unlabelled"] == -1).all() and (batch.y >= 0).all()
    assert torch.equal(batch.known_u, torch.isin(t.data.unlabelled[batch.index_u], t.data.labelled))
    assert views["w"].dtype == torch.uint8 and list(views) == ["l", "w", "s1", "s2"]


def test_the_union_holds_every_image_once(source):
    t = engine.Trainer(smoke_run("fixmatch"), source)
    members, targets = t.data.of("union")
    assert members.unique().numel() == len(members) == len(t.data.unlabelled)
    assert int((targets >= 0).sum()) == len(t.data.labelled)
    disjoint = engine.Trainer(smoke_run("fixmatch", labelled_in_unlabelled=False), source)
    assert len(disjoint.data.of("union")[0]) == len(disjoint.data.labelled) + len(disjoint.data.unlabelled)
    assert not disjoint.data.known.any()


def test_a_view_of_an_unknown_stream_or_kind_is_refused(source):
    t = engine.Trainer(smoke_run("fixmatch"), source)
    with pytest.raises(BadInput, match="stream='labeled': unknown; did you mean 'labelled'"):
        t.data.open(StepImages({"l": ("labeled", "weak")}))
    t.data.open(StepImages({"l": ("labelled", "heavy")}, streams={"x": Stream("union")}))
    t.data.prepare(0)
    with pytest.raises(BadInput, match="view='heavy'"):
        t.data.batch(Time(torch.tensor(0), 24, torch.float32))


def test_views_follow_the_runs_pool_and_crop_and_the_sets_mean_colour(source):
    made = {}
    for pool, crop in (("A", "reflect"), ("B", "zero"), ("C", "zero")):
        t = engine.Trainer(smoke_run("fixmatch", strong_pool=pool, crop=crop), source)
        t.data.prepare(3)
        batch, views = t.data.batch(Time(torch.tensor(3), t.total, t.dtype))
        raw = source.images[t.data.unlabelled[batch.index_u]]
        assert torch.equal(views["w"], augment.weak(raw, 0, "view/w", 3, source.flip, crop))
        assert torch.equal(views["s1"], augment.strong(raw, 0, "view/s1", 3, source.flip, pool, crop, source.mean))
        made[pool] = views["s1"]
    square = (made["C"] == torch.tensor([round(255 * m) for m in source.mean], dtype=torch.uint8).view(3, 1, 1)).all(1)
    assert (square.sum((1, 2)) >= 64).all()                           # at least a quarter of 16 x 16 lies inside


def test_example_views_are_those_that_a_run_sees(embedded):
    run = smoke_run("fixmatch", strong_pool="C", crop="zero", seed=4)
    grid, rows, names, title = examples.example_views(run, step=2)
    assert grid.shape == (4, 10, 32, 32, 3) and grid.dtype == np.uint8 and len(rows) == 4
    assert names == embedded.class_names
    assert embedded.name in title
    first = torch.stack([embedded.images[embedded.labels == k][0] for k in range(10)])
    want = [first, augment.weak(first, 4, "view/w", 2, embedded.flip, "zero"),
            *(augment.strong(first, 4, f"view/s{i}", 2, embedded.flip, "C", "zero", embedded.mean) for i in (1, 2))]
    assert np.array_equal(grid, torch.stack(want).permute(0, 1, 3, 4, 2).numpy())


def test_given_members_are_dealt_and_kept(source):
    t = engine.Trainer(smoke_run("fixmatch"), source)
    soft = torch.eye(10)[torch.tensor([3, 4, 5, 6])]
    t.data.set_members("labelled", torch.tensor([7, 8, 9, 11]), soft)
    t.data.prepare(0)
    batch, _ = t.data.batch(Time(torch.tensor(0), 24, torch.float32))
    assert batch.y.shape == (16, 10)
    again = engine.Trainer(smoke_run("fixmatch"), source)
    again.data.load_state_dict(t.data.state_dict())
    again.data.prepare(0)
    assert torch.equal(again.data.batch(Time(torch.tensor(0), 24, torch.float32))[0].y, batch.y)
