"""Figures from records written by hand: what is drawn against numbers worked out here,
and against the frame and its CSV."""
import itertools

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from kit import CELL, LABELLED, UNLABELLED, steady, write_record
from matplotlib.patches import FancyBboxPatch
from matplotlib.path import Path
from matplotlib.transforms import Bbox
from PIL import Image

from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.report import diagrams, figures, paint
from semilib.report.labels import cell_in_words
from semilib.report.records import load, read
from semilib.training import metrics

ALL = [figures.confusion_matrices, figures.distributions, figures.per_class_accuracy, figures.learning_curves,
       figures.pseudo_label_quality]


def pseudo(used):
    """What an evaluation says of pseudo-labels: used [true, named], of 200 images shown."""
    used = np.array(used)
    return metrics.pseudo_label_scores(used, used.sum(1) + [5, 5, 0], used.sum(0), 200)


USED = [[[60, 0, 0], [20, 0, 0], [0, 0, 0]], [[60, 6, 0], [20, 34, 0], [0, 0, 0]]]


@pytest.fixture
def records(tmp_path):
    """Two seeds of FixMatch, one of SeMi, one of Supervised; two evaluations each; one run failed."""
    rising = [[60, 30, 0], [90, 60, 30]]
    lower = [[50, 20, 2], [80, 50, 26]]
    labels = [pseudo(u) for u in USED]
    return load([
        write_record(tmp_path, rising, seed=0, pseudo=labels), write_record(tmp_path, lower, seed=1, pseudo=labels),
        write_record(tmp_path, lower, method="semi", pseudo=labels[::-1]),
        write_record(tmp_path, rising, method="supervised"),
        write_record(tmp_path, rising, seed=1, method="semi", status="failed", pseudo=labels)])


def text_of(figure):
    return " ".join(t.get_text() for t in figure.findobj(matplotlib.text.Text)).replace("\n", " ")


def sizes(figure):
    """Points of all text that is drawn."""
    return [t.get_fontsize() for t in figure.findobj(matplotlib.text.Text) if t.get_text() and t.get_visible()]


def test_what_picking_by_the_test_set_adds_is_shown_by_method_and_cell(tmp_path):
    """Of 24 evaluations the last 20 are averaged; one cell has more of them than the other."""
    early = [[30, 30, 30]] * 3 + [[90, 90, 90]] + [[60, 60, 60]] * 20
    runs = [write_record(tmp_path, early, seed=0), write_record(tmp_path, steady(60, 60, 60), seed=1),
            write_record(tmp_path, early[3:], method="semi", cell="cifar10-lt.n8.m16.g4-1"),
            write_record(tmp_path, early, method="semi", seed=1, status="failed")]
    figure, frame = figures.inflation(load(runs))
    assert frame[["label", "seed", "evaluations"]].values.tolist() == [["fixmatch", 0, 24], ["fixmatch", 1, 4],
                                                                       ["semi", 0, 21]]
    assert frame["points"].tolist() == pytest.approx([30, 0, 30])
    assert r"$\gamma_l$ = 4, $\gamma_u$ = 1 (21 evaluations)" in text_of(figure) and "SeMi" in text_of(figure)
    _, numbers = paint.save(figure, frame, tmp_path / "inflation")
    assert paint.png(paint.redraw(numbers)) == paint.png(figure)
    with pytest.raises(BadInput, match="at least one finished run"):
        figures.inflation(load(runs[3:]))


def test_runs_that_were_not_started_are_named_once_in_the_caption(records, tmp_path):
    waiting = load(tmp_path / f"{CELL}.s{seed}" / "semi-0123abcd-89abcdef" for seed in (7, 8))
    caption = figures.learning_curves([*records, *waiting])[1]["caption"].iloc[0]
    assert caption.endswith("not shown: SeMi seed 1 (failed); not all seeds started: SeMi")


def test_a_folder_of_pictures_is_told_without_a_ratio():
    assert cell_in_words("imagefolder-photos.nall.mrest.g1-1.efficientnet-lite0") == (
        "Pictures of photos, all labels, all other images unlabelled, features of efficientnet-lite0")


@pytest.mark.parametrize("draw", ALL)
def test_every_figure(records, tmp_path, draw):
    """Nothing is left open, settings stay, the scale and what is missing are told,
    and the CSV holds the frame and the keys."""
    before = dict(matplotlib.rcParams)
    figure, frame = draw(records)
    again, _ = draw(records[::-1])
    picture, numbers = paint.save(figure, frame, tmp_path / CELL)
    assert (picture.name, numbers.name) == (f"{CELL}.png", f"{CELL}.csv")
    page = tmp_path / f"{CELL}.pdf"
    assert page.read_bytes() == paint.vector(again, "pdf") and b"CreationDate" not in page.read_bytes()
    assert plt.get_fignums() == [] and dict(matplotlib.rcParams) == before
    title, caption = frame["title"].iloc[0], frame["caption"].iloc[0]
    assert figure.get_suptitle() == title and CELL not in text_of(figure)
    assert "$N_1$ = 8, $M_1$ = 16, $\\gamma$ = 4, 20 steps of profile quickstart" in caption
    assert caption in text_of(figure) and "not shown: SeMi seed 1 (failed)" in caption
    points = sizes(figure)
    assert min(points) == paint.SMALL and max(points) == paint.TITLE
    missing = dict.fromkeys(["recall", "spread", "mean", "least", "greatest", "used"], "")
    read = pd.read_csv(numbers, keep_default_na=False, na_values=missing)
    pd.testing.assert_frame_equal(read, frame, check_dtype=False, rtol=1e-14, atol=0)
    for record in records[:3]:
        assert frame["runs"].str.contains(f"s{record.seed}:{record.id}").any()
    assert not frame["runs"].str.contains(records[4].id).any()
    png = picture.read_bytes()
    assert png.startswith(b"\x89PNG") and png == paint.png(figure) == figure._repr_png_()
    assert {p.name for p in tmp_path.iterdir() if p.is_file()} == {picture.name, page.name, numbers.name}
    assert again.get_size_inches().tolist() == figure.get_size_inches().tolist()
    assert figure.get_figwidth() * paint.DPI < 1400                                  # readable at a README's width


@pytest.mark.parametrize("draw", ALL)
def test_refusals(records, tmp_path, draw):
    other = read(write_record(tmp_path / "other", steady(80, 50, 20), profile="paper"))
    with pytest.raises(BadInput, match="not comparable"):
        draw([*records, other])
    with pytest.raises(BadInput, match="finished run"):
        draw(records[4:])
    records[0].log[-1]["balanced_accuracy"] = 1.0
    with pytest.raises(BadInput, match="a log that gives the result"):
        draw(records)


def test_settings_of_the_caller_do_not_leak_in(records):
    first = paint.png(figures.per_class_accuracy(records)[0])
    with matplotlib.rc_context({"xtick.labelsize": 20, "font.size": 30, "axes.spines.top": True,
                                "axes.facecolor": "red"}):
        figure, _ = figures.per_class_accuracy(records)
        assert paint.png(figure) == first


def test_confusion(records):
    figure, frame = figures.confusion_matrices(records)
    panels = [axes for axes in figure.axes if axes.images]
    titles = [axes.get_title().replace("\n", ", ") for axes in panels]
    assert titles == ["Supervised, balanced, last evaluation: 60.0 %",
                      "FixMatch, balanced, last evaluation: 56.0 %", "SeMi, balanced, last evaluation: 52.0 %"]
    own = frame[frame["label"] == "fixmatch"].pivot(index="true", columns="predicted", values="count")
    assert own.loc["ant", "ant"] == 90 + 80 and own.loc["ant", "bee"] == 10 + 20       # both seeds
    for axes, label in zip(panels, ["supervised", "fixmatch", "semi"], strict=True):
        drawn = np.asarray(axes.images[0].get_array())
        assert drawn.ravel().tolist() == frame.loc[frame["label"] == label, "share"].tolist()
        assert drawn.sum(1) == pytest.approx([100] * 3)
    assert [t.get_text() for t in panels[1].texts if t.get_text()] == ["85", "15", "55", "45", "72", "28"]
    assert len(figure.axes) - len(panels) == 1                                         # one colour bar for all


def test_a_confusion_matrix_of_few_images_prints_their_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr("kit.IMAGES", 20)
    shown = figures.confusion_matrices([read(write_record(tmp_path, steady(15, 20, 4)))])
    axes = shown[0].axes[0]
    assert [t.get_text() for t in axes.texts if t.get_text()] == ["15", "5", "20", "16", "4"]
    assert np.asarray(axes.images[0].get_array())[0].tolist() == [75, 25, 0], "colour is the share"
    assert "numbers: test images" in shown[1]["caption"][0] and axes.get_title().endswith("last evaluation: 65 %")
    assert same_again(shown, tmp_path / "few")


def test_distributions(records):
    figure, frame = figures.distributions(records)
    assert frame["set"].tolist() == ["labelled"] * 3 + ["unlabelled"] * 3 + ["pseudo-labels"] * 6
    # both evaluations, seeds added up
    assert frame["count"].tolist() == LABELLED + UNLABELLED + [320, 80, 0] + [160, 40, 0]
    assert frame["share"].tolist() == pytest.approx([100 * n / 14 for n in LABELLED]
                                                    + [100 * n / 42 for n in UNLABELLED]
                                                    + [80, 20, 0] + [80, 20, 0])
    assert "supervised" not in set(frame["label"])
    panels = [axes for axes in figure.axes if axes.get_visible()]
    assert [axes.get_title() for axes in panels] == ["Labelled set\n14 images",
                                                     "FixMatch\n400 pseudo-labels (50 % used)",
                                                     "SeMi\n200 pseudo-labels (50 % used)"]
    for axes, part in zip(panels, (frame[:3], frame[6:9], frame[9:]), strict=True):
        dashes, dots, crosses = axes.lines[:3]
        assert dashes.get_ydata().tolist() == frame["share"][3:6].tolist()
        assert dots.get_ydata().tolist() == part["share"][part["share"] > 0].tolist()
        assert len(crosses.get_xdata()) == (part["count"] == 0).sum()


def test_distributions_of_unknown_truth(records):
    for record in records:
        record.run["split"]["unlabelled_counts"] = [0, 0, 0]
    figure, frame = figures.distributions(records)
    assert frame.loc[frame["set"] == "unlabelled", "share"].isna().all() and "true share" not in text_of(figure)


def test_per_class(records):
    """Means over the two evaluations, then over the two seeds; spread of two numbers a, b: |a - b| / sqrt 2."""
    figure, frame = figures.per_class_accuracy(records)
    own = frame[frame["label"] == "fixmatch"]
    assert own["recall"].tolist() == pytest.approx([70, 40, 14.5])
    assert own["spread"].tolist() == pytest.approx([10 / 2 ** 0.5, 10 / 2 ** 0.5, 1 / 2 ** 0.5])
    assert frame[frame["label"] == "semi"]["spread"].isna().all()
    assert own["group"].tolist() == ["head", "medium", "tail"] and own["seeds"].tolist() == [2, 2, 2]
    bars = [bar for bar in figure.axes[0].containers if isinstance(bar, matplotlib.container.BarContainer)]
    assert [p.get_height() for bar in bars for p in bar.patches] == pytest.approx(frame["recall"].tolist())
    assert [bar.errorbar is not None for bar in bars] == [False, True, False]
    assert [t.get_text() for t in figure.axes[0].get_xticklabels()] == ["ant\n8", "bee\n4", "cow\n2"]


def test_classes_run_from_head_to_tail(records):
    for record in records:
        record.run["split"]["labelled_counts"] = [2, 8, 4]
    for draw in (figures.per_class_accuracy, figures.distributions):
        assert draw(records)[1]["class"][:3].tolist() == ["bee", "cow", "ant"]
    assert figures.confusion_matrices(records)[1]["predicted"][:3].tolist() == ["bee", "cow", "ant"]


def test_curves_that_stay_high_are_drawn_from_the_ten_below_them(tmp_path):
    for name, least, bottom in (("high", 62, 60), ("low", 30, 0)):
        path = write_record(tmp_path / name, steady(least, least, least) + steady(80, 80, 80))
        axes, = figures.learning_curves(load([path]))[0].axes
        assert axes.get_ylim()[0] == bottom


def test_learning_curves(records):
    figure, frame = figures.learning_curves(records)
    own = frame[frame["label"] == "fixmatch"]
    assert own["step"].tolist() == [10, 20]
    assert own["mean"].tolist() == pytest.approx([27, 56])
    assert own["least"].tolist() == pytest.approx([24, 52]) and own["greatest"].tolist() == pytest.approx([30, 60])
    lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
    assert [y for line in lines for y in line.get_ydata()] == frame["mean"].tolist()
    assert len(figure.axes[0].collections) == 1                                       # a band where there are two seeds
    assert "averaged" not in text_of(figure)


def test_averaged_span_is_marked(tmp_path):
    record = read(write_record(tmp_path, steady(80, 50, 20, n=30)))
    assert "averaged in the table" in text_of(figures.learning_curves([record])[0])


def test_pseudo_label_quality(records):
    _, frame = figures.pseudo_label_quality(records)
    own = frame[frame["label"] == "fixmatch"].set_index("quantity")
    assert own.loc["used", "mean"].tolist() == pytest.approx([40, 60])
    assert own.loc["right", "mean"].tolist() == pytest.approx([75, 100 * 94 / 120])
    assert own.loc["right: head", "mean"].tolist() == pytest.approx([75, 75])
    assert own.loc["right: medium", "mean"].isna().tolist() == [True, False]
    assert own.loc["right: medium", "mean"].iloc[1] == pytest.approx(85)
    assert own.loc["right: tail", "mean"].isna().all()
    figure, _ = figures.pseudo_label_quality(records[:2])
    assert "hardly any counted, or truth unknown" in text_of(figure)
    assert own.loc["right: medium", "images"].tolist() == [0, 40] and own.loc["used", "images"].tolist() == [200, 200]


def test_a_share_of_a_few_pseudo_labels_is_not_drawn(tmp_path):
    log = [pseudo([[60, 0, 0], [0, 8, 0], [0, 0, 0]]), pseudo([[60, 0, 0], [0, 12, 0], [0, 0, 0]])]
    figure, frame = figures.pseudo_label_quality(
        load([write_record(tmp_path, steady(80, 50, 20, n=2), pseudo=log)]))
    medium = next(axes for axes in figure.axes if axes.get_title() == "Right, of those used as medium")
    assert frame.set_index("quantity").loc["right: medium", "mean"].tolist() == [100, 100]
    drawn = medium.lines[0].get_ydata()
    assert np.isnan(drawn[0]) and drawn[1] == 100
    assert medium.lines[1].get_xdata().tolist() == [20], "a point without neighbours has a mark"


def test_many_evaluations_are_pooled_by_their_counts(tmp_path):
    log = [pseudo([[60, 0, 0], [20, 0, 0], [0, 0, 0]]), pseudo([[0, 0, 0], [0, 1, 0], [0, 3, 0]])] * 15
    record = read(write_record(tmp_path, steady(80, 50, 20, n=30), pseudo=log))
    _, frame = figures.pseudo_label_quality([record])
    own = frame.set_index("quantity")
    assert len(own.loc["used"]) == 15
    assert own.loc["used", "step"].tolist()[:2] == [2 * record.log[0]["step"], 4 * record.log[0]["step"]]
    assert own.loc["used", "mean"].tolist() == pytest.approx([100 * 84 / 400] * 15)
    assert own.loc["right", "mean"].tolist() == pytest.approx([100 * 61 / 84] * 15)
    assert own.loc["right: medium", "mean"].tolist() == pytest.approx([25] * 15)


def test_methods_keep_their_look():
    everything = paint.looks(["semi (oheml=off)", "semi", "fixmatch", "supervised", "acr", "daso", "crest"])
    for method in ("semi", "fixmatch", "supervised"):
        assert matplotlib.colors.to_hex(everything[method]["colour"]) == paint.COLOURS[method] == paint.colour(method)
        assert paint.looks([method])[method] == everything[method]
    assert paint.colour("acr") == paint.colour("acr")
    looks = [(tuple(look["colour"]), look["marker"]) for look in everything.values()]
    assert len(set(looks)) == len(looks) and len({color for color, _ in looks}) == len(looks)
    assert everything["semi (oheml=off)"]["marker"] == everything["semi"]["marker"]
    assert everything["semi (oheml=off)"]["line"] != everything["semi"]["line"]


def test_the_whole_field_can_be_told_apart():
    """Two dozen methods and their combinations:
    no two share colour and marker, and a name's look does not hang on the order."""
    names = [*METHODS, "remixmatch+abc", "acr+oheml+plce", "fixmatch+posthoc1", "semi (plce=off)"]
    found = paint.looks(names)
    assert len({(tuple(look["colour"]), look["marker"]) for look in found.values()}) == len(names)
    assert paint.looks(names[::-1]) == found
    for method in ("semi", "fixmatch", "supervised"):
        assert paint.looks([method])[method] == found[method]


def test_combinations_are_written_out_in_figures(tmp_path):
    records = [read(write_record(tmp_path, steady(80, 50, 20), method=name, pseudo=[pseudo(USED[0])] * 4))
               for name in ("remixmatch+abc", "acr+oheml+plce", "fixmatch+posthoc1")]
    for draw in ALL:
        figure, frame = draw(records)
        assert {"remixmatch+abc", "acr+oheml+plce", "fixmatch+posthoc1"} <= set(frame["label"]), draw.__name__
        for shown in ("ReMixMatch + ABC", "ACR + OHEML + PLCE", "FixMatch + LA (post-hoc)"):
            assert shown in text_of(figure), draw.__name__


def test_colours_in_figures(records):
    for subset in (records, records[:3], records[2:4]):
        figure, frame = figures.learning_curves(subset)
        lines = [line for line in figure.axes[0].lines if len(line.get_xdata())]
        for label, line in zip(dict.fromkeys(frame["label"]), lines, strict=True):
            assert matplotlib.colors.to_hex(line.get_color()) == paint.COLOURS[label]


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_panels_end_at_the_bottom(tmp_path, n):
    """Rows of at most three; every panel of the last row is drawn and carries the axis label."""
    records = [read(write_record(tmp_path, steady(80, 50, 20), method=f"m{i}", pseudo=[pseudo(USED[0])] * 4))
               for i in range(n)]
    figure, _ = figures.confusion_matrices(records)
    panels = [axes for axes in figure.axes if axes.images]
    assert len(panels) == n
    bottom = [axes for axes in panels if axes.get_subplotspec().is_last_row()]
    assert len(bottom) == {1: 1, 2: 2, 4: 2, 5: 3}[n] and all(axes.get_xlabel() == "predicted class" for axes in bottom)
    figures.distributions(records)


def test_many_classes(tmp_path):
    """A hundred classes: ranks in place of names, lines in place of bars, no printed values."""
    counts = [150 - k for k in range(100)]
    matrix = np.diag([50] * 100) + 50 * np.roll(np.eye(100, dtype=int), 1, axis=1)
    record = read(write_record(tmp_path, steady(80, 50, 20, n=1)))
    line = {**record.log[0], **metrics.scores(matrix, counts),
            "pseudo_labels": metrics.pseudo_label_scores(matrix, matrix.sum(1), matrix.sum(0), 10_000)}
    names = [f"class {k}" for k in range(100)]
    record.run["split"] |= {"labelled_counts": counts, "unlabelled_counts": counts, "class_names": names}
    record.run["result"] = metrics.summary([line])
    record.log[:] = [line]
    for draw in ALL:
        assert len(draw([record])[1]) > 0
    figure, _ = figures.confusion_matrices([record])
    assert not [t for t in figure.axes[0].texts if t.get_text()]
    figure, _ = figures.per_class_accuracy([record])
    assert not figure.axes[0].containers and "rank by labelled count" in figure.axes[0].get_xlabel()


def same_again(shown, path):
    """Save a figure, and draw it again from its CSV alone: every pixel is the same."""
    picture, numbers = paint.save(*shown, path)
    return paint.png(paint.redraw(numbers)) == picture.read_bytes()


@pytest.mark.parametrize("draw", ALL)
def test_a_figure_is_drawn_again_from_its_csv_alone(records, tmp_path, draw):
    for record in records:                                # names that look like numbers, nothing, or a missing value
        record.run["split"]["class_names"] = ["0", "None", "NA"]
    assert same_again(draw(records), tmp_path / "a")


def test_variants_and_averaged_evaluations_are_drawn_again_as_they_were(tmp_path):
    labels = [pseudo(USED[0])] * 30
    records = [read(write_record(tmp_path, steady(80, 50, 20, n=30), pseudo=labels, options={"t": t}, seed=s))
               for t in (0.95, 0.9, 0.7) for s in (0, 1)]
    for draw in (figures.learning_curves, figures.pseudo_label_quality, figures.distributions):
        assert same_again(draw(records), tmp_path / draw.__name__)


def test_pictures_and_the_pipeline_are_drawn_again_from_their_csv_alone(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 8, 8, 3), dtype=np.uint8)
    assert same_again(figures.image_grid(images, ["1", "2"], ["x", "y", "z"], "title"), tmp_path / "grid")
    assert same_again(diagrams.pipeline(), tmp_path / "pipeline")


def test_the_pipeline_s_text_is_inside_its_boxes_and_its_arrows_cross_neither_each_other_nor_a_box():
    figure, frame = diagrams.pipeline()
    axes, = figure.axes
    figure.draw_without_rendering()
    boxes = [patch.get_window_extent() for patch in axes.patches if isinstance(patch, FancyBboxPatch)]
    words = [text.get_window_extent() for text in axes.texts if "\n" in text.get_text() or "mathcal" in text.get_text()]
    assert len(words) == len(boxes) == (frame["path"] == "").sum()
    assert all(box.x0 < word.x0 and word.x1 < box.x1 and box.y0 < word.y0 and word.y1 < box.y1
               for word, box in zip(words, boxes, strict=True))
    paths = {arrow.box: Path([tuple(map(float, corner.split(","))) for corner in arrow.path.split()])
             for arrow in frame[frame["path"] != ""].itertuples()}
    assert not [pair for pair in itertools.combinations(paths, 2)
                if paths[pair[0]].intersects_path(paths[pair[1]], filled=False)]
    places = {b.box: Bbox.from_bounds(b.x - b.width / 2, b.y - b.height / 2, b.width, b.height)
              for b in frame[frame["path"] == ""].itertuples()}
    assert not [(arrow, box) for arrow, path in paths.items() for box, place in places.items()
                if box not in arrow.split() and path.intersects_bbox(place, filled=False)]
    assert {end for arrow in paths for end in arrow.split()} == set(places)


def test_a_sheet_shows_the_surest_and_the_least_sure_pictures_of_each_class(tmp_path):
    rows = []
    for i in range(12):
        path = tmp_path / f"{i}.png"
        Image.new("RGB", (20, 20), (20 * i, 0, 0)).save(path)
        rows.append((path.as_posix(), "cat" if i < 9 else "dog", 0.5 + i / 100))
    predictions = pd.DataFrame(rows, columns=["picture", "class", "confidence"])
    figure, frame = figures.thumbnails(predictions, each=2)
    cells = {(row["class"], row["column"]): row["name"] for row in frame.to_dict("records")}
    assert cells == {("cat", "surest 0"): "8.png", ("cat", "surest 1"): "7.png", ("cat", "least sure 0"): "1.png",
                     ("cat", "least sure 1"): "0.png", ("dog", "surest 0"): "11.png", ("dog", "surest 1"): "10.png",
                     ("dog", "least sure 0"): "9.png"}
    assert [axes.get_xlabel() for axes in figure.axes if axes.images][:2] == ["58 %", "57 %"]
    assert same_again((figure, frame), tmp_path / "sheet")
    with pytest.raises(BadInput, match="predictions='no.png': predictions of files that are there"):
        figures.thumbnails(predictions.assign(picture="no.png"))


def test_only_a_figure_s_csv_can_be_drawn(tmp_path):
    pd.DataFrame({"label": ["a"]}).to_csv(tmp_path / "t.csv", index=False)
    with pytest.raises(BadInput, match="path='t.csv': the CSV of a figure"):
        paint.redraw(tmp_path / "t.csv")
    pd.DataFrame({"figure": ["learning_curve"], "title": [""], "caption": [""]}).to_csv(tmp_path / "f.csv", index=False)
    with pytest.raises(BadInput, match="figure='learning_curve': unknown; did you mean 'learning_curves'"):
        paint.redraw(tmp_path / "f.csv")


def test_a_grid_of_pictures_shows_them_where_they_belong():
    images = np.zeros((2, 3, 4, 4, 3), dtype=np.uint8)
    images[1, 2] = 200
    figure, frame = figures.image_grid(images, ["a", "b"], ["x", "y", "z"], "title")
    shown = [axes.get_images()[0].get_array() for axes in figure.axes]
    assert len(shown) == 6 and (np.asarray(shown[5]) == 200).all() and (np.asarray(shown[0]) == 0).all()
    assert frame.query("row == 'b' and column == 'z'")["mean_grey"].item() == 200 and frame["mean_grey"].sum() == 200


def test_a_report_draws_what_can_be_drawn_and_names_the_rest(tmp_path):
    write_record(tmp_path / "results", steady(50, 60, 70), "supervised")
    said = figures.report(tmp_path / "results", tmp_path / "figures")
    assert said.splitlines()[-2:] == [
        f"not drawn: {name} (at least one finished run whose log has pseudo-labels)"
        for name in ("distributions", "pseudo_label_quality")]
    drawn = {path.stem for path in (tmp_path / "figures").glob("*.png")}
    assert drawn == {"confusion_matrices", "per_class_accuracy", "learning_curves"}
