"""Adsh over five epochs of three steps, beside the code of its release (see the package).

The last three epochs begin with a scan of the pool. In the first of them the last class is never predicted; in the
last one no image of the head class reaches the threshold. In step 7 nobody is sure, odd steps lack the last label.
"""
from .kit import View, differences, gradient, host, load, method, step

VIEWS = ("l", "w", "s1")
EPOCH = 3


def test_losses_labels_gradients_and_the_thresholds_of_each_scan_are_the_release_s():
    d = load("adsh")
    batch, mu = d["y"].shape[1], 2
    options = dict(threshold=.8, epoch=EPOCH, rho_one=True, strong_views=1)
    m = method("adsh", options, (9, 4, 2, 1, 1), batch=batch, mu=mu, steps=len(d["y"]))
    scans = iter(d["i_pool"].double())

    def scan(stream, view, net):
        assert (stream, view, net) == ("unlabelled", "weak", "live")
        pool = next(scans)
        return View({"head": pool}, pool), None, None
    with differences(1e-12) as same:
        for s, z in enumerate(d["i_z"]):
            parts = zip(VIEWS, z.split([batch, batch * mu, batch * mu]))
            out = step(m, {name: {"head": x} for name, x in parts}, dict(y=d["y"][s].long()), s)
            same("loss x", out.losses["x"], d["x"][s])
            same("loss u", out.losses["u"], d["u"][s])
            same("label", out.p.label, d["label"][s])
            same("gradient", gradient(out, "head", *VIEWS), d["grad"][s])
            host(m, s + 1, scan=scan, net="live")
            epoch, left = divmod(s + 1, EPOCH)
            if not left and 2 <= epoch < 5:
                same("thresholds", m.s, d["score"][epoch - 2])
    assert next(scans, None) is None
