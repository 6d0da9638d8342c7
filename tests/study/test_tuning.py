"""The trials that choose settings on features: the same draws for all, a cell of their own, and what is written."""
import json
import math

import pytest

from semilib.errors import BadInput
from semilib.methods import METHODS
from semilib.study import grids, tuning


def test_all_methods_get_the_same_draws_and_the_first_trial_is_the_profile_s():
    rows = grids.on_features(["fixmatch", "semi", "supervised"])
    runs = [tuning.run(row, number) for row in rows for number in range(9)]
    settings = [[(r.lr, r.weight_decay, r.ema, r.network) for r in runs[i:i + 9]] for i in (0, 9, 18)]
    assert settings[0] == settings[1] == settings[2] and len(set(settings[0])) == 9
    assert settings[0][0] == (0.03, 5e-4, 0.99, "mlp-256")
    assert runs[0].options["threshold"] == 0.95 and runs[9].options["threshold"] == 0.7
    decades = [int(8 * math.log(r.weight_decay / tuning.DECAY[0]) / math.log(tuning.DECAY[1] / tuning.DECAY[0]))
               for r in runs[1:9]]
    assert sorted(decades) == list(range(8)), "one trial in each eighth of the range"
    thresholds = [r.options["threshold"] for r in runs[1:9]]
    assert thresholds == [r.options["threshold"] for r in runs[10:18]] and set(thresholds) <= set(tuning.THRESHOLDS)
    assert all(tuning.RATE[0] <= r.lr <= tuning.RATE[1] for r in runs)


def test_a_method_without_a_threshold_by_design_keeps_none():
    row, = grids.on_features(["cdmad"])
    assert {tuning.run(row, number).options["threshold"] for number in range(9)} == {0.0}


def test_the_cell_stands_in_no_table_and_trials_have_half_the_steps():
    trial = tuning.runs(["semi"])[0]
    reported = {(r.n1, r.m1, r.gamma_l) for table in ("table1", "table2", "table4", "table5")
                for r in grids.grid(table, "features", seeds=[0]).runs}
    assert (trial.n1, trial.m1, trial.gamma_l) not in reported
    assert trial.steps == 750 and trial.holdout_images == 100 and trial.split_seed == 100
    assert tuning.runs(["semi"], "reversed")[0].order == "reversed"


def test_the_best_held_out_trial_of_each_method_is_written_and_read_by_the_tables(tmp_path, monkeypatch):
    import pandas as pd
    rows = grids.on_features(list(METHODS))
    found = pd.DataFrame([{"method": row.method, "trial": n, "threshold": 0.7 if row.method != "la" else None,
                           "heldout": 0.5 + (0.01 if n == 3 else 0)} for row in rows for n in range(9)])
    monkeypatch.setattr(tuning, "frame", lambda folder: found)
    chosen = tuning.choose(tmp_path, tmp_path / "tuned.json")
    assert chosen["semi"]["trial"] == 3 and chosen["semi"]["fields"] == tuning.trial(3)[0]
    assert chosen["semi"]["options"] == {"threshold": tuning.trial(3)[1]} and chosen["la"]["options"] == {}
    assert (chosen["semi"]["heldout"], chosen["semi"]["heldout_of_defaults"]) == (0.51, 0.5)
    assert json.loads((tmp_path / "tuned.json").read_text())["semi"] == chosen["semi"]
    monkeypatch.setattr(grids, "settings_of", lambda method: chosen[method])
    run = grids.grid("table1", "features", methods=["semi"], seeds=[0]).runs[0]
    assert run.lr == chosen["semi"]["fields"]["lr"] and run.options["threshold"] == tuning.trial(3)[1]
    monkeypatch.setattr(tuning, "frame", lambda folder: found[found["trial"] < 8])
    with pytest.raises(BadInput, match="all 9 trials of .*; 8 are finished"):
        tuning.choose(tmp_path, tmp_path / "tuned.json")


def test_what_was_chosen_stands_beside_the_profile_s_own_values_with_its_lead(monkeypatch):
    import pandas as pd
    tried = {"fixmatch": [0.60, 0.66, 0.65], "la": [0.7, 0.7, 0.6]}
    found = pd.DataFrame([{"method": method, "trial": n, "lr": 0.01 * (n + 1), "weight_decay": 5e-4, "ema": 0.99,
                           "network": "linear", "heldout": value,
                           "threshold": (0.95, 0.8, 0.7)[n] if method == "fixmatch" else None}
                          for method, values in tried.items() for n, value in enumerate(values)])
    monkeypatch.setattr(tuning, "frame", lambda folder, order: found)
    shown = tuning.table()
    assert [line[:1] + line[5:] for line in shown.cells()[1:]] == [
        ["LA", "", "70.0", "0.0", "70.0"], ["FixMatch", "0.8 (0.95)", "66.0", "1.0", "60.0"]]
    assert "lr 0.03, weight decay 0.0005, EMA 0.99, mlp-256" in shown.text and "pool consistent" in shown.title
    monkeypatch.setattr(tuning, "frame", lambda folder, order: pd.DataFrame())
    assert tuning.table(order="reversed").cells()[1:] == []


def test_on_features_each_seed_draws_its_split_and_the_main_cells_have_five():
    runs = grids.grid("table2", "features", methods=["semi"]).runs
    by_order = {order: sorted(r.seed for r in runs if r.order == order and r.dataset == "cifar10") for order in
                ("reversed", "uniform")}
    assert by_order == {"reversed": [0, 1, 2, 3, 4], "uniform": [0, 1, 2]}
    assert all(r.split_seed == r.seed and r.encoder == "efficientnet-lite0" for r in runs)


def test_rows_on_features_leave_out_what_cannot_run_there():
    rows = {row.method: row for row in grids.on_features(list(METHODS))}
    assert set(METHODS) - set(rows) == {"metaexpert"}
    assert rows["remixmatch"].options == {"lambda_r": 0.0} and rows["remixmatch"].name == "ReMixMatch without rotation"


def test_committed_trials_are_not_done_again(monkeypatch, capsys):
    from semilib import cli
    from semilib.study import sweep
    missing = []
    monkeypatch.setattr(sweep, "ensure", lambda runs, *rest, **more: missing.extend(runs))
    cli.main(["tune", "semi", "fixmatch"])
    assert not missing and "heldout" in capsys.readouterr().out


def test_the_settings_in_the_package_are_those_that_the_committed_trials_choose(tmp_path):
    assert tuning.choose(tmp_path / "none", tmp_path / "tuned.json") == json.loads(tuning.FILE.read_text())
