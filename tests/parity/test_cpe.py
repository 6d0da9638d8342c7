"""CPE: the three norms and heads on a map, beside the authors' code (see the package)."""
import dataclasses

import torch

from .kit import View, differences, load, method, step, views

KEYS = dict(l="l", w="u", s1="s")


def test_losses_labels_masks_gradients_running_statistics_and_test_logits_are_the_release_s():
    d = load("cpe")
    batch, features = int(d["B"]), int(d["D"])
    m = method("cpe", dict(strong_views=1), d["counts"], features, batch)
    head = m.heads()["experts"].double()
    with torch.no_grad():
        for norm, k in zip(head.norms, "HMT"):
            norm.weight.copy_(d["w" + k])
            norm.bias.copy_(d["b" + k])
        for i, line in enumerate(head.linears):
            line.weight.copy_(d[f"W{i}"])
            line.bias.copy_(d[f"c{i}"])
    head.train()
    learnt = {f"{kind} {i}": layer.weight for kind, layers in (("head", head.linears), ("norm", head.norms))
              for i, layer in enumerate(layers)}

    def prepare(v, batch):
        maps = {name: v[name]["map"] for name in KEYS}
        logits = head(torch.cat(list(maps.values()))).split([len(x) for x in maps.values()])
        return views(**{name: View({"experts": z}, v[name].f) for name, z in zip(KEYS, logits)})
    with differences(1e-9) as same:
        for s in range(int(d["STEPS"])):
            m.cfg = dataclasses.replace(m.cfg, threshold=d[f"th{s}"].item())
            out = step(m, {name: {"map": d[f"{key}{s}"]} for name, key in KEYS.items()}, dict(y=d[f"y{s}"]), s,
                       prepare=prepare, parameters=learnt)
            same("logits", torch.cat([out.v[name]["experts"].detach() for name in KEYS]), d[f"o_z{s}"])
            for k in (1, 2, 3):
                same(f"loss x{k}", out.losses[f"x{k}"], d[f"o_x{k}_{s}"])
                same(f"loss u{k}", out.losses[f"u{k}"], d[f"o_u{k}_{s}"])
                same(f"label {k}", out.p.labels[:, k - 1], d[f"o_lab{k}_{s}"])
                for i, n in enumerate("HMT"):
                    same(f"mask {k} {n}", out.p.masks[:, k - 1, i], d[f"o_{n}{k}_{s}"])
            for i, name in enumerate(KEYS):
                same(f"gradient of map {name}", out.grads[name, "map"], d[f"o_g{i}_{s}"])
            for kind, key in (("head", "o_gW"), ("norm", "o_gn")):
                same(f"gradient of {kind}s", torch.stack([out.grads[f"{kind} {i}"] for i in range(3)]), d[f"{key}{s}"])
            same("running mean", head.standardise.running_mean, d[f"o_rm{s}"])
            same("running variance", head.standardise.running_var, d[f"o_rv{s}"])
        head.eval()
        with torch.no_grad():
            same("test logits", m.predict(lambda x: {"experts": head(x)}, d["test"]), d["o_test"])
