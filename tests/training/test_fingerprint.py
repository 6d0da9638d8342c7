"""The code fingerprint: what leaves it as it is, and what moves it. Changes are made to a copy of the package."""
import ast
import inspect
import itertools
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest
from kit import smoke_run

from semilib import METHODS, Run, cli, train
from semilib.data.augment import strong
from semilib.data.rng import words
from semilib.methods import get
from semilib.methods.abc import ABC
from semilib.methods.acr import ACR
from semilib.methods.additions import OHEML
from semilib.methods.base import Method
from semilib.methods.fixmatch import FixMatch
from semilib.methods.losses import Term
from semilib.methods.memory_bank import MemoryBank
from semilib.methods.remixmatch import ReMixMatch
from semilib.methods.semi import SeMi
from semilib.methods.supervised import Supervised
from semilib.networks.net import Net
from semilib.report import tables
from semilib.study import sweep
from semilib.training import fingerprint
from semilib.training.engine import Trainer

SEMI = {"method": "semi", "dataset": "mnistm5k"}
MOMENTS = itertools.count(time.time_ns(), 10**9)          # no file is ever written twice at one time


class Copy:
    """A copy of the package, which the fingerprint takes for the package itself."""

    def __init__(self, folder: Path):
        self.folder = folder
        shutil.copytree(fingerprint.PACKAGE, folder, ignore=shutil.ignore_patterns("__pycache__"))

    def files(self) -> dict[Path, str]:
        return {path: path.read_text(encoding="utf-8") for path in self.folder.rglob("*.py")}

    def write(self, path: Path, text: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        moment = next(MOMENTS)
        os.utime(path, ns=(moment, moment))

    def replace(self, pattern: str, new: str) -> int:
        """Replace a pattern in all files; returns how often."""
        number = 0
        for path, text in self.files().items():
            changed, n = re.subn(pattern, lambda match: new, text)
            if n:
                self.write(path, changed)
            number += n
        return number

    def function(self, name: str) -> str:
        """The source of a function that the package has once."""
        found, = [ast.get_source_segment(text, node) for text in self.files().values() if f"def {name}(" in text
                  for node in ast.parse(text).body if getattr(node, "name", "") == name]
        return found

    def code(self, old: str, new: str, config: dict = SEMI) -> str:
        """The fingerprint with a text, which stands in the package once, replaced by another."""
        (path, text), = [(path, text) for path, text in self.files().items() if old in text]
        assert text.count(old) == 1
        before = path.stat()
        self.write(path, text.replace(old, new))
        try:
            return fingerprint.code_of(config)
        finally:
            path.write_text(text, encoding="utf-8")
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return Copy(tmp_path_factory.mktemp("copy") / fingerprint.PACKAGE.name)


@pytest.fixture
def copy(shared, monkeypatch):
    """For changes that are taken back."""
    monkeypatch.setattr(fingerprint, "PACKAGE", shared.folder)
    return shared


@pytest.fixture
def own_copy(tmp_path, monkeypatch):
    """For changes that are not taken back."""
    out = Copy(tmp_path / fingerprint.PACKAGE.name)
    monkeypatch.setattr(fingerprint, "PACKAGE", out.folder)
    return out


# ---- what does not count -------------------------------------------------------------------------------------------

WORDS = {
    "annotation of an argument": ("def reduce(term: Term, name: str", "def reduce(term, name: str"),
    "annotation of what is returned": ("def uniform(w: Tensor) -> Tensor:", "def uniform(w: Tensor):"),
    "annotation of a variable": ("self.last_losses: dict[str, Tensor] = {}", "self.last_losses = {}"),
    "annotation of a class's attribute": ("bases: tuple[str, ...] = ()", "bases = ()"),
    "annotation of a field": ("lambda_e: float = option(", "lambda_e: int = option("),
    "annotation that is no field": ("    mask: Tensor\n    target: Tensor\n", "    mask: Tensor\n"),
    "import that annotations alone need": ("if TYPE_CHECKING:\n    from semilib.data.batches import Data\n", ""),
    "docstring": ("A term as one number, 0-dim. Raises", "Another sentence. Raises"),
    "docstring that is gone": ('    """A classifier head; its values are set by `initialise`."""\n', ""),
    "comment": ("def reduce(term", "# a comment\ndef reduce(term"),
    "sentence of an option": ("entropy weights w; off: w = 1", "on: entropy weights"),
    "message of an error": ("this PyTorch sees no CUDA device", "there is no CUDA device"),
    "text of an error's class": ('f"{shorter(field)}={shown(value)}: {wanted}"', 'f"{field}: {wanted}, not {value!r}"'),
    "order of functions": ("def reduce(term", "def another():\n    return 1\n\n\ndef reduce(term"),
}
ELSEWHERE = {
    "loader of another data set": ("STL10_SIDE = 32", "STL10_SIDE = 48"),
    "constants of another data set": ("(0.5071, 0.4867, 0.4408)", "(0.5, 0.5, 0.5)"),
    "tree of pictures": ("len(files) // 5", "len(files) // 4"),
    "new data set": ('    "stl10": stl10,\n', '    "stl10": stl10,\n    "other": functools.partial(svhn, side=64),\n'),
    "what applies to another data set": ('"m1": (0, _AS_IT_IS)', '"m1": (1, _AS_IT_IS)'),
    "profile": ("steps=1200, batch=32, lr=0.1", "steps=1200, batch=32, lr=0.2"),
    "default cell": ("n1=40, m1=360, gamma_l=20.0", "n1=50, m1=360, gamma_l=20.0"),
    "published recipe": ("def original(cls, run: dict[str, Any]) ->", "def original(cls, run, other=1) ->"),
    "another method": ("m / m.max().clamp(min=1)", "m / m.max().clamp(min=2)"),
    "another method's entry": ("semilib.methods.daso:DASO", "semilib.methods.tras:TRAS"),
    "module of SeMi for other methods": ("Term(term.rows, mask * w, mask.sum()",
                                         "Term(term.rows, mask + w, mask.sum()"),
    "progress": ("self.shown >= self.period", "self.shown > self.period"),
    "record": ("time.monotonic() + 1.0", "time.monotonic() + 2.0"),
    "name of a run": ('parts += [f"holdout{self.holdout:g}"]', 'parts += [f"held{self.holdout:g}"]'),
    "table": ("SPARE_MARKERS = ", "OTHER = 1\nSPARE_MARKERS = "),
    "what nobody calls": ("return self.confusion(self.predictions())", "return self.confusion(self.predictions()).T"),
}


@pytest.mark.parametrize("what", [*WORDS, *ELSEWHERE])
def test_does_not_count(what, copy):
    before = fingerprint.code_of(SEMI)
    assert copy.code(*{**WORDS, **ELSEWHERE}[what]) == before


def test_how_it_is_called_does_not_count(own_copy):
    """A local variable, a parameter that is passed by place, a function, a constant, a class, an imported class."""
    before = fingerprint.code_of(SEMI)
    for name in ("sixteenths", "c3", "_mulhilo", "EVALUATION_BATCH", "running_statistics_kept", "Monitor"):
        assert own_copy.replace(rf"\b{name}\b", f"other_{name}") > 1
        assert fingerprint.code_of(SEMI) == before, name


def test_parameters_that_are_passed_by_keyword_cannot_swap_their_names(copy):
    config = {"method": "cossl", "dataset": "mnistm5k"}
    before, text = fingerprint.code_of(config), copy.function("momentum_of")
    swapped = re.sub(r"\b(of|least)\b", lambda match: {"of": "least", "least": "of"}[match[0]], text)
    assert copy.code(text, swapped, config) != before


# ---- where it lies -------------------------------------------------------------------------------------------------


def move(copy: Copy, old: str, new: str) -> None:
    """Move a module; what names it by its full name goes along."""
    files = [copy.folder.parent.joinpath(*name.split(".")).with_suffix(".py") for name in (old, new)]
    copy.write(files[1], files[0].read_text(encoding="utf-8"))
    files[0].unlink()
    assert copy.replace(rf"\b{re.escape(old)}\b", new)


def test_a_moved_and_renamed_file_does_not_count(own_copy):
    before = fingerprint.code_of(SEMI)
    for i, thing in enumerate((Term, Net, MemoryBank)):
        move(own_copy, thing.__module__, f"semilib.deep.inside{i}")
    assert fingerprint.code_of(SEMI) == before


def test_a_module_that_is_split_in_two_does_not_count(own_copy):
    before = fingerprint.code_of(SEMI)
    (path, text), = [(path, text) for path, text in own_copy.files().items() if "def log_prior(" in text]
    parts = [own_copy.function(name) for name in ("log_prior", "ce")]
    own_copy.write(own_copy.folder / "more.py", text[:text.index("class Term")] + "\n\n\n".join(parts))
    for part in parts:
        text = text.replace(part, "")
    own_copy.write(path, text.replace("import math\n", "import math\n\nfrom semilib.more import ce, log_prior\n"))
    assert fingerprint.code_of(SEMI) == before


def test_methods_may_move_and_every_process_finds_the_same(own_copy):
    """A process of its own imports the moved files; its hashes of strings are other ones."""
    names = ["fixmatch", "semi", "abc"]
    before = [fingerprint.code_of({"method": name, "dataset": "cifar10"}) for name in names]
    for i, thing in enumerate((FixMatch, ABC)):
        move(own_copy, thing.__module__, f"semilib.deep.inside{i}")
    script = "import sys; from semilib.training import fingerprint; " \
             "print([fingerprint.code_of({'method': name, 'dataset': 'cifar10'}) for name in sys.argv[1:]])"
    folder = own_copy.folder.parent
    out = subprocess.run([sys.executable, "-c", script, *names], capture_output=True, text=True, cwd=folder, check=True,
                         env={**os.environ, "PYTHONPATH": str(folder), "PYTHONHASHSEED": "7"})
    assert ast.literal_eval(out.stdout) == before


# ---- what counts ---------------------------------------------------------------------------------------------------

ARITHMETIC = {
    "loss": ("return total * term.scale", "return total + term.scale"),
    "average": ("_foreach_lerp_(average, live, 1 - self.decay)", "_foreach_lerp_(average, live, self.decay)"),
    "view": ("padding, last = side // 8", "padding, last = side // 7"),
    "random numbers": ("return (w * n) >> 32", "return (w * n) >> 31"),
    "constant": ("0xD2511F53", "0xD2511F54"),
    "pseudo-label": ("mask = (confidence >= tau) |", "mask = (confidence > tau) |"),
    "memory bank": ("self.confidence * beta, self.confidence)", "self.confidence, self.confidence * beta)"),
    "sampling": ("number = (step - self.start) // self.batches", "number = (step + 1) // self.batches"),
    "learning rate": ('{"cosine": 7,', '{"cosine": 6,'),
    "split": ("[members[k][:n[k]] for k", "[members[k][-n[k]:] for k"),
    "optimiser's groups": ('{"weights": norm or name.endswith("bias")', '{"weights": norm'),
    "optimiser": ("nesterov=True, fused=True, **changes", "nesterov=False, fused=True, **changes"),
    "network": ("F.leaky_relu(self.bn1(x), 0.1", "F.leaky_relu(self.bn1(x), 0.2"),
    "initial values": ("2 / (weight.shape[0] + weight.shape[1])", "1 / (weight.shape[0] + weight.shape[1])"),
    "evaluation": ("logits = logits - self.post_hoc", "logits = logits + self.post_hoc"),
    "score": ("float(recall[seen].mean())", "float(recall[seen].max())"),
    "loader": ("np.maximum(digit, background // 2)", "np.maximum(digit, background // 3)"),
    "entry of a table": ('"mnistm5k": mnistm5k,', '"mnistm5k": functools.partial(mnistm5k, side=64),'),
    "duration": ("max(1, round(duration * total))", "max(1, int(duration * total))"),
    "default of an option": ("lambda_e: float = option(0.15,", "lambda_e: float = option(0.2,"),
    "bound of an option": ('"weight of L_e", low=0)\n        t_e', '"weight of L_e", low=-1)\n        t_e'),
    "default of a parameter": ("drop_last: bool = False", "drop_last: bool = True"),
    "default of a field": ("restart_rate: bool = False", "restart_rate: bool = True"),
    "order of fields": ("    restart_rate: bool = False\n    fresh: bool = False\n",
                        "    fresh: bool = False\n    restart_rate: bool = False\n"),
    "new field": ("    restart_rate: bool = False\n", "    other: bool = False\n    restart_rate: bool = False\n"),
    "field that is none": ("restart_rate: bool = False", "restart_rate = False"),
    "decorator": ("    @torch.no_grad()\n    def after_step", "    def after_step"),
    "order of calls": ("        self.backward(losses)\n        self.set_rate(self.learning_rate(now))\n",
                       "        self.set_rate(self.learning_rate(now))\n        self.backward(losses)\n"),
    "function called": ("self.keep) * self.target(weak).mean(0)", "self.keep) * self.rows(weak).mean(0)"),
    "method called": ("trainer.monitor.reset()", "trainer.monitor.losses()"),
    "condition of an error": ("not 0 < share <= 1", "not 0 < share < 1"),
    "statement at import": ("RECIPES = ", "torch.set_default_dtype(torch.float64)\nRECIPES = "),
    "function that is redefined": ("def one_hot(", "def ce(logits, target):\n    return 0\n\n\ndef one_hot("),
    "method that overrides": ("class SeMi(Method):", "class SeMi(Method):\n    def every(self):\n        return 1\n"),
    "hook of a base from outside": ("class Net(nn.Module):", "class Net(nn.Module):\n    def _apply(self, f): ...\n"),
    "special method": ("class Monitor:", "class Monitor:\n    def __bool__(self):\n        return False\n"),
    "how parts combine": ("in reversed(type(name, configs, {}).__mro__)", "in type(name, configs, {}).__mro__"),
}


@pytest.mark.parametrize("what", ARITHMETIC)
def test_counts(what, copy):
    before = fingerprint.code_of(SEMI)
    assert copy.code(*ARITHMETIC[what]) != before


def test_the_table_of_data_sets_is_read_at_the_runs_own(copy):
    run = {name: {"method": "semi", "dataset": name} for name in ("cifar10", "cifar100", "svhn", "imagenet127")}
    before = {name: fingerprint.code_of(config) for name, config in run.items()}
    assert len({*before.values(), fingerprint.code_of(SEMI)}) == 5
    for edit, moved in ((("kind.train_list + kind.test_list + [[", "kind.test_list + [["), {"cifar10", "cifar100"}),
                        (("(0.5071, 0.4867, 0.4408)", "(0.5, 0.5, 0.5)"), {"cifar100"}),
                        (("return rank < n", "return rank <= n"), {"imagenet127"})):
        assert {name for name, config in run.items() if copy.code(*edit, config) != before[name]} == moved


def test_without_a_data_set_every_loader_counts(copy):
    """So it is for a record of which the data set is not known."""
    config = {"method": "semi"}
    assert copy.code("STL10_SIDE = 32", "STL10_SIDE = 48", config) != fingerprint.code_of(config)


# ---- what a run reaches --------------------------------------------------------------------------------------------


COMBINATIONS = [("fixmatch",), ("remixmatch",), ("abc",), ("abc", "remixmatch"), ("fixmatch", "", "oheml"),
                ("abc", "", "oheml")]


def config_of(method: str, base: str = "", add: str = "") -> dict:
    return {"method": method, "base": base, "add": add, "dataset": "mnistm5k"}


def code_of(*parts: str) -> str:
    return fingerprint.code_of(config_of(*parts))


def test_the_fingerprint_is_of_the_method_its_base_and_its_additions():
    found = {parts: code_of(*parts) for parts in COMBINATIONS}
    assert len(set(found.values())) == len(COMBINATIONS)
    assert code_of("abc", "fixmatch") == found["abc",]                         # its first base, named
    assert code_of("abc", "", "oheml+plce") != found["abc", "", "oheml"], "one file holds both, but they are two"
    run = smoke_run("abc", base="remixmatch")
    assert fingerprint.code_of(run.identity()) == found["abc", "remixmatch"]
    assert fingerprint.code_of({"method": "fixmatch", "dataset": "mnistm5k"}) == found["fixmatch",], "older than bases"
    assert fingerprint.code_of({"method": "gone"}) is None
    assert fingerprint.code_of({**run.identity(), "base": "acr"}) is None


def test_every_method_has_a_fingerprint_of_its_own_and_leads_to_no_name_that_cannot_be_found():
    assert len({code_of(name) for name in METHODS}) == len(METHODS)
    found = {part for name in METHODS for _, part in fingerprint.definitions(config_of(name))}
    assert fingerprint.WHOLE not in found and len(found) > 500


@pytest.mark.parametrize("thing, among", [
    (ABC, {("abc",), ("abc", "remixmatch"), ("abc", "", "oheml")}),
    (ReMixMatch, {("remixmatch",), ("abc", "remixmatch")}),
    (OHEML, {("fixmatch", "", "oheml"), ("abc", "", "oheml")}),
    (SeMi, {("fixmatch", "", "oheml"), ("abc", "", "oheml")}),                 # whose functions OHEML calls
    *((thing, set(COMBINATIONS)) for thing in (FixMatch, Method, Trainer, strong, words, Net, Run, get)),
    *((thing, set()) for thing in (ACR, Supervised, tables.overview, sweep.forecast, cli.main))])
def test_a_run_executes_the_files_of_its_own_method_alone(thing, among):
    file = Path(inspect.getsourcefile(thing))
    assert {parts for parts in COMBINATIONS if file in fingerprint.executed(config_of(*parts))} == among


def test_another_methods_file_moves_no_fingerprint_and_the_bases_does(copy):
    found = {parts: code_of(*parts) for parts in COMBINATIONS[2:4]}
    for thing, edit in ((ACR, ("class ACR(FixMatch):", "class ACR(FixMatch):\n    other = 1\n")),
                        (ReMixMatch, ("class ReMixMatch(FixMatch):", "class ReMixMatch(FixMatch):\n    other = 1\n"))):
        moved = {parts for parts in found if copy.code(*edit, config_of(*parts)) != found[parts]}
        assert moved == ({("abc", "remixmatch")} if thing is ReMixMatch else set())


@pytest.mark.parametrize("method", ["semi", "daso"])
def test_nothing_that_a_run_executes_is_left_out(method, tmp_path):
    """All that is called while a run is trained is covered by its fingerprint, but for what tells of runs and what that
    calls. A function inside another one counts as that one."""
    import torch._dynamo  # noqa: F401  the first optimiser imports it, which takes long while calls are watched
    run, home = smoke_run(method, steps=8, eval_every=4), f"{fingerprint.PACKAGE}{os.sep}"
    calls = set()

    def definition(code) -> tuple[str, str]:
        return code.co_filename, code.co_qualname.split(".<locals>")[0]

    def watch(frame, event, _):
        code, caller = frame.f_code, frame.f_back
        if event == "call" and code.co_filename.startswith(home):
            while caller and not caller.f_code.co_filename.startswith(home):
                caller = caller.f_back
            calls.add((definition(code), caller and definition(caller.f_code), "<locals>" in code.co_qualname))
    sys.setprofile(watch)
    try:
        train(run, tmp_path)
    finally:
        sys.setprofile(None)
    ran = {called for called, _, nested in calls if not nested}
    covered = {(str(file), name) for file, name in fingerprint.definitions(run.identity())}
    due = {called for called, caller, nested in calls if caller in covered and not (nested and called in ran)}
    assert len(covered & ran) > 150
    assert not {called for called in due - covered if Path(called[0]).stem not in fingerprint.TELLERS}


def test_each_file_is_read_once_for_all_methods(own_copy, monkeypatch):
    read, module = [], fingerprint.Module
    monkeypatch.setattr(fingerprint, "Module", lambda name, source: read.append(name) or module(name, source))
    for name in ("fixmatch", "abc", "semi", "daso"):
        code_of(name)
    assert len(read) == len(set(read)) > 20


# ---- classes of no file --------------------------------------------------------------------------------------------

NOTEBOOK = """
from semilib.methods import losses
from semilib.methods.losses import one_hot
from semilib.methods.fixmatch import FixMatch
FACTOR = 2
def helper(x):
    return x * FACTOR
class Mine(FixMatch):
    other = 1
    def pseudo(self, v, batch, t):
        \"\"\"A sentence.\"\"\"
        p = super().pseudo(v, batch, t)
        p.mask = helper(p.mask) * 1
        return p
    @classmethod
    def kind(cls): return "kind"
    @property
    def power(self): return 2
"""


@pytest.fixture
def notebook(monkeypatch):
    """The fingerprint of a notebook's class."""
    def code(old: str = "", new: str = "") -> str:
        assert NOTEBOOK.count(old) == 1 or not old
        scope = {"__name__": "__main__"}
        exec(NOTEBOOK.replace(old, new), scope)
        monkeypatch.setitem(METHODS, "mine", scope["Mine"])
        return code_of("mine")
    return code


@pytest.mark.parametrize("old, new", [
    ("* 1\n", "* 2\n"), ("helper(p.mask)", "helper(p.label)"), ("FACTOR = 2", "FACTOR = 3"),
    ("x * FACTOR", "x + FACTOR"), ("other = 1", "other = 2"), ('"kind"', '"another"'), ("return 2", "return 3"),
    ("(FixMatch):", "(FixMatch, dict):")])
def test_a_notebooks_class_counts_with_all_that_it_names(notebook, old, new):
    assert notebook(old, new) != notebook() != code_of("fixmatch")


@pytest.mark.parametrize("old, new", [("", ""), ("A sentence.", "Another."), ("FACTOR = 2", "OTHER = 1\nFACTOR = 2")])
def test_a_notebooks_class_does_not_count_by_its_words(notebook, old, new):
    assert notebook(old, new) == notebook()


def test_what_a_notebooks_class_uses_of_the_package_counts(notebook, copy):
    used = ("helper(p.mask) * 1", "helper(p.mask) * one_hot(p.label, 3, p.prob.dtype)")
    edit = ("(label.unsqueeze(-1) == torch.arange(classes", "(label.unsqueeze(-1) != torch.arange(classes")
    for old, new in (("", ""), used):
        before = notebook(old, new)
        assert (copy.code(*edit, config_of("mine")) != before) is bool(old)
