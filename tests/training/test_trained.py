"""Using what was trained: the loaded network says what the run measured;
prediction, export, and the figures that need networks."""
from __future__ import annotations

import functools
import os
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pandas as pd
import pytest
import torch
from kit import DATA, smoke_run
from PIL import Image

import semilib
from semilib.data import augment, examples, pictures, sources
from semilib.errors import BadInput
from semilib.report import diagrams, gallery, paint
from semilib.study import insight
from semilib.study.look import Look
from semilib.training import record, trained
from semilib.training.train import train

METHODS = ("fixmatch", "semi", "cdmad", "cossl", "decon")


@pytest.fixture(scope="module")
def source(embedded):
    """The whole images, which the loaded networks were trained on."""
    return embedded


@pytest.fixture(scope="module")
def folders(tmp_path_factory, source):
    runs = tmp_path_factory.mktemp("runs")
    return {method: train(smoke_run(method, eval_every=24, post_hoc=1.0 if method == "fixmatch" else 0.0), runs,
                          source=source)
            for method in METHODS}


@pytest.fixture(scope="module")
def models(folders):
    return {method: trained.load(folder, DATA) for method, folder in folders.items()}


@pytest.mark.parametrize("method", METHODS)
def test_a_loaded_network_classifies_the_test_set_as_the_run_s_last_evaluation_did(method, folders, models, source):
    predicted = models[method].logits(source.test_images).argmax(-1)
    confusion = torch.zeros(10, 10, dtype=torch.int64)
    confusion.index_put_((source.test_labels, predicted), torch.ones(len(predicted), dtype=torch.int64),
                         accumulate=True)
    assert confusion.tolist() == record.read_log(folders[method])[-1]["confusion"]
    rows = models[method].probabilities(source.test_images[:7]).sum(1)
    assert rows.tolist() == pytest.approx([1] * 7, abs=1e-5)
    assert models[method].features(source.test_images[:7]).shape == (7, models[method].method.info.features)


def test_pictures_are_named_with_confidence_and_second_guess(models, source, tmp_path):
    files = []
    for i in (0, 500):
        files.append(tmp_path / f"{i}.png")
        Image.fromarray(source.test_images[i].permute(1, 2, 0).numpy()).save(files[-1])
    frame = models["semi"].predict(files)
    assert frame["picture"].tolist() == [file.as_posix() for file in files]
    assert models["semi"].predict(tmp_path)["picture"].tolist() == frame["picture"].tolist()
    assert models["semi"].predict(str(files[0]))["class"].tolist() == frame["class"].tolist()[:1]
    assert frame.columns.tolist() == ["picture", "class", "confidence", "second", "second_confidence"]
    direct = models["semi"].predict(source.test_images[[0, 500]])
    assert frame["class"].tolist() == direct["class"].tolist()
    assert frame["confidence"].to_numpy() == pytest.approx(direct["confidence"].to_numpy())
    assert (frame["confidence"] >= frame["second_confidence"]).all() and (frame["class"] != frame["second"]).all()
    (tmp_path / ".hidden.png").write_text("passed over")
    assert models["semi"].predict([tmp_path, files[0]])["picture"].tolist() == [file.as_posix() for file in
                                                                                 (*files, files[0])]
    (tmp_path / "no.png").write_text("not a picture")
    (tmp_path / "none.png").write_text("nor this")
    with pytest.raises(BadInput, match=r"pictures='no.png': at least .*no.png \(cannot .*none.png \(cannot"):
        models["semi"].predict([tmp_path / "no.png", tmp_path / "none.png"])
    for given, words in (([], "at least one picture"), (tmp_path / "gone", "that are there; it does not exist"),
                         (["a.png", files[0]], "pictures='a.png'")):
        with pytest.raises(BadInput, match=words):
            models["semi"].predict(given)


def test_a_picture_that_cannot_be_read_is_passed_over_and_named(models, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    whole = [tmp_path / f"{i}.png" for i in range(3)]
    for i, file in enumerate(whole):
        Image.new("RGB", (40, 40), (80 * i, 9, 9)).save(file)
    wanted = models["semi"].predict(whole)
    for name in ("0a.jpg", "2a.txt"):
        (tmp_path / name).write_text("no picture")
    (tmp_path / "1a.png").write_bytes(whole[1].read_bytes()[:60])
    (tmp_path / "gone.png").symlink_to("/nowhere/gone.png")
    told = []
    monkeypatch.setattr(pictures, "PART", 2)                                  # one part of them has no picture at all
    found = models["semi"].predict(tmp_path, note=told.append)
    assert found["picture"].tolist() == [file.as_posix() for file in whole]
    assert found["confidence"].to_numpy() == pytest.approx(wanted["confidence"].to_numpy(), abs=1e-6)
    assert len(told) == 1
    assert told[0].startswith("4 of 7 files cannot be read as pictures and are passed over: gone.png "
                              "(a link without a target); 0a.jpg (cannot identify image file); ")
    assert told[0].endswith("; and 1 more") and "BytesIO" not in told[0]
    with pytest.warns(UserWarning, match="4 of 7 files cannot be read") as warned:
        models["semi"].predict(tmp_path)
    assert warned[0].filename == __file__


def test_predictions_are_kept_with_the_run_the_least_sure_first_one_file_a_folder(folders, models, source, tmp_path):
    run, files = tmp_path / "run", []
    run.mkdir()
    for name in ("run.json", "checkpoint.npz"):
        os.link(folders["semi"] / name, run / name)
    for place in ("a/my holiday", "b/my holiday"):
        (tmp_path / place).mkdir(parents=True)
        for i in range(5):
            Image.fromarray(source.test_images[i * 60].permute(1, 2, 0).numpy()).save(tmp_path / place / f"{i}.png")
        found, file = trained.predictions(run, [tmp_path / place])
        files.append(file)
        assert file.parent == run and file.name.startswith("predictions-my-holiday-") and file.suffix == ".csv"
    assert trained.predictions(run, [tmp_path / "b/my holiday"])[1] == files[1] != files[0]
    kept = pd.read_csv(files[1], dtype={"class": str, "second": str})
    assert kept.columns.tolist() == ["picture", "class", "confidence", "second", "second_confidence"]
    assert kept["confidence"].is_monotonic_increasing and kept["picture"].tolist() == found["picture"].tolist()
    assert sorted(kept["picture"]) == [(tmp_path / "b/my holiday" / f"{i}.png").as_posix() for i in range(5)]
    direct = models["semi"].predict(tmp_path / "b/my holiday").set_index("picture").loc[kept["picture"]]
    assert kept["class"].tolist() == direct["class"].tolist()
    assert kept["confidence"].to_numpy() == pytest.approx(direct["confidence"].to_numpy(), abs=1e-4)
    one = trained.predictions(run, [tmp_path / "b/my holiday/0.png"], out=tmp_path / "deep" / "one.csv")[1]
    assert one == tmp_path / "deep" / "one.csv" and len(one.read_text().splitlines()) == 2
    assert not {file.suffix for file in files} - set(record.MADE_OF_IT)


def test_a_printed_table_of_predictions_is_whole_and_has_no_powers_of_ten():
    long = "folder/" * 20 + "picture.png"
    frame = trained.Predictions({"picture": [long] * 2, "class": ["a class of a long name" * 4] * 2,
                                 "confidence": [0.998, 0.9999999], "second": ["bee"] * 2,
                                 "second_confidence": [1.736329e-03, 1e-7]})
    for shown in (repr(frame), repr(frame.sort_values("confidence").head(1)), frame._repr_html_()):
        assert long in shown and "a class of a long name" * 4 in shown and "0.998" in shown and "0.002" in shown
        assert "e-0" not in shown and "..." not in shown and "second_confidence" in shown


def test_pictures_that_are_kept_decoded_are_not_decoded_again(models, tmp_path, monkeypatch):
    (tmp_path / "unlabelled").mkdir()
    for i in range(3):
        Image.new("RGB", (40, 40), (80 * i, 9, 9)).save(tmp_path / "unlabelled" / f"{i}.png")
    monkeypatch.setattr(pictures, "SETTLED", -60.0)
    pictures.read(pictures.files_below(tmp_path / "unlabelled"), 32, tmp_path)
    monkeypatch.setattr(pictures, "read_picture", None)
    lines = []
    monkeypatch.chdir(tmp_path)
    frame = models["semi"].predict("unlabelled", lines.append)
    assert frame["picture"].tolist() == [f"unlabelled/{i}.png" for i in range(3)]
    assert lines == ["3 of 3 pictures predicted"]


@pytest.mark.parametrize("method", ["semi", "cdmad"])
def test_an_exported_network_needs_no_torch_and_says_the_same(method, models, source, tmp_path):
    session = onnxruntime.InferenceSession(str(models[method].export(tmp_path / "m.onnx")))
    for n in (1, 5):                                                                    # any number of pictures
        said, = session.run(None, {"images": source.test_images[:n].numpy()})
        np.testing.assert_allclose(said, models[method].probabilities(source.test_images[:n]).numpy(), atol=1e-5)
    facts = session.get_modelmeta().custom_metadata_map
    assert facts["class_names"].split("\n") == models[method].class_names and "[n, 3, 32, 32]" in facts["input"]


def test_only_a_finished_run_with_its_weights_can_be_loaded(folders, tmp_path):
    with pytest.raises(BadInput, match="its run.json and checkpoint.npz; it holds no run"):
        trained.load(tmp_path)
    with pytest.raises(BadInput, match="folder='none': .*; it does not exist"):
        trained.load(tmp_path / "none")
    published = record.publish(folders["semi"], tmp_path)
    with pytest.raises(BadInput, match="it has no checkpoint.npz"):
        trained.load(published)
    record.write(published, {**record.read(published), "status": "failed"})
    with pytest.raises(BadInput, match="this run is failed"):
        trained.load(published)


def test_a_run_on_pictures_takes_no_weights_of_an_encoder(folders, tmp_path):
    (tmp_path / "weights.pth").write_bytes(b"any")
    with pytest.raises(BadInput, match="encoder_weights=.*'': the run has no such file"):
        trained.load(folders["semi"], DATA, encoder_weights=str(tmp_path / "weights.pth"))


@pytest.mark.parametrize("change, wanted", [
    ({"config": {"network": "wrn-100-16"}}, "which is smaller than the"),
    ({"config": {"options": {"slots": 10**9}}}, "which is smaller than the"),
    ({"split": {"labelled_counts": [10**12] * 10}}, "its classes' names, their counts"),
    ({"split": {"labelled_counts": [1] * 9}}, "its run.json is damaged"),
    ({"split": {"class_names": None}}, "its run.json is damaged"),
    ({"normalisation": {"mean": [0.5]}}, "its classes' names, their counts")])
def test_a_foreign_record_makes_no_network_larger_than_its_checkpoint(change, wanted, folders, tmp_path):
    found = record.read(folders["semi"])
    for part, values in change.items():
        found[part].update({name: {**found[part][name], **value} if name == "options" else value
                            for name, value in values.items()})
    record.write(tmp_path, found)
    os.link(folders["semi"] / "checkpoint.npz", tmp_path / "checkpoint.npz")
    with pytest.raises(BadInput, match=wanted):
        trained.load(tmp_path, DATA)


def test_a_record_says_what_images_were_normalised_by_so_that_no_data_set_is_needed(folders, tmp_path):
    model = trained.load(folders["semi"], tmp_path / "nothing here")
    source = sources.load("mnistm5k", DATA)
    want = augment.normalise(source.test_images[:2], source.mean, source.std)
    torch.testing.assert_close(model.prepare(source.test_images[:2]), want)


# ---- figures ---------------------------------------------------------------------------------------------------------


def test_use_of_the_unlabelled_images_against_the_threshold(models, source):
    chosen = {"FixMatch": models["fixmatch"], "SeMi": models["semi"]}
    figure, frame = insight.unlabelled_use(chosen, points=12)
    assert set(frame["method"]) == set(chosen) and set(frame["group"]) == {"head", "medium", "tail"}
    assert set(frame["half"]) == {"easy", "hard"}
    first = frame[frame["threshold"] == 0]
    assert (first["used"] == 100).all(), "at threshold 0 every image counts"
    falls = frame.groupby(["method", "group", "half"])["used"].apply(lambda used: (used.diff().dropna() <= 0).all())
    assert falls.all()
    images, truth = insight.pool(models["semi"].run)
    assert first[first["method"] == "SeMi"]["images"].sum() == len(truth) == len(images)
    assert paint.png(figure)[:4] == b"\x89PNG"


def test_features_are_of_the_same_images_for_every_method(models):
    _, frame = insight.features_map({"FixMatch": models["fixmatch"], "SeMi": models["semi"]}, per_class=4)
    first, second = (part for _, part in frame.groupby("method"))
    assert first["image"].tolist() == second["image"].tolist() and len(first) == 40
    assert set(first["class"].value_counts()) == {4} and first["group"].iloc[0] == "head"
    assert frame["apart"].between(0, 40).all(), "3 of 10 neighbours can be of its class"
    line = np.array([[0.0, 0], [1, 0], [2, 0], [50, 0], [51, 0]])
    assert insight.apart(line, np.array([0, 0, 0, 1, 1])).tolist() == [50, 50, 50, 25, 25], "all others are neighbours"


def test_calibration_counts_every_test_image_and_weighs_its_gaps(models, source):
    _, frame = insight.calibration({"SeMi": models["semi"]})
    assert frame["images"].sum() == len(source.test_labels)
    seen = frame[frame["images"] > 0]
    gap = (seen["images"] * (seen["confidence"] - seen["right"]).abs()).sum() / len(source.test_labels)
    assert frame["ece"].iloc[0] == pytest.approx(gap)
    accuracy = (models["semi"].logits(source.test_images).argmax(-1) == source.test_labels).double().mean()
    assert (seen["images"] * seen["right"]).sum() / len(source.test_labels) == pytest.approx(100 * float(accuracy))


@pytest.mark.parametrize("draw", [insight.unlabelled_use, insight.calibration,
                                  functools.partial(insight.features_map, per_class=4)])
def test_a_figure_of_networks_is_drawn_again_without_them(draw, models, tmp_path):
    picture, numbers = paint.save(*draw({"FixMatch": models["fixmatch"], "CDMAD": models["cdmad"]}),
                                  tmp_path / "figure")
    assert paint.png(paint.redraw(numbers)) == picture.read_bytes()


def test_models_of_different_runs_share_no_figure(models, source, tmp_path):
    other = trained.load(train(smoke_run("fixmatch", steps=4, eval_every=4), tmp_path, source=source), DATA)
    with pytest.raises(BadInput, match="one cell, schedule and network"):
        insight.calibration({"a": models["fixmatch"], "b": other})


def test_the_pipeline_s_names_are_those_of_the_library():
    from semilib.data import augment, step
    from semilib.methods import get, losses, memory_bank, semi
    from semilib.networks import backbones
    homes = {"augment": augment, "backbones": backbones, "losses": losses, "memory_bank": memory_bank, "semi": semi,
             "StepImages": step}
    _, frame = diagrams.pipeline()
    boxes = frame[frame["path"] == ""]
    for name in boxes["name"][~boxes["name"].str.startswith("heads: ")]:
        module, _, attribute = name.partition(".")
        assert hasattr(homes[module], module if module == "StepImages" else attribute), name
    run = smoke_run("semi")
    from semilib.training.engine import Trainer
    t = Trainer(run)
    assert {name.split(": ")[1] for name in boxes["name"] if name.startswith("heads: ")} == set(t.net.heads)
    t.advance()
    drawn = {part.removeprefix("term ") for part in boxes["part"] if part.startswith("term ")}
    assert drawn == set(t.last_losses) and get("semi").__name__ == "SeMi"


def test_example_photos_are_a_folder_of_pictures_with_a_long_tail(tmp_path):
    folder = examples.example_photos(tmp_path / "photos", labelled=(6, 3, 2), pictures=36, test=12, dataset="mnistm5k")
    source = sources.load("imagefolder", str(folder), 32)
    assert torch.bincount(source.labels[source.labels >= 0]).tolist() == [6, 3, 2]
    assert (source.labels < 0).sum() == 13 and torch.bincount(source.test_labels).tolist() == [4, 4, 4]
    every = torch.cat([source.images, source.test_images]).flatten(1)
    assert len(every.unique(dim=0)) == 36, "no picture twice"
    before = sorted(p.stat().st_mtime_ns for p in folder.rglob("*.png"))
    examples.example_photos(tmp_path / "photos", dataset="mnistm5k")
    assert before == sorted(p.stat().st_mtime_ns for p in folder.rglob("*.png")), "written once"


def test_the_package_offers_it_by_the_name_that_the_readme_uses():
    assert "trained" not in vars(semilib) and semilib.trained is trained


# ---- the pictures behind a run's numbers -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def looked(models):
    return Look(models["semi"])


def test_the_hardest_pictures_are_those_of_highest_entropy_with_what_they_are_taken_for(looked):
    _, frame = looked.hardest(n=12)
    prob = looked.prob.numpy()
    chosen = np.argsort(-(-prob * np.log(prob)).sum(1), kind="stable")[:12]
    assert frame["text"].tolist() == [f"{looked.truth[i]} as {prob[i].argmax()}, {100 * prob[i].max():.0f} %"
                                      for i in chosen]
    assert (paint.decoded(frame["picture"][0]) == looked.images[chosen[0]].permute(1, 2, 0).numpy()).all()
    assert frame["line"].tolist() == [0] * 8 + [1] * 4
    own = looked.hardest(of="3", n=5)[1]
    assert all(text.startswith("3 as ") for text in own["text"]) and len(own) == 5
    with pytest.raises(BadInput, match="of='10': unknown"):
        looked.hardest(of="10")


def test_a_prototype_is_shown_by_the_pictures_with_the_nearest_features(looked, models):
    centres, filled = models["semi"].method.blend.bank.prototypes()
    k = int(filled.nonzero()[0])
    nearest = (looked.features - centres[k]).norm(dim=1).argsort()[:4].tolist()
    _, frame = looked.prototypes(of=str(k), n=4)
    assert frame["text"].tolist() == [str(looked.truth[i]) for i in nearest]
    assert frame["right"].tolist() == [float(looked.truth[i] == k) for i in nearest]
    without = Look(models["fixmatch"]).prototypes()[1]
    assert without["text"].tolist() == ["none"] and "no memory bank" in without["title"][0]


def test_wrong_pseudo_labels_are_counted_by_the_class_that_they_name(looked):
    sure, label = (x.numpy() for x in looked.prob.max(-1))
    _, frame = looked.confident_and_wrong(n=3, threshold=0.15)
    for k in range(10):
        counts = (label == k) & (sure >= 0.15)
        row = frame[frame["row"].str.startswith(f"{k}\n")]
        assert row["row"].iloc[0] == f"{k}\n{(counts & (looked.truth != k)).sum():,} of {counts.sum():,}"
        assert not any(text.startswith(f"{k},") for text in row["text"]) and len(row) <= 3
    assert "confidence of 0.2 or more" in looked.confident_and_wrong()[1]["title"][0], "the method's own"


def test_what_the_second_head_changes_is_shown_with_the_recall_before_and_after(looked, models, source):
    _, frame = looked.second_head(of="0", n=6)
    images, truth, before, after = looked.tested
    own = truth == 0
    assert frame["row"][0] == f"0\n{100 * (before[own] == 0).mean():.0f} → {100 * (after[own] == 0).mean():.0f} %"
    shown = frame[frame["picture"] != ""]
    assert [text.endswith("→ 0") for text in shown["text"]] == (shown["right"] == 1).tolist() and len(shown) <= 6
    alone = Look(trained.Trained(**{**vars(models["fixmatch"]), "offset": 0.0})).second_head()[1]
    assert (alone["picture"] == "").all(), "one head: nothing changes"


def test_a_figure_follows_its_controls(looked, monkeypatch):
    import IPython.display
    from ipywidgets import Dropdown, HBox, IntSlider
    shown, drawn = [], []
    monkeypatch.setattr(IPython.display, "display", lambda what, **more: shown.append(what) or SimpleNamespace(
        update=shown.append))

    def draw(of, n):
        drawn.append((of, n))
        return f"figure {of} {n}", None
    gallery.adjustable(draw, of=("3", ["all", "3"]), n=(30, range(4, 17)))
    box, first = shown
    assert isinstance(box, HBox) and first == "figure 3 30" and drawn == [("3", 30)]
    choice, number = box.children
    assert isinstance(choice, Dropdown) and choice.value == "3" and isinstance(number, IntSlider) and number.max == 30
    choice.value, number.value = "all", 5
    assert shown[2:] == ["figure all 30", "figure all 5"]
