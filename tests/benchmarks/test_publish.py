"""What is published of a run of peers: evidence, and nothing of the machine it ran on."""
import json
import re

import pytest
import speed_toy

from benchmarks.publish import parse, publish
from semilib.errors import BadInput


def test_what_is_published_of_a_run_of_peers_names_no_machine(tmp_path):
    record = speed_toy.published(tmp_path, "h200", gpu="NVIDIA H200")
    text = (tmp_path / "h200.peers.json").read_text()
    assert json.loads(text) == record
    assert not re.search(r"/tmp|/home|/usr|bin/python|Traceback|log_tail|cmd|argv|peer_x", text)
    assert record["machine"] == {"device": "NVIDIA H200", "cpu": speed_toy.FACTS["cpu"], "cores": 2, "torch": "2.14",
                                 "python": "3.11", "threads": 2, "cpu_units": ["avx2", "amx_bf16"],
                                 "date": "2026-12-02"}
    rows = {row["config"]: row for row in record["rows"]}
    assert rows["bare_graph_fp32_cl"]["error"] == "RuntimeError: no ... here"
    assert "skipped" in rows["semi_full_w16"]["error"]
    semi = rows["semi_full_wship"]
    assert (semi["of"], semi["shipped"], semi["variant"], semi["workers"], len(semi["step_s"])) == \
        ("authors", True, "", "4 + 4", 3)
    assert record["loaders"] == [{"config": "aug_semi", "labelled_views": 1, "labelled_cpu_ms_per_view_min": 0.2}]
    assert "32e3a71" in record["implementations"]["authors"]["what"]
    assert "1ef4cbe" in record["implementations"]["usb"]["what"]


def test_a_path_that_would_be_published_is_refused(tmp_path):
    raw = speed_toy.harness()
    raw["table"][0]["torch"] = "/home/someone/torch"
    (tmp_path / "harness.json").write_text(json.dumps(raw))
    with pytest.raises(BadInput, match="no path of a machine"):
        publish(tmp_path / "harness.json", tmp_path / "x.peers.json")
    assert not (tmp_path / "x.peers.json").exists()


def test_a_file_of_another_kind_is_refused(tmp_path):
    (tmp_path / "other.json").write_text("[]")
    with pytest.raises(BadInput, match="harness_json='other.json'"):
        publish(tmp_path / "other.json", tmp_path / "x.peers.json")


@pytest.mark.parametrize("config, of, method, precision, variant, shipped", [
    ("semi_full_wship", "authors", "semi", "fp32", "", True),
    ("semi_warm_w2", "authors", "semi", "fp32", "first six epochs' work", False),
    ("usb_daso_wship", "usb", "daso", "fp32", "", True),
    ("usb_fixmatch_mu2_pretrain_w4", "usb", "fixmatch", "fp32",
     "2 unlabelled images a labelled one, first 5,120 steps' work", False),
    ("bare_eager_fp32", "bare", "bare", "fp32", "eager", False),
    ("bare_graphe_bf16_cl", "bare", "bare", "bf16", "one CUDA graph, channels last", False),
    ("bare_eager_strict", "bare", "bare", "fp32", "eager, no TF32", False),
    ("ours_semi_fp32", "ours", "semi", "", "", False),
    ("other", "other", "", "", "", False)])
def test_a_configurations_name_says_what_was_run(config, of, method, precision, variant, shipped):
    assert parse(config) == {"config": config, "of": of, "method": method, "precision": precision, "variant": variant,
                             "shipped": shipped}
