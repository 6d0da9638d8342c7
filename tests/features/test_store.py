"""Stores: the same bits however they came about, nothing computed twice, damage noticed, no start without room."""
import json
import os
import zlib

import numpy as np
import pytest
import torch
from kit import fill_in_small_blocks, processes, source, tiny_encoder

from semilib.data import rng
from semilib.errors import BadInput
from semilib.features import store as stores
from semilib.features.store import Look, Store

LOOK = Look(True, "reflect", "A", (0.5, 0.5, 0.5))
VIEWS = {"none": 1, "weak": 2, "strong": 3, "sim": 1}


def pictures(n: int = 90, seed: int = 0, side: int = 16) -> torch.Tensor:
    return (rng.words(seed, "pictures", 0, n, 3 * side * side) >> 24).to(torch.uint8).view(n, 3, side, side)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    return tiny_encoder(tmp_path_factory.mktemp("weights"))


@pytest.fixture
def make(tmp_path, encoder):
    def make(folder: str = "a", look: Look = LOOK, n: int = 90, seed: int = 0, **more) -> Store:
        return Store(tmp_path / folder, "toy", pictures(n, seed), look, *encoder, torch.device("cpu"), **more)
    return make


@pytest.fixture
def counted(monkeypatch):
    """The numbers of pictures that are encoded, pass by pass."""
    passes: list[int] = []
    whole = Store._compute

    def compute(self, run, kind, number, rows):
        passes.append(len(rows))
        whole(self, run, kind, number, rows)
    monkeypatch.setattr(Store, "_compute", compute)
    return passes


def content(store: Store, rows: torch.Tensor) -> list[torch.Tensor]:
    return [store.read(kind, number, rows) for kind, count in VIEWS.items() for number in range(count)]


def test_a_store_holds_the_same_bits_whatever_the_order_and_the_parts(make, monkeypatch):
    rows = torch.arange(90)
    a, b = make("a"), make("b")
    a.ensure(VIEWS, rows)
    monkeypatch.setattr(stores, "BLOCK", 16)
    for part in (torch.arange(50, 90), torch.arange(0, 7), torch.arange(90)):
        for kind in reversed(VIEWS):
            b.ensure({kind: VIEWS[kind]}, part)
    for x, y in zip(content(a, rows), content(b, rows), strict=True):
        assert torch.equal(x, y)


def test_features_are_those_of_the_views_of_eager_pytorch_in_half_precision(make):
    store, rows = make(), torch.tensor([3, 80])
    store.ensure(VIEWS, rows)
    for kind, number in (("none", 0), ("weak", 1), ("strong", 2), ("sim", 0)):
        view = LOOK.view(store.pictures[rows], kind, number, rows)
        want = store.encoder().eager(view)
        assert store.read(kind, number, rows).dtype == torch.float16
        assert (store.read(kind, number, rows) - want).abs().max() <= 1e-3 * want.abs().max() + 1e-4
    shown = [store.read("strong", number, rows) for number in range(3)]
    assert not torch.equal(shown[0], shown[1]) and not torch.equal(shown[1], shown[2])


def test_only_what_is_missing_is_computed(make, counted):
    store = make()
    store.ensure({"weak": 1}, torch.arange(40))
    assert sum(counted) == 40
    store.ensure({"weak": 1}, torch.arange(40))
    assert sum(counted) == 40
    store.ensure({"weak": 2}, torch.arange(30, 60))
    assert sum(counted) == 40 + 20 + 30
    make().ensure({"weak": 2}, torch.arange(30, 60))
    assert sum(counted) == 90
    assert stores.stores_in(store.stores.parent)[0]["views"] == {"weak": 2}


@pytest.mark.parametrize("damage", ["row", "checksum", "cut", "gone"])
def test_a_damaged_row_is_seen_and_made_again(make, counted, damage):
    store, rows = make(), torch.arange(90)
    store.ensure({"weak": 1}, rows)
    want = store.read("weak", 0, rows)
    values, checks = (store._file("weak", 0, ending) for ending in ("f16", "crc"))
    if damage == "row":
        with open(values, "r+b") as file:
            file.seek(11 * 2 * store.features)
            file.write(b"\x01\x02")
    elif damage == "checksum":
        with open(checks, "r+b") as file:
            file.seek(8 * 11)
            file.write(np.int64(zlib.crc32(b"other") + 1).tobytes())
    elif damage == "cut":
        with open(values, "r+b") as file:
            file.truncate(11 * 2 * store.features)
    else:
        checks.unlink()
    counted.clear()
    store.ensure({"weak": 1}, rows)
    assert sum(counted) == {"row": 1, "checksum": 1, "cut": 90 - 11, "gone": 90}[damage]
    assert torch.equal(store.read("weak", 0, rows), want)


def test_other_pictures_other_views_and_other_weights_are_other_stores(make, tmp_path, encoder):
    name, side, _ = encoder
    same, other = make(), [make(seed=1), make(look=LOOK._replace(flip=False)), make(look=LOOK._replace(pool="B")),
                           make(look=LOOK._replace(crop="zero")), make(n=91)]
    (tmp_path / "w").mkdir()
    torch.manual_seed(3)
    import timm
    torch.save(timm.create_model("test_efficientnet", pretrained=False).state_dict(), tmp_path / "w" / "encoder.pth")
    other.append(Store(tmp_path / "a", "toy", pictures(), LOOK, name, side, str(tmp_path / "w" / "encoder.pth"),
                       torch.device("cpu")))
    folders = [store.folder for store in (same, *other)]
    assert len(set(folders)) == len(folders) and make().folder == same.folder


def test_a_store_of_other_view_code_is_not_used(make, monkeypatch):
    before = make()
    weak = stores.augment.weak
    monkeypatch.setattr(stores.augment, "weak", lambda *given: weak(*given).flip(3))
    assert make().folder != before.folder


@pytest.mark.skipif(os.name != "posix", reason="its processes are forks")
def test_two_processes_share_the_work(tmp_path, encoder):
    of_store = (tmp_path, "toy", LOOK, *encoder, torch.device("cpu"))
    Store(*of_store[:2], source().images, *of_store[2:]).ensure({"none": 1}, torch.arange(1))    # exports the encoder
    counts = processes().Queue()
    workers = [processes().Process(target=fill_in_small_blocks, args=(counts, VIEWS, 90, *of_store)) for _ in range(2)]
    for worker in workers:
        worker.start()
    shares = [counts.get(timeout=200) for _ in workers]
    assert sum(shares) == 90 * sum(VIEWS.values()) - 1 and min(shares) > 0, shares


def test_a_block_that_another_process_computes_is_waited_for(make, monkeypatch, counted):
    store, held = make(), [True, True]
    lock = stores._lock_byte

    def busy_at_first(file, place, hold):
        return False if hold and held and held.pop() else lock(file, place, hold)
    monkeypatch.setattr(stores, "_lock_byte", busy_at_first)
    monkeypatch.setattr(stores.time, "sleep", lambda seconds: None)
    store.ensure({"weak": 1}, torch.arange(90))
    assert store.missing({"weak": 1}, torch.arange(90)) == [] and sum(counted) == 90


def test_a_full_disk_is_told_before_any_work(make, monkeypatch, counted):
    monkeypatch.setattr("semilib.data.arrays.shutil.disk_usage", lambda folder: type("", (), {"free": 1000})())
    store = make()
    with pytest.raises(BadInput, match="root=.*a disk with"):
        store.ensure({"weak": 1}, torch.arange(90))
    assert counted == []


def test_a_disk_that_fills_up_while_a_store_is_made_loses_no_row(make, monkeypatch):
    store, synced = make(), []
    store.ensure({"none": 1}, torch.arange(1))                  # the encoder's own file is written
    monkeypatch.setattr(stores, "BLOCK", 30)

    def full(number):
        synced.append(number)
        if len(synced) == 2:
            raise OSError(28, "No space left on device")
    monkeypatch.setattr(stores.os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        store.ensure({"weak": 1}, torch.arange(90))
    assert sum(len(rows) for _, _, rows in store.missing({"weak": 1}, torch.arange(90))) == 60


def test_a_kind_and_a_number_of_views_that_there_cannot_be_are_refused(make):
    with pytest.raises(BadInput, match="kind of view='stron': unknown; did you mean 'strong'"):
        make().ensure({"stron": 1}, torch.arange(3))
    with pytest.raises(BadInput, match="views=0: from 1 to"):
        make().ensure({"strong": 0}, torch.arange(3))


def test_a_store_without_its_description_is_named_with_the_remedy(make):
    store = make()
    (store.folder / "store.json").write_text("{", encoding="utf-8")
    with pytest.raises(BadInput, match="delete this folder to have it made again"):
        make()


def test_cost_lists_and_delete(make):
    store, rows = make(), torch.arange(90)
    cost = store.cost(VIEWS, rows)
    assert cost["views"] == 90 * 7 and cost["bytes"] == 90 * 7 * (2 * store.features + 8) and cost["seconds"] > 0
    store.ensure(VIEWS, rows)
    assert store.cost(VIEWS, rows) == {"views": 0, "bytes": 0, "seconds": 0.0}
    root = store.stores.parent
    (listed,) = stores.stores_in(root)
    assert listed["store"] == store.folder.name and listed["views"] == VIEWS and listed["pictures"] == 90
    with pytest.raises(BadInput, match="store='toy'"):
        stores.delete(root, "toy")
    stores.delete(root, listed["store"])
    assert stores.stores_in(root) == []


def test_what_a_store_depends_on_is_written_in_it(make):
    facts = json.loads((make().folder / "store.json").read_text(encoding="utf-8"))
    assert {"pictures", "encoder", "weights", "encoder_side", "pool", "flip", "crop", "views", "arithmetic"} <= \
        facts["depends_on"].keys()
