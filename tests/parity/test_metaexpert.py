"""Meta-Expert over fourteen steps, beside the authors' code (see the package); three cases end in different regimes."""
from types import SimpleNamespace

import pytest
import torch

from .kit import UNSCALED, Gate, View, differences, draw, gradient, load, method, regime, step, views, weights

WIDTHS, BATCH, ROWS, CLASSES = [3, 4, 5, 128], 8, 16, 10
VIEWS = ("l", "w", "s1")


@pytest.mark.parametrize("kind, case", list(enumerate("abc")))
def test_losses_shares_of_sure_rows_rho_classes_seen_prediction_and_gradients_are_the_release_s(kind, case):
    d = load("metaexpert")
    net = SimpleNamespace(heads={"gate": Gate(tuple(WIDTHS), CLASSES).double()})
    gate = net.heads["gate"]
    with torch.no_grad():
        for layer, (weight, bias) in zip([*gate.a, *gate.b, *gate.out], weights(0, WIDTHS, CLASSES)):
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
    m = method("metaexpert", dict(strong_views=1, start=8, window=4), d["counts"], 6, BATCH, mu=2, **UNSCALED)
    m.window = 4

    def fused(v, batch):
        return views(**{name: View({**v[name], "gate": m.gate(net, v[name])}, v[name].f) for name in VIEWS})
    with differences(1e-10) as same:
        for k in range(14):
            z, depths, y = draw(kind, kind, k, BATCH, ROWS, WIDTHS, CLASSES)
            recorded = {name: {"experts": e, "depths": f}
                        for name, e, f in zip(VIEWS, z.split([BATCH, ROWS, ROWS]), depths.split([BATCH, ROWS, ROWS]))}
            out = step(m, recorded, dict(y=y), k, *(("fused", fused) if k >= 8 else ("experts",)))
            same("loss", out.total, d[case + "_loss"][k])
            later = sum(x for name, x in out.losses.items() if "fused" in name or "gate" in name)
            same("fused", later, d[case + "_fuse"][k])
            same("supervised 2", out.losses["x2"], d[case + "_sup2"][k])
            same("unsupervised 2", out.losses["u2"], d[case + "_u2"][k])
            same("sure 2", out.p.masks[:, 1, 0].mean(), d[case + "_util"][k])
            if k == 7:
                same("seen", m.seen, d[case + "_seen"][k])
            if k >= 8:
                same("rho", m.rho, d[case + "_rho"][k])
            with torch.no_grad():
                c = recorded["w"]["experts"].mean(2)
                shares = m.weights(c, m.gate(net, recorded["w"])).unsqueeze(-1)
            same("prediction", (shares * c).sum(1), d[case + "_test"][k])
            for head, key, steps, width in (("experts", "d_z", [0, 6, 8, 9, 12], None),
                                            ("depths", "d_dep", [8, 12], 12)):
                if k in steps:
                    want = d[f"{case}_{key}"][steps.index(k)]
                    same(f"gradient {head}", gradient(out, head, *VIEWS)[:, :width], want)


def test_the_regime_of_each_recorded_count_is_the_release_s():
    d = load("metaexpert")
    half = torch.arange(CLASSES) < CLASSES // 2
    with differences(1e-10) as same:
        same("regimes", torch.stack([regime(x, half) for x in d["regime_seen"]]), d["regime_rho"])
