"""Bad input of every kind, drawn from one seed: a sentence for each, no traceback, no hang, nothing accepted that
cannot be meant. `tests/torture.py` draws 50,000."""
import dataclasses
import functools

import bad_inputs
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from semilib.methods import METHODS, get
from semilib.training.config import Run

pytestmark = pytest.mark.filterwarnings("ignore")
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary()
VALUES = st.recursive(PLAIN, lambda part: st.lists(part) | st.dictionaries(st.text() | st.integers(), part),
                      max_leaves=6)
NAMES = {method: [*(f.name for f in dataclasses.fields(Run)), *(f.name for f in dataclasses.fields(get(method).Config))]
         for method in METHODS}


@pytest.mark.parametrize("kind, count", [
    ("runs", 1000), ("command lines", 50), ("parameters", 150), ("pictures", 50), ("files", 150)])
def test_bad_input_is_told_in_a_sentence(kind, count, tmp_path):
    done, faults = bad_inputs.run_cases(kind, count, 1, tmp_path)
    assert not faults, "\n".join(faults[:10])
    assert done["refused"] > count / 5 and sum(done.values()) == count


@settings(derandomize=True, max_examples=400, deadline=None, database=None)
@given(st.data())
def test_no_value_of_any_field_or_option_ends_otherwise(data):
    method = data.draw(st.sampled_from(list(METHODS)), "method")
    names = data.draw(st.lists(st.sampled_from(NAMES[method]), min_size=1, max_size=3, unique=True), "names")
    fields, options = {"profile": "smoke"}, {}
    for name in names:
        part = fields if name in Run.__dataclass_fields__ else options
        part[name] = data.draw(VALUES, name)
    asked = {"method": method, "options": options, **fields}
    case = bad_inputs.given_text(asked), functools.partial(bad_inputs.make, asked), False
    assert bad_inputs.outcome(case) in ("refused", "accepted")


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
