"""What a definition says: the same in other words and other local names; another thing if it could compute another."""
import re

import pytest

from semilib.training.definitions import Module

SOURCE = '''
import math
from torch.nn import functional as F
SCALE = 2
@cache
def f(x, y=1, *rest, k, **more):
    """A sentence."""
    total: float = 0
    note: str
    for i, (a, b) in enumerate(x):
        total += a * b  # a comment
    def inner(z):
        nonlocal total
        total = z + y
        return [item for item in z if item > k]
    if total < 0:
        raise ValueError(f"{total} is too small")
    assert total, "a message"
    with open(x) as file:
        try:
            n = inner(file)
        except OSError as error:
            n = str(error)
    match n:
        case [first, *others]:
            n = (lambda v, w=n: v - w)(first, *others)
        case {"a": value, **remainder}:
            n = value, remainder
        case str() as text:
            n = text
    if (m := len(n)) and any((last := c) for c in n):
        n = F.relu(math.sqrt(m * last * SCALE), inplace=True)
    return n, rest, more, {q: r for q, r in x}
'''


def said(source: str, name: str = "f"):
    definition = Module("package.module", source).definition(name)
    return definition.text, definition.uses


def test_a_source_says_the_same_on_every_version_of_python():
    definition = Module("package.module", SOURCE).definition("f")
    assert definition.text[:16] == "9b49015ec2f9cb25"
    assert {"cache", "math.sqrt", "torch.nn.functional.relu", "package.module.SCALE"} <= {*definition.uses}
    assert definition.parameters == ("x", "y", "rest", "k", "more", "z", "v", "w")
    assert {"inplace=", "relu"} - {*definition.mentions} == {"relu"}, "what is known by its full name is no mention"


@pytest.mark.parametrize("old, new", [
    ('"""A sentence."""', '"""Another one."""'), ('    """A sentence."""\n', ""), ('"""A sentence."""', "pass"),
    ("  # a comment", ""), ("total: float = 0", "total = 0"), ("note: str\n", "pass\n"), ("f(x,", "f(x: str,"),
    ("k, **more):", "k: int, **more) -> None:"), ('f"{total} is too small"', '"no", total'), (', "a message"', ""),
    ("return n,", "return  (n),"), ("SCALE = 2", "SCALE = 3")])
def test_words_say_nothing(old, new):
    assert SOURCE.count(old) == 1 and said(SOURCE.replace(old, new)) == said(SOURCE)


@pytest.mark.parametrize("name", [
    "x", "y", "rest", "k", "more", "total", "i", "a", "b", "inner", "z", "item", "file", "error", "first", "others",
    "v", "w", "value", "remainder", "text", "m", "last", "c", "n", "q", "r", "math", "F"])
def test_local_names_say_nothing(name):
    renamed = re.sub(rf"(?<!\")\b{name}\b(?!\")", "renamed", SOURCE).replace("import renamed", "import math as renamed")
    assert renamed != SOURCE and said(renamed) == said(SOURCE)


@pytest.mark.parametrize("old, new", [
    ("y=1", "y=2"), ("y=1", "y=1.0"), ("@cache\n", ""), ("@cache", "@cached"), ("*rest, k", "k=0, *rest"),
    ("k, **more", "k=0, **more"), ("enumerate(x)", "enumerate(y)"), ("total += a * b", "total += b * b"),
    ("total += a * b", "total -= a * b"), ("i, (a, b)", "i, (b, a)"), ("        nonlocal total\n", ""),
    ("item > k]", "item >= k]"), ("[item for item in z if item > k]", "{item for item in z if item > k}"),
    ("if total < 0", "if total <= 0"), ("ValueError", "TypeError"), ("assert total", "assert not total"),
    ("OSError", "Exception"), ("str(error)", "repr(error)"), ("[first, *others]", "[*others, first]"),
    ('{"a": value', '{"b": value'), ("w=n", "w=m"), ("v - w", "w - v"), ("(first, *others)\n", "(first, others)\n"),
    ("str() as text", "int() as text"), ("F.relu", "F.gelu"), ("functional as F", "utils as F"),
    ("import math", "import cmath as math"), ("inplace=", "training="), ("True", "False"), ("{q: r for", "{r: q for"),
    ("return n, rest", "return rest, n"), ("m * last", "m @ last"), ("    total: float = 0\n    note: str\n", "")])
def test_all_that_computes_says_something(old, new):
    assert SOURCE.count(old) == 1 and said(SOURCE.replace(old, new)) != said(SOURCE)


@pytest.mark.parametrize("one, other", [
    ("def f(x, y): return [x for x in x]", "def f(x, y): return [y for y in y]"),
    ("def f(z, y): return [max for max in y], max(z)", "def f(z, y): return [max for max in y], min(z)"),
    ("def f(x, y): return (lambda x: x)(y)", "def f(x, y): return (lambda x: y)(y)"),
    ("def f(a, b): return a - b", "def f(b, a): return a - b"),
    ("def f(a, b): return g(a=a, b=b)", "def f(a, b): return g(a=b, b=a)"),
    ("X = 1\ndef f():\n    global X\n    X = 2", "X = 1\ndef f():\n    X = 2"),
    ("def f(y):\n    any((x := c) for c in y)\n    return x", "def f(y):\n    any((z := c) for c in y)\n    return x"),
    ("def f():\n    from a import x\n    return x", "def f():\n    from b import x\n    return x"),
    ("def f():\n    class C:\n        def g(self): return 1\n        def h(self): return 2\n    return C",
     "def f():\n    class C:\n        def h(self): return 1\n        def g(self): return 2\n    return C"),
    ("def f(x=1):\n    class C:\n        y = 2\n        def g(self): return x\n    return C",
     "def f(x=1):\n    class C:\n        x = 2\n        def g(self): return x\n    return C"),
    ("async def f(x): return [y async for y in x]", "async def f(x): return [y for y in x]"),
    ("def f():\n    if TYPE_CHECKING: import a\n    else: import b", "def f(): ..."),
    ("def f(x, /, y): ...", "def f(x, y): ..."), ("def f(x): return f'{x!r:>3}'", "def f(x): return f'{x!r:>4}'")])
def test_names_mean_what_python_takes_them_for(one, other):
    assert said(one) != said(other)


@pytest.mark.parametrize("one, other", [
    ("def f(x, y): return [x for x in y], [x for x in x]", "def f(x, y): return [a for a in y], [b for b in x]"),
    ("def f():\n    from a import x\n    return x", "def f():\n    from a import x as y\n    return y"),
    ("from a import x\ndef f():\n    return x", "def f():\n    import a as b\n    return b.x"),
    ("def f(y):\n    any((x := c) for c in y)\n    return x", "def f(y):\n    any((z := c) for c in y)\n    return z"),
    ("def f(x: int = 0) -> str:\n    class C:\n        y: int = x", "def f(x=0):\n    class D:\n        y = x"),
    ("import a\ndef f(): return a.b.c", "from a import b\ndef f(): return b.c")])
def test_the_same_may_be_said_with_other_names(one, other):
    assert said(one) == said(other)


FIELDS = '''
@dataclass(frozen=True)
class C(Base):
    a: int = 1
    b: float = option(2.0, "a sentence", low=0)
    c: ClassVar[int] = 3
    def g(self): return self.a
'''


@pytest.mark.parametrize("old, new", [("a: int", "a: float"), ('"a sentence"', '"another"'), ("self.a", "self.b"),
                                      ("ClassVar[int]", "ClassVar[float]")])
def test_the_head_of_a_class_says_nothing_of_types_words_and_methods(old, new):
    assert said(FIELDS.replace(old, new), "C") == said(FIELDS, "C")


@pytest.mark.parametrize("old, new", [
    ("= 1", "= 2"), ("= 1\n", "\n"), ("a: int = 1", "a = 1"), ("a: int", "d: int"), ("low=0", "low=1"), ("2.0", "2"),
    ("ClassVar[int]", "int"), ("frozen=True", "frozen=False"), ("(Base)", "(Other)"), ("@dataclass(frozen=True)\n", ""),
    ("    a: int = 1\n", ""), ("class C(Base):", "class C(Base):\n    e: int"),
    ("    a: int = 1\n    b: float", "    b: float = 0\n    a: int = 1\n    b: float")])
def test_the_head_of_a_class_says_its_fields_their_order_and_defaults(old, new):
    assert FIELDS.count(old) == 1 and said(FIELDS.replace(old, new), "C") != said(FIELDS, "C")


def test_an_annotation_makes_no_field_where_there_are_none():
    plain = "class C(Base):\n    a: int\n    b: int = 1"
    assert said(plain, "C") == said("class C(Base):\n    b = 1", "C")


def test_a_file_is_taken_apart_by_name():
    module = Module("m", "x = {'a': 1, 'b': y}\nx['c'] = 2\nif x:\n    def g(): pass\nz = x.d = 1\n" + FIELDS)
    assert set(module.parts) == {"x", "x[a]", "x[b]", "", "g", "z", "C", "C.g"} and len(module.parts[""]) == 3
    assert module.members == {"C": ["C.g"]} and module.bases == {"C": ["Base"]}
    assert module.definition("x[b]").uses == ("y",) and module.definition("g").uses == ("m.x",)


@pytest.mark.parametrize("source", ["from . import x", "from a import *", "def f():\n    from .a import x"])
def test_an_import_that_hides_what_it_brings_is_refused(source):
    with pytest.raises(ValueError, match="absolute import"):
        Module("m", source).definition("f")
