"""Training on stored features: which views a step shows, every method's rules, and what cannot be run on them."""
from __future__ import annotations

from pathlib import Path

import kit
import numpy as np
import onnxruntime
import pytest
import torch
from PIL import Image, ImageOps
from sklearn.datasets import load_sample_image

from semilib.data.step import Time
from semilib.errors import BadInput
from semilib.features import batches
from semilib.features.batches import FeatureData
from semilib.methods import METHODS, get
from semilib.networks import encoders
from semilib.training import record, trained
from semilib.training.config import Run
from semilib.training.engine import Trainer
from semilib.training.train import train

OPTIONS = {"remixmatch": {"lambda_r": 0.0}, "semi": {"threshold": 0.3}}            # 4 classes: confidences from 1/4 on
# label -> method, base; those that say no to features are tested apart
FIT = {"+".join(filter(None, (base, name))): (name, base) for name in METHODS if not get(name).reads_maps
       for base in ("", *get(name).bases[1:])}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return tmp_path_factory.mktemp("features")


def run(root, method: str = "fixmatch", base: str = "", **changes) -> Run:
    name, side, weights = kit.tiny_encoder(root)
    options = {**OPTIONS.get(method, {}), **OPTIONS.get(base, {}), **changes.pop("options", {})}
    given = dict(encoder=name, encoder_side=side, encoder_weights=weights, network="mlp-16", stored_strong=3, n1=24,
                 m1=36, gamma_l=3.0, gamma_u=3.0, batch=8)
    return kit.smoke_run(method, base=base, options=options, **{**given, "root": str(root), **changes})


SOURCE = kit.source(32, 70)          # of 16 pixels a strong view may show nothing but its cut-out


@pytest.fixture
def make(root):
    def make(method: str = "fixmatch", **changes) -> Trainer:
        return Trainer(run(root, method, **changes), SOURCE)
    return make


def step_views(trainer: Trainer, step: int) -> tuple:
    trainer.data.prepare(step)
    now = Time(torch.tensor(step), trainer.total, torch.float32)
    return trainer.data.batch(now)


def test_a_step_shows_stored_views_of_its_images_and_different_ones_of_one_image(make):
    trainer = make(options={"strong_views": 3})
    data = trainer.data
    assert isinstance(data, FeatureData) and data.resident
    seen = set()
    for step in (0, 1, batches.AHEAD + 3):
        batch, views = step_views(trainer, step)
        picture = data.unlabelled[batch.index_u]
        for row, number in enumerate(picture[:4].tolist()):
            stored = [data.store.read("strong", k, torch.tensor([number]))[0] for k in range(3)]
            shown = [views[name][row].flatten() for name in ("s1", "s2", "s3")]
            which = [next(k for k in range(3) if torch.equal(one, stored[k])) for one in shown]
            assert sorted(which) == [0, 1, 2]
            seen.add(tuple(which))
        labelled = data.labelled[batch.index_l][:1]
        weak = [data.store.read("weak", k, labelled)[0] for k in range(2)]
        assert any(torch.equal(views["l"][0].flatten(), one) for one in weak)
    assert len(seen) > 1


def test_more_different_views_than_are_stored_are_refused(make):
    with pytest.raises(BadInput, match="stored_strong=3: at least 4"):
        make(options={"strong_views": 4})


def test_the_pool_s_plain_features_have_mean_0_and_deviation_1_after_standardising(make):
    data = make().data
    plain = data.normalise(batches.as_pictures(data.store.read("none", 0, data.rows)), torch.float64).flatten(1)
    assert plain.mean(0).abs().max() < 1e-9 and ((plain.std(0, correction=0) - 1).abs() < 1e-9).float().mean() > 0.9
    labelled = make(statistics="labelled").data
    assert not torch.equal(labelled.scale, data.scale)
    own = labelled.normalise(batches.as_pictures(data.store.read("none", 0, data.labelled)), torch.float64).flatten(1)
    assert own.mean(0).abs().max() < 1e-9


def test_features_read_from_the_disk_step_by_step_are_those_held_in_memory(make):
    held, read = make(), make(data_on="host")
    assert held.data.resident and not read.data.resident
    for step in (0, 1, 70):
        for name, view in step_views(held, step)[1].items():
            assert torch.equal(view, step_views(read, step)[1][name]), name
    assert kit.losses_of(held, range(4)) == kit.losses_of(read, range(4))


def test_a_pool_beyond_the_room_is_not_held(make, monkeypatch):
    monkeypatch.setattr(batches, "ROOM", 1000)
    trainer = make()
    assert not trainer.data.resident and trainer.data.tables == {}
    trainer.advance()


def test_the_room_is_that_of_the_tables_which_streams_share(make, monkeypatch):
    data = make().data
    taken = sum(table.nbytes for table in data.tables.values())
    assert len(data.numbers) > len(data.tables), "weak views of labelled and of unlabelled images are of one table"
    for room, resident in ((taken, True), (taken - 1, False)):
        monkeypatch.setattr(batches, "ROOM", room)
        assert make().data.resident is resident


@pytest.mark.parametrize("label", FIT)
def test_every_method_trains_reads_nothing_back_and_resumes_exactly(label, make, tmp_path):
    method, base = FIT[label]
    trainer = kit.check_resume(lambda: make(method, base=base), 24, [13], tmp_path)
    if trainer.method.capturable:
        again = make(method, base=base)
        again.advance()                                             # constants are kept from the first step on
        again.begin_step()
        with kit.Captured():
            again.compute_step()


@pytest.mark.parametrize("method, field", [("metaexpert", "encoder"), ("remixmatch", "lambda_r")])
def test_a_method_that_cannot_be_used_says_why_before_any_work(method, field):
    with pytest.raises(BadInput) as error:
        Run.of("cifar10", method, profile="features")
    assert error.value.field == field
    with pytest.raises(BadInput, match="blank_pass='train': eval with an encoder"):
        Run.of("cifar10", "cdmad", profile="features", options={"preset": "released"})


def test_cdmad_s_blank_image_is_the_feature_of_one_colour(make):
    trainer = make("cdmad")
    source, encoder = trainer.source, trainer.data.store.encoder()
    colour = [round(255 * (m + trainer.method.cfg.blank * s)) for m, s in zip(source.mean, source.std, strict=True)]
    picture = torch.tensor(colour).clamp(0, 255).to(torch.uint8).view(1, 3, 1, 1).expand(1, 3, *source.images.shape[2:])
    want = trainer.data.normalise(batches.as_pictures(encoder.eager(picture).half()), torch.float32)
    have = trainer.method.blank(trainer.data.normalise(trainer.test_x[:2], torch.float32))
    assert have.shape == want.shape and torch.allclose(have, want, atol=0.02)


def test_images_that_join_a_stream_later_have_their_views(tmp_path):
    trainer = Trainer(run(tmp_path, "supervised"), SOURCE)
    data = trainer.data
    assert data.store.missing({"weak": 2}, data.rows), "Supervised needs no views of the pool"
    data.set_members("labelled", data.unlabelled, torch.zeros(len(data.unlabelled), dtype=torch.int64))
    assert not data.store.missing({"weak": 2}, data.unlabelled)
    _, views = step_views(trainer, 0)
    assert (views["l"] != 0).flatten(1).any(1).all()


def test_held_out_images_lie_outside_of_the_pool_and_are_evaluated_on(make):
    trainer = make(holdout_images=5)
    data = trainer.data
    assert len(trainer.test_y) == 20 and torch.equal(torch.bincount(trainer.test_y), torch.full((4,), 5))
    held = data.test_store.pictures
    pool = data.store.pictures[data.rows]
    assert not any((pool == one).flatten(1).all(1).any() for one in held)
    with pytest.raises(BadInput, match="holdout_images=300: at most"):
        make(holdout_images=300)


def test_a_run_on_features_leaves_a_record(root, tmp_path):
    folder = train(run(root, "semi"), tmp_path, source=SOURCE)
    assert "test_efficientnet" in folder.parent.name and (folder / "checkpoint.npz").is_file()


# ---- the configuration -----------------------------------------------------------------------------------------------


def test_a_data_set_s_fields_follow_the_encoder():
    photographs = Run.of("imagefolder", root=".")
    assert (photographs.encoder, photographs.profile, photographs.side) == ("efficientnet-lite0", "features", 128)
    scratch = Run.of("imagefolder", root=".", encoder="none")
    assert (scratch.encoder, scratch.profile, scratch.network, scratch.side) == ("none", "quickstart", "wrn-10-0.5", 32)
    assert Run.of("cifar10", encoder="efficientnet-lite0").profile == "features"
    assert Run.of("cifar10", encoder="efficientnet-lite0", profile="smoke").network == "mlp-256"
    assert Run.of("cifar10", profile="features", encoder="none").network == "wrn-10-0.5"


@pytest.mark.parametrize("given, field", [
    (dict(encoder="efficientnet-lite0", network="wrn-28-2"), "network"), (dict(network="mlp-64"), "network"),
    (dict(network="mlp-4", encoder="efficientnet-lite0"), "network"), (dict(encoder="lite0"), "encoder"),
    (dict(encoder="efficientnet-lite0", encoder_side=100), "encoder_side"), (dict(stored_weak=3), "stored_weak"),
    (dict(encoder="timm:resnet18", encoder_weights="none.pth"), "encoder_weights"),
    (dict(holdout=0.1, holdout_images=3), "holdout_images")])
def test_what_does_not_fit_together_is_refused(given, field):
    with pytest.raises(BadInput) as error:
        Run.of("cifar10", **given).key                                 # noqa: B018  a file is read for the key
    assert error.value.field == field


def test_a_weights_file_counts_by_its_content(root, tmp_path):
    name, side, weights = kit.tiny_encoder(root)
    (tmp_path / "moved.pth").write_bytes(Path(weights).read_bytes())
    assert run(root).key == run(root, encoder_weights=str(tmp_path / "moved.pth")).key
    (tmp_path / "moved.pth").write_bytes(b"other")
    assert run(root).key != run(root, encoder_weights=str(tmp_path / "moved.pth")).key


def test_a_weights_file_is_read_once_for_all_keys_until_it_changes(tmp_path, monkeypatch):
    file, read = tmp_path / "weights.pth", []
    plain = Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: read.append(path) or plain(path))
    file.write_bytes(b"one")
    found = [encoders.file_hash(str(file)) for _ in range(3)]
    assert read == [file] and len(set(found)) == 1
    file.write_bytes(b"another")
    assert encoders.file_hash(str(file)) != found[0] and len(read) == 2


# ---- a finished run in use -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["semi", "cdmad"])
def test_a_loaded_network_and_its_onnx_file_say_of_pictures_what_the_run_s_evaluation_said(method, root, tmp_path):
    folder = train(run(root, method), tmp_path, source=SOURCE)
    weights = kit.tiny_encoder(root)[2]
    with pytest.raises(BadInput, match="encoder_weights='': the file of timm:test_efficientnet whose hash is"):
        trained.load(folder)
    model = trained.load(folder, encoder_weights=weights)
    said = model.probabilities(SOURCE.test_images)
    confusion = torch.zeros(4, 4, dtype=torch.int64)
    confusion.index_put_((SOURCE.test_labels, said.argmax(-1)), torch.ones(20, dtype=torch.int64), accumulate=True)
    assert confusion.tolist() == record.read_log(folder)[-1]["confusion"]
    session = onnxruntime.InferenceSession(str(model.export(tmp_path / "m.onnx")))
    exported, = session.run(None, {"images": SOURCE.test_images.numpy()})
    assert (torch.from_numpy(exported) - said).abs().max() < 0.02           # a feature at the border of two halves
    facts = session.get_modelmeta().custom_metadata_map
    photo = Image.fromarray(load_sample_image("china.jpg"))                 # by what the file says, with Pillow alone
    photo.save(tmp_path / "china.jpg", quality=95)
    square = ImageOps.fit(photo, (int(facts["side"]),) * 2, Image.Resampling.BICUBIC)
    exported, = session.run(None, {"images": np.asarray(square).transpose(2, 0, 1)[None]})
    row = model.predict(tmp_path / "china.jpg").iloc[0]
    assert row["class"] == facts["class_names"].split("\n")[exported[0].argmax()]
    assert row["confidence"] == pytest.approx(float(exported.max()), abs=0.05)
    assert "resize the centred square" in facts["input"] and "(bicubic, antialiased)" in facts["input"]
    assert facts["normalise"].startswith("inside of the file: resize to") and "mean [" in facts["normalise"]
