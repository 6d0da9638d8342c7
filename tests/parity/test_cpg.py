"""CPG over twenty steps, beside the authors' code (see the package): "begin", then three windows, two after selections.

The recorded noise is scripted, alike for all rows. The recorded radii are those of one batch, for which
`official_radius` adds one image of a class; the mean radii come from no code, only from equation (8).
"""
from types import SimpleNamespace

import torch

from .kit import F64, UNSCALED, View, differences, load, method, radii, step, views


def test_losses_votes_gradients_and_at_boundaries_the_selected_rows_phi_and_radii_are_the_release_s():
    d = load("cpg")
    steps, batch, features = d["fl"].shape
    classes, pool, labelled = len(d["counts"]), 6, int(d["counts"].sum())
    y_all = torch.arange(classes).repeat_interleave(d["counts"])
    m = method("cpg", dict(strong_views=1, warmup=5, window=5, absolute_floor=12), d["counts"], features, batch,
               mu=int(d["mu"]), **{**UNSCALED, "n_unlabelled": pool})
    assert (m.start, m.window, m.floor) == (5, 5, 12)
    dealt = {}

    def context(at, seen):
        """The host side of the method at a boundary, where `seen` are the features of all images."""
        data = SimpleNamespace(labelled=torch.arange(labelled), unlabelled=torch.arange(labelled, labelled + pool),
                               y=y_all, known=torch.zeros(pool, dtype=torch.bool),
                               set_members=lambda s, who, rows: dealt.update(who=who, rows=rows))

        def scan(stream, view="none", net=None):
            return SimpleNamespace(f=seen[:labelled] if stream == "labelled" else seen), None, None
        return SimpleNamespace(data=data, step=at, scan=scan, net=None, ema=None, phase="grow")

    def logits(f):
        return f @ d["W"].T + d["bias"]

    with differences(1e-10) as same:
        for k in range(steps):
            phase = "begin" if k < 5 else "grow"
            if k in (5, 10, 15):
                w = k // 5 - 1
                seen = d["win_feats"][w]
                if k == 5:
                    m.enter(SimpleNamespace(name="grow"), context(k, seen))
                    f, label = seen[:labelled], y_all
                else:
                    m.host_work(context(k, seen))
                    kept = dealt["who"]
                    rows = torch.zeros(labelled + pool, classes, dtype=F64)
                    rows[kept] = dealt["rows"]
                    same("selected rows", rows, d["win_q"][w])
                    same("phi", m.phi, d["win_phi"][w])
                    f, label = seen[kept], torch.cat([y_all, dealt["rows"][labelled:].argmax(1)])
                same("official radii", radii(f, label, classes, batch=len(f)), d["win_r"][w])
                m.radius.copy_(d["win_r"][w])

            def prepare(v, b, k=k, phase=phase):
                out = {"w": v.w, "s1": v.s1, "l": View({"head": logits(v.l.f), "auxiliary": v.l["auxiliary"]}, v.l.f)}
                if phase == "grow":
                    copies = m.copied(v.l.f, m.radius[b.y.argmax(-1)], d["noise"][k].expand(batch, -1, -1))
                    out["copies"] = View({"head": logits(copies)}, copies)
                return views(**out)
            y = d["y"][k] if k < 5 else dealt["rows"][torch.searchsorted(dealt["who"], d["rows"][k])]
            recorded = {"l": {"auxiliary": d["auxl"][k], "f": d["fl"][k]},
                        "w": {"head": d["zw"][k], "auxiliary": d["aw"][k]},
                        "s1": {"head": d["zs"][k], "auxiliary": d["as_"][k]}}
            before = m.votes.rows.sum()
            out = step(m, recorded, dict(y=y, index_u=d["idx"][k]), k, phase, prepare)
            same("main", out.losses["main"], d["sup"][k])
            same("auxiliary", out.losses["aux_x"] + out.losses["aux_u"], d["aux"][k])
            same("loss", out.total, d["loss"][k])
            if phase == "grow":
                same("votes", out.p.vote.mean(), d["util"][k])
                same("counted votes", m.votes.rows.sum() - before, out.p.vote.sum())
            same("gradient f", out.grads["l", "f"], d["d_fl"][k])
            same("gradient aux x", out.grads["l", "auxiliary"], d["d_auxl"][k])
            same("gradient aux s", out.grads["s1", "auxiliary"], d["d_as"][k])
            same("gradient main s", out.grads["s1", "head"], torch.zeros_like(d["zs"][k]))
