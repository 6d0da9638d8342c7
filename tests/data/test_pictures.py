"""Picture files: read at reduced size, side by side, once; a folder of them is known by what its files hold."""
from __future__ import annotations

import os
import shlex
import shutil
import time
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_image

from semilib.data import folders, pictures, sources
from semilib.errors import BadInput
from semilib.training.config import Run

SIDE = 32


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    """A photograph of 2,560 x 1,708 pixels as a JPEG."""
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(load_sample_image("china.jpg")).resize((2560, 1708)).save(path, quality=90)
    return path


@pytest.fixture
def folder(tmp_path):
    """Two classes of four pictures, two test pictures and three without a class, all different and ten seconds old."""
    sizes = {"train/ant": 4, "train/bee": 4, "test/ant": 1, "test/bee": 1, "unlabelled": 3}
    for k, (place, n) in enumerate(sizes.items()):
        (tmp_path / place).mkdir(parents=True)
        for i in range(n):
            drawn(tmp_path / place / f"{i}.bmp", 10 * k + i)
    return tmp_path


def drawn(path, seed, age=10.0):
    """Write the picture of a seed, and make its file some seconds old; pictures of all seeds take the same bytes."""
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(path)
    os.utime(path, (time.time() - age,) * 2)


def load(folder):
    folders.look_again()
    return sources.load("imagefolder", folder, SIDE)


@pytest.fixture
def work(monkeypatch):
    """What is done to files: each that is read whole, by name."""
    done = []
    read = pictures.Path.read_bytes
    monkeypatch.setattr(pictures.Path, "read_bytes", lambda path: (done.append(path.name), read(path))[1])
    monkeypatch.setattr(pictures, "SETTLED", -60.0)        # files just written count as settled
    return done


# ---- decoding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("side, mean, most", [(32, 2.1, 25), (64, 1.7, 30), (128, 1.0, 20)])
def test_a_photograph_read_at_reduced_size_is_nearly_the_one_read_whole(photo, side, mean, most, monkeypatch):
    reduced = pictures.read_picture(photo, side).int()
    monkeypatch.setattr(pictures, "REDUCED", 10_000)
    gap = (reduced - pictures.read_picture(photo, side).int()).abs().float()
    assert 0 < gap.mean() < mean and gap.max() <= most


def test_a_small_jpeg_is_read_whole(photo, monkeypatch):
    whole = pictures.read_picture(photo, 300)                                             # 6 x 300 > 1,708
    monkeypatch.setattr(pictures, "REDUCED", 10_000)
    assert torch.equal(whole, pictures.read_picture(photo, 300))


def test_the_mark_of_the_decoding_follows_what_it_does(monkeypatch):
    before = pictures.decoding(SIDE)
    assert before == pictures.decoding.__wrapped__(SIDE) != pictures.decoding(64)
    monkeypatch.setattr(pictures, "REDUCED", 1)
    assert pictures.decoding.__wrapped__(SIDE) != before


# ---- what is kept ----------------------------------------------------------------------------------------------------


def test_pictures_are_decoded_once_and_found_again_whatever_has_the_same_content(folder, work):
    first = load(folder)
    assert len(work) == 2 * 13                                                    # for its content, and to decode it
    work.clear()
    again = load(folder)
    assert not work and torch.equal(again.images, first.images) and torch.equal(again.test_images, first.test_images)
    shutil.move(folder / "train/ant/3.bmp", folder / "train/bee/9.bmp")
    drawn(folder / "unlabelled/9.bmp", 999)
    moved = load(folder)
    assert work == ["9.bmp", "9.bmp", "9.bmp"]             # the moved one is looked into, the new one decoded as well
    assert torch.equal(moved.images[7], first.images[3]) and len(moved.images) == 12


@pytest.mark.parametrize("harm", [lambda file: file.write_bytes(file.read_bytes()[:5000]),
                                  lambda file: file.write_bytes(file.read_bytes().replace(b"ontents", b"ontentt")),
                                  lambda file: np.savez(file, contents=np.array(["a"], "S32"), images=np.zeros(3))])
def test_what_is_kept_and_damaged_is_made_again(folder, work, harm):
    first = load(folder)
    for file in (folder / ".semilib").rglob("*.npz"):
        harm(file)
    (folder / ".semilib/contents.json").write_text("{")
    again = load(folder)
    assert torch.equal(again.images, first.images)
    work.clear()
    assert torch.equal(load(folder).images, first.images) and not work


def test_a_decoder_that_makes_something_else_finds_nothing_and_clears_up(folder, work, monkeypatch):
    load(folder)
    monkeypatch.setattr(pictures, "decoding", lambda side: "00000000")
    work.clear()
    load(folder)
    assert len(work) == 13 and [path.name for path in (folder / ".semilib").glob("pic*")] == ["pictures-32-00000000"]


def test_a_folder_that_cannot_be_written_to_is_read_every_time(folder, work, monkeypatch):
    def refuse(*_):
        raise PermissionError("read-only")
    monkeypatch.setattr(pictures, "write_atomically", refuse)
    monkeypatch.setattr(pictures, "write_text", refuse)
    for _ in range(2):
        with pytest.warns(UserWarning, match="not kept for the next time: read-only"):
            assert len(load(folder).images) == 11
    assert len(work) == 4 * 13


def test_two_threads_read_what_one_reads_and_say_how_far_they_are(folder):
    files, lines = pictures.files_below(folder / "train"), []
    one, _ = pictures.read(files, SIDE)
    torch.set_num_threads(2)
    two, wrong = pictures.read(files, SIDE, report=lines.append)
    assert torch.equal(one, two) and not wrong
    assert lines[-1].startswith("pictures: 8 of 8 pictures decoded") and lines[-1].endswith("0.0 min left")


# ---- what identifies a folder ----------------------------------------------------------------------------------------


def test_pictures_replaced_by_others_of_the_same_name_size_and_time_make_another_run(folder):
    def run():
        return Run.of("imagefolder", "supervised", root=str(folder), encoder="none", side=SIDE)
    before, first = run().key, load(folder)
    drawn(folder / "train/ant/0.bmp", 12345)
    os.utime(folder / "train/ant/0.bmp", (1e9, 1e9))
    changed = run().key
    second = load(folder)
    drawn(folder / "train/ant/0.bmp", 54321)
    os.utime(folder / "train/ant/0.bmp", (1e9, 1e9))                                      # in the same tick, perhaps
    assert len({before, changed, run().key}) == 3
    assert not torch.equal(first.images[0], second.images[0])
    assert not torch.equal(load(folder).images[0], second.images[0])
    assert torch.equal(first.images[1:], second.images[1:])


def test_a_folder_is_walked_again_for_a_new_run_and_not_for_its_parameters(folder, monkeypatch):
    from semilib.study.unit import parameters_of
    walked, walk = [], pictures.files_below
    monkeypatch.setattr(pictures, "files_below", lambda of, *to: (walked.append(of.name), walk(of, *to))[1])
    run = Run.of("imagefolder", "supervised", root=str(folder))
    assert parameters_of(run) and run.key == run.key and parameters_of(run)
    assert run.key and walked == ["train", "test", "unlabelled"]
    assert Run.of("imagefolder", "supervised", root=str(folder)).key == run.key and len(walked) == 6


def test_a_picture_changed_while_it_is_read_is_no_other_picture(folder):
    known = folders.look(folder)
    drawn(folder / "train/ant/0.bmp", 12345)
    with pytest.raises(BadInput, match=r"1 of its files .* train/ant/0.bmp \(it was changed while it was read"):
        folders.read(known, list(known.contents), SIDE)


def test_files_that_are_none_are_named_before_anything_is_read(folder):
    (folder / "train/ant/gone.png").symlink_to("/nowhere/gone.png")
    (folder / "train/ant/all").symlink_to("..")
    os.mkfifo(folder / "train/ant/pipe")
    (folder / "train/ant/round").symlink_to("round")
    with open(os.fsencode(folder / "train/ant") + b"/caf\xe9.png", "wb"):
        pass
    with pytest.raises(BadInput) as error:
        load(folder)
    for words in (r"gone.png (a link without a target)", "all (a link to a folder around it)", "pipe (neither file",
                  r"caf\udce9.png (its name is not UTF-8)", "round (a link without a target)"):
        assert words in str(error.value)


# ---- what is told before training ------------------------------------------------------------------------------------


def told(folder):
    """What a look at a folder says, without the folder's name."""
    folders.look_again()
    said = []
    folders.prepare([SimpleNamespace(dataset="imagefolder", root=str(folder), side=SIDE)], note=said.append)
    return [line.removeprefix(f"{folder.name}: ") for line in said]


def test_a_good_folder_is_counted_in_one_line(folder):
    assert told(folder) == ["2 classes, 8 pictures in train/, 2 in test/, 3 in unlabelled/"]
    shutil.rmtree(folder / "test")
    assert "8 pictures in train/, no test/, so a part of train/ is held out, 3 in" in told(folder)[0]


def test_pictures_to_predict_are_the_unlabelled_ones_or_else_those_of_the_test(folder):
    (folder / "unlabelled" / ".DS_Store").write_bytes(b"Bud1")
    (folder / "unlabelled" / ".ipynb_checkpoints").mkdir()
    assert [file.name for file in folders.look(folder).to_predict()] == ["0.bmp", "1.bmp", "2.bmp"]
    shutil.rmtree(folder / "unlabelled")
    folders.look_again()
    assert folders.look(folder).to_predict() == [folder / "test/ant/0.bmp", folder / "test/bee/0.bmp"]


@pytest.mark.parametrize("name", ["unlabeled", "Unlabelled", "unlabelled_", "Train", "tests", "trian"])
def test_a_misspelt_part_of_a_folder_is_refused(name, folder):
    (folder / name).mkdir()
    with pytest.raises(BadInput, match=rf"is its {name}/ (unlabelled|train|test)/\?"):
        told(folder)


@pytest.mark.parametrize("harm, line", [
    (lambda folder: drawn(folder / "train/loose.bmp", 90),
     "left out: 1 pictures that lie in train/ itself, in no class"),
    (lambda folder: (folder / "notes.txt").write_text("mine"), "not used for training: notes.txt"),
    (lambda folder: (folder / "train/ant/notes.txt").write_text("mine"),
     "left out: 1 files that are no pictures: train/ant/notes.txt"),
    (lambda folder: shutil.rmtree(folder / "test/bee"), "looks wrong: no test picture of bee"),
    (lambda folder: (shutil.rmtree(folder / "test"),
                     shutil.copy(folder / "train/ant/1.bmp", folder / "train/ant/9.bmp")),
     "looks wrong: 1 pictures twice in train/, of which a part is held out: train/ant/1.bmp = train/ant/9.bmp"),
    (lambda folder: shutil.copy(folder / "test/ant/0.bmp", folder / "unlabelled/9.bmp"),
     "looks wrong: 1 pictures in test/ and in unlabelled/: test/ant/0.bmp = unlabelled/9.bmp")])
def test_what_is_left_out_and_what_looks_wrong_is_told(harm, line, folder):
    harm(folder)
    assert told(folder)[1:] == [line]


def test_a_folder_of_pictures_to_predict_is_not_used_for_training_and_its_command_is_told(folder):
    assert folders.look(folder).new_pictures() == folder / "unlabelled"
    (folder / "to predict").mkdir()
    (folder / "a list.csv").write_text("mine")
    for name in ("features/stores", ".semilib"):                              # what is written into the folder
        (folder / name).mkdir(parents=True)
    assert told(folder)[1:] == [f"not used for training: a list.csv, to predict; after training, `semilib predict RUN "
                                f"{shlex.quote(str(folder / 'to predict'))}` names the classes of its pictures"]
    assert folders.look(folder).new_pictures() == folder / "to predict"
    shutil.rmtree(folder / "to predict")
    shutil.rmtree(folder / "unlabelled")
    folders.look_again()
    assert folders.look(folder).new_pictures() is None


def test_a_file_that_is_no_picture_is_passed_over_and_a_damaged_picture_is_not(folder):
    before = folders.look(folder).id
    for name in ("train/ant/notes.txt", "train/ant/README", "test/bee/boxes.json", "unlabelled/deep/film.mov"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("no picture")
    assert told(folder)[1:] == ["left out: 4 files that are no pictures: test/bee/boxes.json, train/ant/README, "
                                "train/ant/notes.txt and 1 more"]
    assert folders.look(folder).id == before and len(load(folder).images) == 11
    Image.new("RGB", (40, 40), (1, 2, 3)).save(folder / "train/ant/picture.dat", format="PNG")
    assert len(load(folder).images) == 12, "a picture, whatever it is called"
    for name in ("train/ant/phone.HEIC", "train/bee/empty.jpg"):
        (folder / name).write_text(name)
    with pytest.raises(BadInput, match=r"2 of its files .*phone.HEIC \(cannot identify image file\); train/bee/emp"):
        load(folder)


def test_a_class_of_notes_alone_has_no_picture(folder):
    (folder / "train/cow").mkdir()
    (folder / "train/cow/notes.txt").write_text("to come")
    with pytest.raises(BadInput, match="no picture in train/cow"):
        load(folder)


def test_the_progress_of_reading_says_which_files_are_not_read_again(folder, work):
    load(folder)
    drawn(folder / "train/ant/9.bmp", 999)
    lines = []
    pictures.contents(pictures.files_below(folder), folder, lines.append)
    assert lines == [f"{folder.name}: reading files that are new or changed, 1 of 1 (size and dates of 13 others are "
                     "those of the last time)"]


@pytest.mark.parametrize("copy, where", [
    ("test/ant/9.bmp", "in train/ and in test/"), ("train/bee/9.bmp", "in two classes"),
    ("test/bee/9.bmp", "in two classes")])
def test_the_same_picture_in_two_classes_or_in_both_sets_is_refused_with_both_names(copy, where, folder):
    shutil.copy(folder / "train/ant/1.bmp", folder / copy)
    with pytest.raises(BadInput, match=f"remove one of each pair: 1 pictures {where}: train/ant/1.bmp = {copy}"):
        folders.look(folder)


@pytest.mark.parametrize("name", ["Thumbs.db", "desktop.ini", ".DS_Store", "._0.bmp"])
def test_files_of_operating_systems_are_no_pictures(name, folder):
    before = folders.look(folder).id
    for place in ("train", "train/ant", "unlabelled"):
        (folder / place / name).write_bytes(b"Bud1")
    (folder / "__MACOSX" / "ant").mkdir(parents=True)
    assert len(told(folder)) == 1 and folders.look(folder).id == before


def test_a_class_whose_name_has_two_unicode_forms_is_one(folder):
    composed, apart = "caf\u00e9", "cafe\u0301"
    (folder / "train/ant").rename(folder / "train" / composed)
    (folder / "test/ant").rename(folder / "test" / apart)
    before = folders.look(folder)
    assert list(before.train) == ["bee", composed] and len(before.test[composed]) == 1
    (folder / "train" / composed).rename(folder / "train" / apart)
    folders.look_again()
    assert folders.look(folder).id == before.id


@pytest.mark.parametrize("bits", [12, 16])
def test_grey_of_twelve_and_of_sixteen_bits_keeps_its_levels(bits, tmp_path):
    levels = np.linspace(0, 2**bits - 1, 64 * 64).reshape(64, 64).astype(np.uint16)
    Image.fromarray(levels).save(tmp_path / "grey.png")
    picture = pictures.read_picture(tmp_path / "grey.png", 64)
    assert torch.equal(picture[0], torch.from_numpy((levels >> bits - 8).astype(np.uint8)))
