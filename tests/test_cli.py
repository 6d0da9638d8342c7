"""The command line as a user meets it: a run on one's own pictures, states, reports, and errors in one line."""
import subprocess
import sys

import pytest
from conftest import ROOT
from PIL import Image

from semilib import cli, record
from semilib.errors import BadInput


@pytest.fixture(scope="module")
def photos(tmp_path_factory, source):
    """A user's folder: three classes of JPEG and PNG pictures of different sizes, and unlabelled ones; no test folder."""
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("zero", "one", "two")):
        (root / "train" / name).mkdir(parents=True)
        rows = (source.labels == k).nonzero().flatten()[:24 - 6 * k]
        for i, image in enumerate(source.images[rows]):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((40 + i, 48))
            picture.save(root / "train" / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    (root / "unlabelled").mkdir()
    for i, image in enumerate(source.images[source.labels < 3][-20:]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "unlabelled" / f"{i}.png")
    return root


def semilib(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "semilib", *words], cwd=ROOT, capture_output=True, text=True, timeout=300)


def test_a_run_on_ones_own_pictures(photos, tmp_path, capsys):
    words = ["run", "dataset=imagefolder", f"root={photos}", "profile=smoke", "method=fixmatch", "fixmatch.threshold=0.2", "flip=False",
             "--runs", str(tmp_path)]
    cli.main(words)
    said = capsys.readouterr().out
    assert "24 steps of profile smoke: balanced accuracy" in said and "(done)" in said
    (path,) = [p.parent for p in tmp_path.rglob("run.json")]
    found = record.read(path)
    assert found["split"]["class_names"] == ["one", "two", "zero"] and found["split"]["labelled_counts"] == [15, 10, 20]
    assert sum(found["split"]["unlabelled_counts"]) == 45 and found["split"]["test_images"] == 3 + 2 + 4
    assert found["config"]["folder"] and str(photos) not in str(found)
    cli.main(["status", "--runs", str(tmp_path)])
    assert "done" in capsys.readouterr().out
    cli.main(["publish", str(path), str(tmp_path / "results")])
    cli.main(["report", str(tmp_path / "results"), str(tmp_path / "figures")])
    made = {p.name for p in (tmp_path / "figures").iterdir()}
    assert {"table.md", "table.csv", "confusion_matrices.png", "distributions.png"} <= made


def test_another_folder_of_the_same_name_is_another_run(photos, tmp_path):
    import shutil

    from semilib.config import Run
    other = tmp_path / photos.name
    shutil.copytree(photos, other)
    same = [Run.of("imagefolder", "fixmatch", root=str(root)) for root in (photos, other)]
    assert same[0].key == same[1].key
    next((other / "train" / "one").iterdir()).unlink()
    assert Run.of("imagefolder", "fixmatch", root=str(other)).key != same[0].key


@pytest.mark.parametrize("words, message", [
    (["run", "methd=semi"], "semilib run: parameter='methd': unknown; did you mean 'method'"),
    (["run", "semi"], "argument='semi': NAME=VALUE"),
    (["run", "dataset=imagefolder", "root=nowhere"], "root='nowhere': a folder that holds train/<class>/<pictures>"),
    (["run", "n1=450", "m1=10"], "450"),
    (["run", "method=fixmatch", "semi.alpha=0.1"], "argument='semi.alpha': fixmatch.alpha for an option"),
    (["run", "seed=1", "seed=2"], "argument='seed=2': one value for seed"),
    (["run", "semi.threshold=0.1"], "threshold=0.1: above 1/C = 0.1"),
    (["run", "method=fixmatch", "profile=smoke", "fixmatch.threshold=1.0", "steps=2", "eval_every=1", "--runs", "build/never"],
     "never active in 2 steps of fixmatch: u (no pseudo-label reached the threshold"),
])
def test_a_mistake_is_one_line_and_no_traceback(words, message):
    done = semilib(*words)
    assert done.returncode == 1 and message in done.stderr.splitlines()[-1] and "Traceback" not in done.stderr


def test_describe_lists_every_field_and_option(capsys):
    cli.main(["describe", "semi"])
    said = capsys.readouterr().out
    assert "gamma_l" in said and "tau_12" in said and "misaligned_features" in said


def test_words_become_values():
    assert cli.assignments(["a=1", "b=0.5", "c=None", "d=[0, 1]", "e=text", 'f={"x": True}']) == {
        "a": 1, "b": 0.5, "c": None, "d": [0, 1], "e": "text", "f": {"x": True}}
    run = cli.given_run(["method=semi", "semi.alpha=0.2", "options.beta=0.9", "seed=3"])
    assert run.options["alpha"] == 0.2 and run.options["beta"] == 0.9 and run.seed == 3
    with pytest.raises(BadInput, match="option of semi='alfa'"):
        cli.given_run(["semi.alfa=0.2"])


def test_a_run_needs_only_torch_torchvision_numpy_and_pillow(source, tmp_path):
    absent = ["pandas", "matplotlib", "seaborn", "IPython", "papermill", "sklearn", "mlxtend", "scipy", "yaml"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from semilib.cli import main
main(["run", "profile=smoke", "method=fixmatch", "fixmatch.threshold=0.12", "--folder", {str(tmp_path / "run")!r}])
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and record.read(tmp_path / "run")["status"] == "done", done.stderr


def test_importing_the_package_is_cheap():
    code = "import sys, semilib, semilib.cli; assert not {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules), sorted(sys.modules)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_long_tail_of_ones_own_pictures_and_linked_folders(photos, tmp_path):
    from semilib.config import Run
    from semilib.sources import folder_id
    run = Run.of("imagefolder", "fixmatch", root=str(photos), n1=10, gamma_l=5)
    assert run.gamma_u == 1 and run.cell.startswith("imagefolder-")
    linked = tmp_path / photos.name
    (linked / "train").mkdir(parents=True)
    for name in ("zero", "one", "two"):
        (linked / "train" / name).symlink_to(photos / "train" / name)
    alone = folder_id(linked)
    (linked / "unlabelled").symlink_to(photos / "unlabelled")
    assert folder_id(linked) == folder_id(photos) != alone
