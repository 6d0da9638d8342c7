"""The command line as a user meets it: a run on one's own pictures, states, reports, and errors in one line."""
import errno
import os
import re
import shlex
import signal
import subprocess
import sys

import pytest
from kit import ROOT
from PIL import Image

from semilib import cli
from semilib.errors import BadInput, Stopped
from semilib.training import record, signals
from semilib.training.config import Run


@pytest.fixture(scope="module")
def photos(tmp_path_factory, embedded):
    """A user's folder: three classes of JPEG and PNG pictures of different sizes, and unlabelled ones;
    no test folder."""
    root = tmp_path_factory.mktemp("photos")
    for k, name in enumerate(("zero", "one", "two")):
        (root / "train" / name).mkdir(parents=True)
        rows = (embedded.labels == k).nonzero().flatten()[:24 - 6 * k]
        for i, image in enumerate(embedded.images[rows]):
            picture = Image.fromarray(image.permute(1, 2, 0).numpy()).resize((40 + i, 48))
            picture.save(root / "train" / name / f"{i}.{'jpg' if i % 2 else 'png'}")
    (root / "unlabelled").mkdir()
    for i, image in enumerate(embedded.images[embedded.labels < 3][-20:]):
        Image.fromarray(image.permute(1, 2, 0).numpy()).save(root / "unlabelled" / f"{i}.png")
    return root


def refusal(*words: str) -> str:
    """The line with which the command line ends, after the name of its verb; Python prints it and exits with 1."""
    with pytest.raises(SystemExit) as ended:
        cli.main([*words])
    verb, _, said = ended.value.code.partition(": ")
    assert verb == f"semilib {words[0]}" and "\n" not in said
    return said


def test_a_run_on_ones_own_pictures(photos, tmp_path, capsys, monkeypatch):
    from semilib.data import pictures
    walked, walk = [], pictures.files_below
    monkeypatch.setattr(pictures, "files_below", lambda place: (walked.append(place.name), walk(place))[1])
    words = ["run", "dataset=imagefolder", f"root={photos}", "profile=smoke", "method=fixmatch",
             "fixmatch.threshold=0.2", "flip=False", "--runs", str(tmp_path)]
    cli.main(words)
    said = capsys.readouterr().out
    assert walked == ["train", "unlabelled"], "a process looks at its folder once"
    assert re.search(r"24 steps of profile smoke: \d of 9 right, \d+% \(95% interval \d+ to \d+%\); test pictures: "
                     r"a fifth of each class of train/, at least one, held out by a draw with split_seed=0\n"
                     r"right by class: one \d of 3, two \d of 2, zero \d of 4\n(warning: never predicted: .*\n)?"
                     r"balanced accuracy \d+% \(mean of .*; last \d+%\)\n", said) and "(done)" in said
    (path,) = [p.parent for p in tmp_path.rglob("run.json")]
    found = record.read(path)
    assert found["split"]["class_names"] == ["one", "two", "zero"] and found["split"]["labelled_counts"] == [15, 10, 20]
    assert sum(found["split"]["unlabelled_counts"]) == 45 and found["split"]["test_images"] == 3 + 2 + 4
    assert found["config"]["folder"] and str(photos) not in str(found)
    after = {name: shlex.split(line) for name, line in re.findall(r"(predict|export): +semilib (.*)\n", said)}
    assert after == {"predict": ["predict", str(path), str(photos / "unlabelled")], "export": ["export", str(path)]}
    cli.main(after["predict"])
    told = capsys.readouterr().out
    assert told.startswith("20 pictures: ")
    assert len(re.findall(r"unlabelled/\d+\.png +(one|two|zero) +[01]\.\d{3} ", told)) == 10
    assert len(re.search(r"all, the least sure first: (.*\.csv)\n$", told)[1].split("predictions-unlabelled-")) == 2
    assert len(next(path.glob("predictions-unlabelled-*.csv")).read_text().splitlines()) == 21
    cli.main(after["export"])
    told = capsys.readouterr().out
    assert told.startswith(f"{path / 'model.onnx'}: ") and "probabilities: of one, two, zero\n" in told
    cli.main(["status", "--runs", str(tmp_path)])
    said = capsys.readouterr().out
    assert said.startswith("state ") and re.search(r"key-code\ndone .*  last: \d of 9 right, ", said)
    cli.main(["publish", str(path), str(tmp_path / "results")])
    cli.main(["report", str(tmp_path / "results"), str(tmp_path / "figures")])
    made = {p.name for p in (tmp_path / "figures").iterdir()}
    assert {"table.md", "table.csv", "confusion_matrices.png", "distributions.png"} <= made


def test_a_run_s_commands_quote_its_folder_and_take_the_folder_that_is_not_used_for_training(photos, tmp_path, capsys):
    import shutil
    root = tmp_path / "my photos"
    shutil.copytree(photos, root)
    (root / "to predict").mkdir()
    words = ["run", "dataset=imagefolder", f"root={str(root)!r}", "profile=smoke", "method=supervised", "flip=False",
             "steps=2", "eval_every=2"]
    runs = ["--runs", str(tmp_path / "all runs")]
    cli.main([*words, *runs])
    said = capsys.readouterr()
    (path,) = [p.parent for p in (tmp_path / "all runs").rglob("run.json")]
    run, new = shlex.quote(str(path)), shlex.quote(str(root / "to predict"))
    assert said.out.endswith(f"predict: semilib predict {run} {new}\nexport:  semilib export {run}\n") and " " in new
    assert "my photos: not used for training: to predict; after training" in said.err
    cli.main([*words, "seed=0,1", *runs, "--bare", "--slots", "1"])
    said = capsys.readouterr().out
    assert len(re.findall(r"\.s[01]/supervised: \d of 9 right, .*\nright by class: one ", said)) == 2
    assert said.count("semilib predict ") == said.count("semilib export ") == 1


def test_another_folder_of_the_same_name_is_another_run(photos, tmp_path):
    import shutil

    from semilib.training.config import Run
    other = tmp_path / photos.name
    shutil.copytree(photos, other)
    same = [Run.of("imagefolder", "fixmatch", root=str(root)) for root in (photos, other)]
    assert same[0].key == same[1].key
    next((other / "train" / "one").iterdir()).unlink()
    assert Run.of("imagefolder", "fixmatch", root=str(other)).key != same[0].key


@pytest.mark.parametrize("words, message", [
    (["run", "methd=semi"], "parameter='methd': unknown; did you mean 'method'"),
    (["run", "semi"], "argument='semi': NAME=VALUE"),
    (["run", "dataset=imagefolder", "root=nowhere"], "root='nowhere': a folder that holds train/<class>/<pictures>; it "
                                                "does not exist"),
    (["predict", "nowhere", "a.png"], "folder='nowhere': the folder of a finished run, with its run.json and"),
    (["run", "n1=450", "m1=10"], "450"),
    (["run", "method=fixmatch", "semi.alpha=0.1"],
     "argument='semi.alpha': METHOD.OPTION of a method that is given: fixmatch"),
    (["run", "method=fixmatch", "threshold=0.5"], "threshold=0.5: an option of fixmatch: fixmatch.threshold=0.5"),
    (["run", "seed=1", "seed=2"], "argument='seed=2': one value for seed"),
    (["run", "steps=abc"], "steps='abc': a whole number: T, training steps"),
    (["run", "method=semi,acr", "cpe.threshold=0.5"],
     "argument='cpe.threshold': METHOD.OPTION of a method that is given: semi, acr"),
    (["run", "method=semi,arc"], "method='arc': unknown; did you mean 'acr'"),
    (["trace", "semi", "seed=0..2"], "runs=3: one: a single value for each name"),
    (["run", "semi.alpha=0.1", 'options={"alpha": 0.2}'], "argument='semi.alpha': one value for alpha; options="),
    (["run", "cls=1"], "parameter='cls': unknown"),
    (["run", f"seed={'[' * 3000}"], "(3,002 characters): a whole number"),
    (["run", "semi.threshold=0.1"], "threshold=0.1: above 1/C = 0.1"),
])
def test_a_mistake_is_one_line(words, message, tmp_path):
    runs = ["--runs", str(tmp_path)] if words[0] == "run" else []
    assert message in refusal(*words, *runs) and not any(tmp_path.iterdir())


def test_a_strict_run_whose_component_never_acts_ends_with_one_line(tmp_path):
    said = refusal("run", "method=fixmatch", "profile=smoke", "fixmatch.threshold=1.0", "strict=True", "steps=2",
                   "eval_every=1", "--runs", str(tmp_path))
    assert "never active in 2 steps of fixmatch: u (no pseudo-label reached the threshold" in said


def test_a_process_prints_its_mistake_without_a_traceback():
    done = subprocess.run([sys.executable, "-m", "semilib", "run", "methd=semi"], cwd=ROOT, capture_output=True,
                          text=True, timeout=300)
    assert done.returncode == 1 and not done.stdout
    assert done.stderr.startswith("semilib run: parameter='methd': unknown") and done.stderr.count("\n") == 1


def test_describe_lists_every_field_and_option(capsys):
    cli.main(["describe", "semi"])
    said = capsys.readouterr().out
    assert "gamma_l" in said and "tau_12" in said and "misaligned_features" in said
    lines = {line.split()[0]: line for line in said.splitlines() if line.startswith("  ")}
    for name, share in (("warmup", "0.012"), ("decay_every", "0.0004"), ("epoch", "0.002")):
        assert f" {share} of the run " in lines[name] and lines[name].endswith("; a whole number = steps")
    assert "12 of the run" not in lines["eval_every"] and "of the run" not in lines["threshold"]
    assert "all that reads the memory bank" in lines["plce"]


def test_an_option_that_the_memory_bank_has_not_leads_to_the_one_that_it_goes_with():
    for name in ("bank", "memory_bank"):
        with pytest.raises(BadInput, match="the memory bank goes with plce: with plce=False it is still filled"):
            Run.of(options={name: False})
    with pytest.raises(BadInput, match="unknown; valid|did you mean"):
        Run.of(method="fixmatch", options={"bank": False})
    with pytest.raises(BadInput, match=r"options=\{'alpha': 0.2\} in Python"):
        Run.of(**{"semi.alpha": 0.2})


def test_words_become_values():
    assert cli.assignments(["a=1", "b=0.5", "c=None", "d=[0, 1]", "e=text", 'f={"x": True}']) == {
        "a": 1, "b": 0.5, "c": None, "d": [0, 1], "e": "text", "f": {"x": True}}
    assert {text: cli.values(text) for text in ("0.2,0.4", "semi,acr", "0..3", "7..7", "1,3..5", "'a,b'", "a", "")} == {
        "0.2,0.4": [0.2, 0.4], "semi,acr": ["semi", "acr"], "0..3": [0, 1, 2, 3], "7..7": [7], "1,3..5": [1, 3, 4, 5],
        "'a,b'": "a,b", "a": "a", "": ""}
    assert cli.values('{"alpha": 0.2, "beta": 0.9}') == {"alpha": 0.2, "beta": 0.9}
    assert cli.values('{"a": {"alpha": 0.2}, "b": {}}') == {"a": {"alpha": 0.2}, "b": {}}
    run = cli.given_run(["method=semi", "semi.alpha=0.2", "options.beta=0.9", "seed=3"])
    assert run.options["alpha"] == 0.2 and run.options["beta"] == 0.9 and run.seed == 3
    with pytest.raises(BadInput, match="option of semi='alfa'"):
        cli.given_run(["semi.alfa=0.2"])


def test_a_run_and_the_measures_of_speed_need_only_torch_torchvision_numpy_and_pillow(tmp_path):
    from semilib.speed import records
    absent = ["pandas", "matplotlib", "seaborn", "IPython", "papermill", "sklearn", "mlxtend", "scipy", "yaml"]
    run = ["run", "profile=smoke", "method=fixmatch", "steps=2", "eval_every=2", "--folder", str(tmp_path / "run")]
    measures = ["speed", "device=cpu", "profile=smoke", "methods=semi", "sections=steps", "steps=2", "precisions=fp32",
                "--out", str(tmp_path / "x.json")]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({absent!r}))
from semilib.cli import main
main({run!r})
main({measures!r})
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0 and record.read(tmp_path / "run")["status"] == "done", done.stderr
    assert "A step of each method, wrn-10-0.25" in done.stdout and "record: " in done.stdout
    assert [row["method"] for row in records.rows_of(records.load(tmp_path)["x"], "steps")] == ["bare", "semi"]


def test_importing_the_package_is_cheap():
    code = ("import sys, semilib, semilib.cli; "
            "assert not {'torch', 'numpy', 'pandas', 'matplotlib'} & set(sys.modules), sorted(sys.modules)")
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, timeout=60)


def test_a_long_tail_of_ones_own_pictures_and_linked_folders(photos, tmp_path):
    from semilib.data import folders
    from semilib.training.config import Run
    run = Run.of("imagefolder", "fixmatch", root=str(photos), n1=10, gamma_l=5)
    assert run.gamma_u == 1 and run.cell.startswith("imagefolder-")
    linked = tmp_path / photos.name
    (linked / "train").mkdir(parents=True)
    for name in ("zero", "one", "two"):
        (linked / "train" / name).symlink_to(photos / "train" / name)
    alone = folders.look(linked).id
    (linked / "unlabelled").symlink_to(photos / "unlabelled")
    folders.look_again()
    assert folders.look(linked).id == folders.look(photos).id != alone


TABLE = ["table1", "profile=smoke", 'methods=["fixmatch"]', "seeds=[0]"]


def test_a_table_is_planned_listed_and_run_and_a_second_time_costs_nothing(tmp_path, capsys):
    runs = ["--runs", str(tmp_path / "runs")]

    def said(*words):
        cli.main([*words, *runs])
        return capsys.readouterr().out
    planned = said("plan", *TABLE)
    assert "1 runs (1 not started): 1 to do" in planned and "in one slot" in planned, "a time without any record"
    assert "Table 1" in (listed := said("list", *TABLE, "--all")) and "not started  mnistm5k-lt" in listed
    ran = said("run", *TABLE, "--bare", "--slots", "1")
    assert ran.index("1 to do") < ran.index("1 runs: 1 done") and f"records: {tmp_path / 'runs'}" in ran
    assert "1 runs: 1 done before" in said("run", *TABLE, "--bare")
    assert "  1 done\n" in said("list", *TABLE) and "1 runs (1 done): 0 to do" in said("plan", *TABLE)


def test_a_sweep_with_a_failed_run_ends_with_an_error_and_names_it(tmp_path, capsys):
    assert "momentum" in refusal("run", *TABLE, "eval_every=2", "steps=6", "momentum=1", "--runs",
                                 str(tmp_path)), "no such field"
    from semilib.study import sweep
    from semilib.study.unit import Outcome
    run = cli.given_grids(["table1"], TABLE[1:])[0].runs[0]
    outcome = Outcome(run, tmp_path, "failed", "TrainingError: the reason")
    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit) as ended:
        patch.setattr(sweep, "sweep", lambda *a, **k: [outcome])
        cli.main(["run", *TABLE, "--runs", str(tmp_path)])
    assert ended.value.code == 1
    assert f"{run.name} ({run.key}): failed: TrainingError: the reason" in capsys.readouterr().out


@pytest.mark.parametrize("words, message", [
    (["run", "table1", "--slurm", "partition=gpu"], "on='local': slurm"),
    (["run", "table1", "--on", "ray", "--slots", "3"], "on='ray': --ray num_cpus=N"),
    (["run", "method=semi", "--slots", "2"], "slots=2: not given for a single run"),
    (["run", "table1", "--folder", "x"], "folder='x': not given with a sweep"),
    (["run", "tabel1"], "or a table: table1, table2"),
    (["plan", "table1", "profile=smal"], "profile='smal': unknown; did you mean 'small'"),
    (["plan", "profile=smal"], "profile='smal': unknown; did you mean 'small'"),
    (["render", "10_run", "profle=smoke"], "parameter='profle': one that these notebooks have"),
    (["render", "nothing"], "notebook='nothing.ipynb': one of 00_quickstart"),
])
def test_a_mistaken_sweep_is_one_line_before_anything_starts(words, message):
    assert message in refusal(*words)


def test_render_gives_each_notebook_the_parameters_that_it_has(tmp_path, monkeypatch, capsys):
    from semilib.study import notebooks
    given = {}
    monkeypatch.setattr(notebooks, "execute", lambda path, output, words, show=True: given.update({output: words})
                        or output)
    cli.main(["render", "10_run", "00_quickstart", "profile=smoke", "seed=3", "--out", str(tmp_path)])
    small = notebooks.SMOKE                                      # with the profile come the options under which it acts
    assert given == {tmp_path / "10_run.ipynb": {**small["10_run.ipynb"], "seed": 3},
                     tmp_path / "00_quickstart.ipynb": small["00_quickstart.ipynb"]}
    given.clear()
    cli.main(["render", "10_run", "profile=trial", "options={}", "--out", str(tmp_path)])
    assert given == {tmp_path / "10_run.ipynb": {"profile": "trial", "options": {}}}
    given.clear()
    cli.main(["render", "profile=smoke", "--out", str(tmp_path)])
    every = {path.name for path in (ROOT / "notebooks").glob("*.ipynb")}
    assert {path.name for path in given} == every - {f"{name}.ipynb" for name in cli.NOT_RENDERED}
    table3 = given[tmp_path / "23_table3_imagenet127.ipynb"]
    assert "profile" not in table3, "ImageNet-127 has no smoke profile"
    given.clear()
    cli.main(["render", "--in-place"])
    assert given == {ROOT / "notebooks" / name: {} for name in every}, "one command for all that are committed"


def test_a_table_is_listed_without_reading_the_code_of_a_run_and_without_a_table(tmp_path, monkeypatch, capsys):
    from semilib.study import sheets
    from semilib.training import fingerprint
    for module, name in ((fingerprint, "code_of"), (fingerprint, "Module"), (sheets, "find")):
        monkeypatch.setattr(module, name, None)
    cli.main(["list", "table1", "profile=small", "--runs", str(tmp_path)])
    assert " in results" in capsys.readouterr().out


def test_runs_of_committed_records_are_left_alone_unless_asked_for(capsys):
    """results/ holds Supervised at 600 steps; it is shown as such, and done again only with --again."""
    given = ["table1", "methods=['supervised']", "seeds=[0, 7]"]
    cli.main(["list", *given])
    assert "1 in results, 1 not started" in capsys.readouterr().out
    cli.main(["plan", *given])
    out = capsys.readouterr().out
    assert "1 runs (1 not started)" in out and "1 more are among the committed records" in out
    cli.main(["plan", *given, "--again"])
    assert "2 runs" in capsys.readouterr().out
    cli.main(["run", "table1", "methods=['supervised']", "seeds=0..0"])
    out = capsys.readouterr().out
    assert "nothing to do, 1 runs are finished; --again does them too" in out and "records: results/" in out


def test_plan_and_list_without_words_answer_for_the_tables_that_there_are(monkeypatch, capsys):
    from semilib.study import grids
    real = grids.grid
    monkeypatch.setattr(grids, "grid", lambda name, **given: real(name, methods=["fixmatch"], seeds=[7], **given))
    for verb in ("list", "plan"):
        cli.main([verb])
        said = capsys.readouterr().out
        assert "Table 1" in said and "Table 5" in said and "Table 3" not in said, "ImageNet-127 is never small"


def test_a_sweep_is_planned_listed_and_told_before_it_starts(tmp_path, monkeypatch, capsys):
    from semilib.speed import workloads
    from semilib.study import sweep
    words = ["method=semi,acr", "seed=0..1", "profile=smoke", "semi.alpha=0.2,0.4"]
    asked, runs = [], ["--runs", str(tmp_path)]
    monkeypatch.setattr(workloads, "trial", lambda run: asked.append(run) or (2.5, 3_000_000))
    cli.main(["plan", *words, *runs, "--bare", "--slots", "2"])
    said = capsys.readouterr().out
    assert "6 runs (6 not started): 6 to do" in said and "6:00 in one slot, 3:00 in 2" in said and "19.2 MB" in said
    assert "a trial of ten steps of semi, profile smoke, wrn-10-0.25, on cpu (6 runs)" in said and len(asked) == 1
    cli.main(["list", *words, *runs, "--all"])
    said = capsys.readouterr().out
    assert "6 not started" in said and said.count("/acr ") == 2
    assert said.count("/semi, alpha 0.2 ") == 2 and said.count("/semi ") == 2                 # 0.4 is the default
    done = []
    monkeypatch.setattr(sweep, "sweep", lambda given, *more: done.extend(given) or [])
    cli.main(["run", *words, *runs, "--bare"])
    assert "6 to do" in capsys.readouterr().out
    assert [(r.seed, r.method, r.options["alpha"]) for r in done if r.method == "semi"] == [
        (0, "semi", 0.2), (0, "semi", 0.4), (1, "semi", 0.2), (1, "semi", 0.4)]


def test_collect_prints_a_table_for_a_reader_for_latex_and_for_programs(tmp_path, capsys):
    import json

    from kit import steady, write_record
    for seed, recall in enumerate((60, 80)):
        write_record(tmp_path, steady(recall, recall, recall), seed=seed)

    def said(*words):
        cli.main(["collect", str(tmp_path), *words])
        return capsys.readouterr().out
    assert said("--csv").splitlines()[0] == "method,seed,state,accuracy,head,medium,tail,minutes"
    assert r"fixmatch & 70.0 ± 14.1 & 70.0 & 70.0 & 70.0 & 2 \\" in said("--by", "method", "--latex")
    assert json.loads(said("--by", "method", "--json"))[0]["n"] == 2 and "70.0" in said("--by", "method")


def test_collect_takes_the_words_of_a_sweep_and_leaves_other_runs_of_the_folder_out(tmp_path, capsys):
    from kit import steady, write_record
    for seed in (0, 1, 7):
        write_record(tmp_path, steady(60, 60, 60), "semi", seed, options={"alpha": 0.25})
    words = ["method=semi", "seed=0..1", "semi.alpha=0.25,0.4", "profile=smoke"]
    cli.main(["collect", str(tmp_path), *words])
    said = capsys.readouterr().out
    assert said.count("not started") == 4 and "0.25" in said          # settings are not rounded as accuracies are
    with pytest.raises(SystemExit) as ended:
        cli.main(["collect", str(tmp_path), "another"])
    assert "one folder of runs" in ended.value.code


@pytest.mark.parametrize("words, wanted", [
    (["semi.threshold=0,7"], "quoted: semi.threshold"), (["seed=0-4"], "several values: seed=0..4"),
    (["method=fixmatch", "semi.alpha=0.2"], "semi.alpha.*: METHOD.OPTION of a method that is given: fixmatch"),
    (["sede=0..1"], "did you mean 'seed'")])
def test_a_refusal_tells_how_the_words_of_a_sweep_are_read(words, wanted, capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["plan", "profile=smoke", *words] if "method" in words[0] else ["plan", "method=semi", *words])
    assert re.search(wanted, ended.value.code), ended.value.code


def test_near_names_of_verbs_are_offered_and_the_version_is_told(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["statsu"])
    assert ended.value.code.startswith("semilib: verb='statsu': unknown; did you mean 'status'?")
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out == "semilib 0.1.0\n"


def test_a_notebook_that_stops_is_told_in_one_line_with_its_place(monkeypatch):
    from semilib.errors import NotebookError
    from semilib.study import notebooks

    def stop(*_, **__):
        raise NotebookError("10_run.ipynb", "BadInput", "seed=-1: at least 0", "runs/10_run.failed.ipynb")
    monkeypatch.setattr(notebooks, "execute", stop)
    assert refusal("execute", "notebooks/10_run.ipynb", "seed=-1") == \
        "10_run.ipynb stopped: BadInput: seed=-1: at least 0; up to there: runs/10_run.failed.ipynb"


@pytest.mark.parametrize("raised, code, said", [
    (KeyboardInterrupt(), 130, "stopped"), (Stopped("saved", signal.SIGTERM), 143, "saved"),
    (OSError(errno.ENOSPC, "No space left on device", "runs/log.jsonl"), 1, "runs/log.jsonl: No space left on device"),
    (PermissionError(errno.EACCES, "Permission denied"), 1, "a file: Permission denied")])
def test_a_stop_ends_with_the_usual_code_and_a_system_s_error_is_a_sentence(raised, code, said, monkeypatch, capsys):
    def status(args):
        raise raised
    monkeypatch.setattr(cli, "status", status)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status"])
    if code == 1:
        assert ended.value.code == f"semilib status: {said}"
    else:
        assert ended.value.code == code and capsys.readouterr().err == f"\n{said}\n"


@pytest.mark.parametrize("name", signals.NAMES)
def test_a_signal_ends_a_command_with_its_code(name, monkeypatch, request):
    number = getattr(signal, name)
    came = signal.signal(number, signal.SIG_DFL)                  # a shell's background jobs come with some ignored
    request.addfinalizer(lambda: signal.signal(number, came))
    before = signal.getsignal(number)

    def status(args):
        os.kill(os.getpid(), number)
    monkeypatch.setattr(cli, "status", status)
    with pytest.raises(SystemExit) as ended:
        cli.main(["status"])
    assert ended.value.code == 128 + number and signal.getsignal(number) == before


def test_a_folder_of_runs_that_is_a_file_is_a_sentence(tmp_path):
    (tmp_path / "runs").write_text("")
    assert refusal("run", "profile=smoke", "method=supervised", "--runs", str(tmp_path / "runs")).endswith("directory")
