"""Values worked out once and what a traced step sees of them; rows of several random streams drawn together;
views made together."""
import kit
import pytest
import torch

from semilib.data import constants, rng
from semilib.data.constants import once, tensor_once
from semilib.data.step import StepImages

# ---- values that are worked out once ---------------------------------------------------------------------------------


def counted(kind=once, result=lambda *values: values):
    """A function of kind `once` or `tensor_once`, and the calls that its body has seen."""
    calls = []

    @kind
    def make(*values):
        calls.append(values)
        return result(*values)
    return make, calls


def numbers(*values) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


def test_a_value_is_made_once_for_each_key():
    make, calls = counted()
    first = make(1, "a")
    assert make(1, "a") is first and make(2, "a") == (2, "a") and make(1, "a") is first
    assert calls == [(1, "a"), (2, "a")]


def test_a_tensor_is_made_once_and_stays_where_it_is():
    make, calls = counted(tensor_once, numbers)
    first = make(1, 2)
    assert make(1, 2) is first and torch.equal(make(3), numbers(3)) and make(1, 2) is first
    assert calls == [(1, 2), (3,)]
    other, _ = counted(tensor_once, lambda *values: numbers(*values) + 1)
    assert torch.equal(other(1, 2), numbers(2, 3)) and make(1, 2) is first          # of the same name, another function


def test_a_tensor_belongs_to_its_device():
    here, there = (rng._several(0, (("a", 2), ("b", 1)), torch.device(name)) for name in ("cpu", "meta"))
    assert here.device.type == "cpu" and there.device.type == "meta" and here.shape == there.shape == (3, 3)


class Backend:
    """A backend of torch.compile that runs the graph as it is and counts them."""

    def __init__(self):
        self.graphs = []

    def __call__(self, graph, example_inputs):
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def backend():
    torch._dynamo.reset()
    yield Backend()
    torch._dynamo.reset()


def test_a_traced_function_sees_finished_values(backend):
    """Several constants, of plain values and of tensors, some made while it is traced: one graph, the eager result."""
    make, calls = counted(tensor_once, numbers)
    plain, _ = counted(once, lambda a: hash(str(a)) % 7 + 1)            # nothing that could be traced
    make(1, 2)
    constants.mark()

    def step(x):
        return x * make(1, 2) + make(3, 4) * plain("k") + make(5, 6)
    traced = torch.compile(step, backend=backend, fullgraph=True)
    x = numbers(10, 20)
    assert torch.equal(traced(x), step(x)) and torch.equal(traced(2 * x), step(2 * x))
    assert len(backend.graphs) == 1 and calls == [(1, 2), (3, 4), (5, 6)]
    assert not any("tensor" in str(node.target) for node in backend.graphs[0].graph.nodes if node.op == "call_function")


def test_a_new_constant_leaves_what_was_traced_before_alone(backend):
    make, _ = counted(tensor_once, numbers)
    constants.mark()
    old = torch.compile(lambda x: x + make(1), backend=backend, fullgraph=True)
    new = torch.compile(lambda x: x + make(2) * make(3), backend=backend, fullgraph=True)
    assert old(numbers(1)) == 2 and new(numbers(1)) == 7
    make(4)
    assert old(numbers(5)) == 6 and new(numbers(2)) == 8 and len(backend.graphs) == 2


def test_random_words_are_traced_whole_and_follow_the_step(backend):
    streams = (("view/l", 3), ("view/w", 5))
    constants.mark()

    def draw(step):
        return rng.words(3, streams, step, 8, 6) + rng.words(3, "order", step, 8, 6)
    traced = torch.compile(draw, backend=backend, fullgraph=True)
    for step in (0, 7, 2**33):
        assert torch.equal(traced(torch.tensor(step)), draw(torch.tensor(step)))
    assert len(backend.graphs) == 1


# ---- several streams in one draw -------------------------------------------------------------------------------------

STREAMS = (("view/l", 4), ("view/w", 1), ("view/s1", 7), ("view/s2", 7))


@pytest.mark.parametrize("n", [1, 4, 14])
@pytest.mark.parametrize("step", [0, 123, 5 + 2**32])
def test_several_streams_are_each_drawn_as_if_alone(n, step):
    together = rng.words(7, STREAMS, torch.tensor(step), 19, n)
    apart = [rng.words(7, name, step, rows, n) for name, rows in STREAMS]
    assert together.shape == (19, n) and torch.equal(together, torch.cat(apart))
    assert not torch.equal(together, rng.words(8, STREAMS, step, 19, n))


def test_one_stream_among_several_is_itself():
    assert torch.equal(rng.words(1, (("a", 5),), 2, 5, 3), rng.words(1, "a", 2, 5, 3))
    twice = rng.words(1, (("a", 2), ("a", 3)), 2, 5, 3)                           # rows begin anew with each
    assert torch.equal(twice[:2], twice[2:4])


# ---- views made together ---------------------------------------------------------------------------------------------

VIEWS = {"l": ("labelled", "weak"), "raw": ("labelled", "none"), "s0": ("labelled", "strong"),
         "w": ("unlabelled", "weak"), "c1": ("labelled", "sim"), "s1": ("unlabelled", "strong"),
         "same": ("unlabelled", "none"),
         "s2": ("unlabelled", "strong"), "c2": ("unlabelled", "sim"), "w2": ("unlabelled", "weak")}


@pytest.mark.parametrize("changes", [{}, {"strong_pool": "B", "crop": "zero"}, {"strong_pool": "C", "data_on": "host"}])
def test_views_made_together_are_those_made_one_by_one(changes):
    """All kinds, of streams of 8 and of 16 images."""
    data = kit.trainer("fixmatch", mu=2, **changes).data
    data.open(StepImages(VIEWS))
    for step in (0, 3):
        data.prepare(step)
        now = kit.time(step)
        batch, together = data.batch(now)
        raw = {name: data.images[data.streams[name].members[batch.index[name]]] for name in ("labelled", "unlabelled")}
        assert list(together) == list(VIEWS) and len(together["l"]) == 8 and len(together["s2"]) == 16
        for name, (stream, kind) in VIEWS.items():
            alone = data.view(raw[stream], kind, name, now.step)
            assert together[name].dtype == torch.uint8 and torch.equal(together[name], alone), name
            assert kind == "none" or not torch.equal(alone, raw[stream]), name
        assert not torch.equal(together["s1"], together["s2"]) and not torch.equal(together["w"], together["w2"])
