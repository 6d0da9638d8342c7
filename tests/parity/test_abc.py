"""ABC on FixMatch at five epochs of 500 steps, beside the authors' code (see the package).

Progress here is the step's share of the run, so each recorded step is made at the first step of its epoch.
"""
import torch

from .kit import F64, differences, load, method, mixed_step, pixel_net, step, two_heads

VIEWS = dict(l="x", w="w", s1="s1_", s2="s2_")


def test_both_heads_losses_targets_masks_keeping_rates_coins_and_gradients_are_the_release_s():
    d = load("abc")
    batch, length, epochs, counts = int(d["B"]), int(d["ES"]), d["epochs"].tolist(), d["counts"]
    m = method("abc", counts=counts, batch=batch, steps=250_000)
    rates, coins = {}, {}

    def toss(name, rate, t):
        rates[name] = rate
        return (coins[name] < rate).to(rate.dtype)
    m.toss = toss
    with differences(1e-9) as same:
        for s in range(length * len(epochs)):
            coins |= dict(zip(("labelled", "unlabelled"), d[f"coin{s}"]))
            out = step(m, {name: two_heads(d[f"{key}{s}"]) for name, key in VIEWS.items()}, dict(y=d[f"y{s}"]),
                       epochs[s // length] * 500)
            same("loss x", out.losses["x"], d[f"o_Lx{s}"])
            same("loss u", out.losses["u"], d[f"o_Lu{s}"])
            same("loss x_b", out.losses["x_b"], d[f"o_b{s}"])
            same("loss u_b", out.losses["u_b"], d[f"o_b1_{s}"] + d[f"o_b2_{s}"])
            same("mask", out.p.mask, d[f"o_m{s}"])
            same("mask b", out.p.mask_b, d[f"o_mb{s}"])
            same("kept labelled", out.p.keep_x, d[f"o_kx{s}"])
            same("kept unlabelled", out.p.keep_u, d[f"o_ku{s}"])
            same("rate labelled", rates["labelled"], d[f"o_px{s}"])
            same("rate unlabelled", rates["unlabelled"], d[f"o_pu{s}"])
            same("target b", out.p.target_b, d[f"o_q{s}"])
            for i, name in enumerate(VIEWS):
                have = torch.cat([out.grads[name, "head"], out.grads[name, "balanced"]], 1)
                same(f"gradient {name}", have, d.get(f"o_g{i}_{s}", torch.zeros(batch, 2 * len(counts), dtype=F64)))


def test_losses_of_both_heads_rates_mixed_targets_and_gradients_on_remixmatch_are_the_release_s():
    """Eight epochs of one step. In the fourth nobody is sure, in the sixth nearly everybody is."""
    d = load("abc_remixmatch")
    options = dict(align=False, labelled_view="strong")
    m = method("abc", options, d["counts"], batch=d["y"].shape[1], steps=250_000, base="remixmatch")
    rates, coins = {}, {}

    def toss(name, rate, t):
        rates[name] = rate
        return (coins[name] < rate).to(rate.dtype)
    m.toss = toss
    net = pixel_net(head=d["i_A"], balanced=d["i_Q"], rotation=d["i_R"])
    with differences(1e-12) as same:
        for s, epoch in enumerate(d["epochs"].tolist()):
            coins |= dict(zip(("labelled", "unlabelled"), d["coins"][2 * s:]))
            images = {name: d[f"i_{name}"][s] for name in ("l", "w", "s1", "s2")}
            draws = (d[name][s] for name in ("share", "order", "turns"))
            out = mixed_step(m, net, images, dict(y=d["y"][s].long()), epoch * 500, *draws, ("l", "w", "s1", "s2"))
            same("loss x", out.losses["x"], d["x"][s])
            same("loss u", out.losses["u"], d["u"][s])
            same("loss s1", out.losses["s1"], .5 * epoch / 500 * d["e"][s])
            same("loss r", out.losses["r"], .5 * d["r"][s])
            same("loss x_b", out.losses["x_b"], d["b"][s])
            same("loss u_b", out.losses["u_b"], d["b1"][s] + d["b2"][s])
            same("loss", out.total, d["loss"][s])
            same("rate labelled", rates["labelled"], d["rates"][2 * s])
            same("rate unlabelled", rates["unlabelled"], d["rates"][2 * s + 1])
            same("mixed targets", out.mixed, d["mixed"][s])
            for head, key in (("head", "A"), ("balanced", "Q"), ("rotation", "R")):
                same(f"gradient {head}", out.grads[head], d[f"grad{key}"][s])
