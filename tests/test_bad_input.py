"""Bad input of every kind, drawn from one seed: a sentence for each, no traceback, no hang, nothing accepted that
cannot be meant. `tests/torture.py` draws 50,000."""
import functools

import bad_inputs
import pytest

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("kind, count", [
    ("runs", 1000), ("command lines", 50), ("parameters", 150), ("pictures", 50), ("files", 150)])
def test_bad_input_is_told_in_a_sentence(kind, count, tmp_path):
    done, faults = bad_inputs.run_cases(kind, count, 1, tmp_path)
    assert not faults, "\n".join(faults[:10])
    assert done["refused"] > count / 5 and sum(done.values()) == count


def test_each_contradiction_is_refused_whatever_the_method():
    for method in ("semi", "supervised"):
        for contradiction in bad_inputs.CONTRADICTIONS:
            given = {"method": method, "profile": "smoke", **contradiction}
            case = str(contradiction)[:80], functools.partial(bad_inputs.make, given), True
            assert bad_inputs.outcome(case) == "refused"


@pytest.mark.parametrize("case, word", [
    (("bad", lambda: 1 / 0, False), "bad: ZeroDivisionError: division by zero (test_bad_input.py:"),
    (("fine", lambda: None, False), "accepted"), (("taken", lambda: None, True), "taken: accepted, and cannot be")])
def test_a_fault_is_noticed(case, word):
    assert bad_inputs.outcome(case).startswith(word)
