"""Hosted CI: the workflows and issue templates are valid by GitHub's published schemas, do what is said of them,
and a broken one is noticed."""
import copy
import re

import check_jsonschema
import pytest
import yaml
from kit import ROOT

from semilib import cli

PATH = ROOT / ".github" / "workflows" / "ci.yml"
RELEASE = PATH.with_name("release.yml")
TEMPLATES = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
SCHEMAS = ("vendor.github-workflows", "github-workflows-require-timeout")      # both come inside check-jsonschema


def loaded(path):
    return yaml.load(path.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)  # BaseLoader: the key `on` stays a word


@pytest.fixture(scope="module")
def workflow():
    return loaded(PATH)


@pytest.fixture
def problems(capsys):
    """What a schema has against a workflow file, "" if nothing. Offline."""
    def of(path, schema=SCHEMAS[0]):
        with pytest.raises(SystemExit) as ended:
            check_jsonschema.main(["--builtin-schema", schema, str(path)])
        said = "".join(capsys.readouterr())
        return "" if ended.value.code == 0 else said
    return of


@pytest.mark.parametrize("schema", SCHEMAS)
@pytest.mark.parametrize("path", [PATH, RELEASE], ids=lambda path: path.stem)
def test_a_workflow_is_valid_by_the_published_schema(path, schema, problems):
    assert problems(path, schema) == ""


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: path.stem)
def test_an_issue_template_is_valid_by_the_published_schema(path, problems):
    kind = "config" if path.stem == "config" else "forms"
    assert problems(path, f"vendor.github-issue-{kind}") == ""


def test_a_release_is_tested_first_and_gets_package_records_and_site():
    release, = loaded(RELEASE)["jobs"].values()
    runs, used = steps(release)
    tested, packed = (next(i for i, run in enumerate(runs) if part in run) for part in ("PYTHON=python test", "tar"))
    assert tested < packed < len(runs) - 1 and "gh release create" in runs[-1] and "dist/*" in runs[-1]
    for what in ("pip wheel", "results figures", "-C build docs"):
        assert what in runs[packed]
    assert set(filter(None, used)) <= {use for job in loaded(PATH)["jobs"].values() for use in steps(job)[1]}
    assert release["permissions"] == {"contents": "write"} and loaded(RELEASE)["permissions"] == {"contents": "read"}


def _unknown_key(w):
    w["jobs"]["test"]["timeout"] = 60


def _no_machine(w):
    del w["jobs"]["docs"]["runs-on"]


def _unknown_event(w):
    w["on"] = {"pushed": None}


def _step_that_does_nothing(w):
    w["jobs"]["docs"]["steps"].append({"nmae": "a step"})


def _unknown_permission(w):
    w["jobs"]["publish"]["permissions"] = {"pages": "admin"}


@pytest.mark.parametrize("breakage",
                         [_unknown_key, _no_machine, _unknown_event, _step_that_does_nothing, _unknown_permission])
def test_a_broken_workflow_is_noticed(breakage, problems, tmp_path):
    broken = yaml.safe_load(PATH.read_text(encoding="utf-8"))
    broken["on"] = broken.pop(True)
    copied = tmp_path / "ci.yml"
    breakage(changed := copy.deepcopy(broken))
    copied.write_text(yaml.safe_dump(changed), encoding="utf-8")
    assert "Schema validation errors" in problems(copied)


def steps(job):
    return [step.get("run", "") for step in job["steps"]], [step.get("uses", "") for step in job["steps"]]


def test_jobs_test_execute_the_tables_and_build_the_site(workflow):
    jobs = workflow["jobs"]
    assert {"push", "pull_request"} <= workflow["on"].keys()
    assert any(re.search(r"\bmake .*\btest$", run) for run in steps(jobs["test"])[0])
    assert any(re.search(r"\bmake .*\bdocs$", run) for run in steps(jobs["docs"])[0])
    assert any("profile=smoke" in run for run in steps(jobs["tables"])[0])
    assert {os.partition("-")[0] for os in jobs["tables"]["strategy"]["matrix"]["os"]} == {"ubuntu", "macos"}
    kept = next(step for step in jobs["tables"]["steps"] if "upload-artifact" in step.get("uses", ""))
    assert kept["if"] == "always()" and kept["with"]["if-no-files-found"] == "error"


def test_the_pinned_packages_are_looked_up_among_known_vulnerabilities(workflow):
    (audit,) = [run for run in steps(workflow["jobs"]["audit"])[0] if "pip_audit" in run]
    assert "--requirement constraints.txt" in audit and (ROOT / "constraints.txt").is_file()


def test_make_targets_and_verbs_of_the_workflow_exist(workflow):
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    shown = cli.parser().format_help()
    runs = [run for job in workflow["jobs"].values() for run in steps(job)[0]]
    made = {target for run in runs for target in re.findall(r"\bmake (?:[A-Z]+=\S+ )*(\S+)", run)}
    verbs = {verb for run in runs for verb in re.findall(r"\bsemilib ([a-z][\w-]*)", run)}
    assert {"test", "docs"} <= made and verbs
    assert not [t for t in made
                if not re.search(rf"^{re.escape(t)}:(?!=)", makefile.replace("$(STAMP)", ".venv/.installed"), re.M)]
    assert not [verb for verb in verbs if not re.search(rf"^ +{verb}\b", shown, re.M)]


def test_only_main_publishes_with_rights_that_no_other_job_has(workflow):
    publish = workflow["jobs"]["publish"]
    assert workflow["permissions"] == {"contents": "read"}
    assert [name for name, job in workflow["jobs"].items() if "permissions" in job] == ["publish"]
    assert publish["permissions"] == {"pages": "write", "id-token": "write"}
    assert "github.ref == 'refs/heads/main'" in publish["if"] and "pull_request" in publish["if"]
    assert set(publish["needs"]) == workflow["jobs"].keys() - {"publish"}
    site = next(step for step in workflow["jobs"]["docs"]["steps"] if "upload-pages-artifact" in step.get("uses", ""))
    assert f"docs/build.py {site['with']['path']}\n" in (ROOT / "Makefile").read_text(encoding="utf-8")


def test_actions_are_pinned_to_major_versions_and_pythons_are_admitted(workflow):
    jobs = workflow["jobs"].values()
    used = [use for job in jobs for use in steps(job)[1] if use]
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", use) for use in used)
    assert len({use.partition("@")[0] for use in used}) == len(set(used)), "one version of each action"
    oldest = re.search(r'requires-python = ">=(\S+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))[1]
    assert workflow["jobs"]["test"]["strategy"]["matrix"]["python"][0] == oldest
