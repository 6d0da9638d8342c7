"""A `Net` joins a backbone with named heads; it is the only place where a batch of views is joined and sliced.

B images, H x W pixels, D features, C classes.
"""
from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from semilib.errors import BadInput
from semilib.networks.backbones import Backbone

POLICIES = ("joint", "weak_first", "separate", "ema_eval", "frozen", "interleave")


def linear(features: int, outputs: int) -> nn.Linear:
    """A classifier head; its values are set by `initialise`."""
    return nn.Linear(features, outputs)


class View(dict):
    """What the network says of a view: head name -> its output [B, ...]; `.f` features [B, D]; `.map` [B, D, h, w]."""

    def __init__(self, outputs: dict[str, Tensor], f: Tensor, map: Tensor | None = None):
        super().__init__(outputs)
        self.f, self.map = f, map

    def detach(self) -> View:
        return View({k: v.detach() for k, v in self.items()}, self.f.detach(),
                    None if self.map is None else self.map.detach())

    def split(self, sizes: list[int]) -> list[View]:
        parts = {k: v.split(sizes) for k, v in self.items()}
        maps: Sequence[Tensor | None] = [None] * len(sizes) if self.map is None else self.map.split(sizes)
        return [View({k: p[i] for k, p in parts.items()}, f, m)
                for i, (f, m) in enumerate(zip(self.f.split(sizes), maps, strict=True))]

    @staticmethod
    def cat(views: list[View]) -> View:
        if len(views) == 1:
            return views[0]
        maps = None if views[0].map is None else torch.cat([v.map for v in views])  # type: ignore[misc]  # as the first
        return View({k: torch.cat([v[k] for v in views]) for k in views[0]}, torch.cat([v.f for v in views]), maps)


class Views(dict):
    """The views of one step by name (`v.l` labelled, `v.w` weak, `v.s1`, `v.s2` strong, ...),
    and `v.s`: all strong ones."""

    def __init__(self, views: dict[str, View], strong: list[str]):
        super().__init__(views)
        self.strong = strong
        if strong:
            self["s"] = View.cat([views[name] for name in strong])

    def __getattr__(self, name: str) -> View:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"this step has no view {name!r}; it has {sorted(self)}") from None

    def detach(self) -> Views:
        out = Views({k: v.detach() for k, v in self.items() if k != "s"}, [])
        if "s" in self:
            out["s"] = self["s"].detach()
        out.strong = self.strong
        return out


class Net(nn.Module):
    """A backbone and its named heads.

    A head reads the pooled features [B, D]. One with `reads = "map"` reads the map before pooling. One with `reads =
    "maps"` reads the list of maps at all depths, whose channels are `backbone.map_widths`. One with `reads = None` is
    not applied here: a method calls it itself, such as a projector of class weights.
    """

    backbone: Backbone
    heads: nn.ModuleDict

    def __init__(self, backbone: Backbone, heads: dict[str, nn.Module]):
        super().__init__()
        self.backbone, self.heads = backbone, nn.ModuleDict(heads)
        self.reads = {name: getattr(head, "reads", "features") for name, head in heads.items()}
        backbone.keep_maps, self.keep_map = "maps" in self.reads.values(), "map" in self.reads.values()
        self.channels_last = self.bf16 = False

    def use_channels_last(self) -> None:
        """Keep the backbone's weights, and give it its images, with the channels of a pixel side by side.

        PyTorch's batch norms on a CPU sum less exactly so, in fp32; docs/parity.md has the numbers."""
        self.backbone.to(memory_format=torch.channels_last)
        self.channels_last = True

    def compute(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """The backbone's maps of images x [B, 3, H, W], under autocast where `bf16` is set."""
        if self.channels_last:
            x = x.contiguous(memory_format=torch.channels_last)
        if not self.bf16:
            return self.backbone(x)
        with torch.autocast(x.device.type, torch.bfloat16):
            return self.backbone(x)

    def forward(self, x: Tensor) -> View:
        """One pass: x float [B, 3, H, W] -> View. Pooling and heads run in the heads' own precision,
        not the backbone's."""
        said: Any = self.compute(x)                     # a tuple or a tensor, as keep_maps says
        *maps, fmap = said if self.backbone.keep_maps else (said,)
        f = fmap.mean((2, 3), dtype=next(self.heads.parameters()).dtype)
        fmap = fmap.to(f.dtype) if self.keep_map else None
        given = {"features": f, "map": fmap, "maps": [m.to(f.dtype) for m in maps]}
        applied = {name: reads for name, reads in self.reads.items() if reads is not None}
        return View({name: self.heads[name](given[reads]) for name, reads in applied.items()}, f, fmap)

    def views(self, images: dict[str, Tensor], strong: Sequence[str] = (), policy: str = "joint",
              teacher: Net | None = None) -> Views:
        """All views of a step, by name, under a forward policy (it decides which images share batch-norm statistics).

        images: name -> float [n, 3, H, W]. policy:
          joint       one pass over everything: one joint batch of statistics (FixMatch, USB, SeMi).
          weak_first  the weak unlabelled view alone, without gradient, then the rest jointly (DARP family, SAW).
          separate    a pass a view; the weak unlabelled one without gradient (ABC, TRAS).
          ema_eval    the weak unlabelled view from `teacher` in eval mode, the rest jointly (CoSSL, phase 2).
          frozen      a pass a view, of which only the first moves the running statistics (ReMixMatch in USB).
          interleave  as many passes as views, each holding an equal share of every view (MixMatch's habit).
        """
        names = list(images)
        if policy == "joint":
            return Views(dict(zip(names, self._joint([images[k] for k in names]), strict=True)), list(strong))
        if policy in ("weak_first", "ema_eval"):
            rest = [k for k in names if k != "w"]
            with torch.no_grad():
                asked = self if policy == "weak_first" else teacher
                weak = asked(images["w"])  # type: ignore[misc]  # ema_eval has a teacher
            parts = dict(zip(rest, self._joint([images[k] for k in rest]), strict=True))
            return Views({k: weak if k == "w" else parts[k] for k in names}, list(strong))
        if policy == "separate":
            out = {}
            for k in sorted(names, key=lambda k: k != "w"):
                with torch.set_grad_enabled(torch.is_grad_enabled() and k != "w"):
                    out[k] = self(images[k])
            return Views({k: out[k] for k in names}, list(strong))
        if policy == "frozen":
            out = {names[0]: self(images[names[0]])}
            with running_statistics_kept(self):
                out.update({k: self(images[k]) for k in names[1:]})
            return Views(out, list(strong))
        if policy == "interleave":
            return Views(dict(zip(names, self._interleaved([images[k] for k in names]), strict=True)), list(strong))
        raise BadInput("policy", policy, f"one of {', '.join(POLICIES)}")

    def _joint(self, images: list[Tensor]) -> list[View]:
        return self(torch.cat(images)).split([len(x) for x in images])

    def _interleaved(self, images: list[Tensor]) -> list[View]:
        """Chunk i holds rows i, i + n, i + 2n, ... of every view; the outputs go back to their own rows."""
        n = len(images)
        sizes = [len(x) for x in images]
        own = torch.arange(sum(sizes), device=images[0].device).split(sizes)
        rows = [torch.cat([r[i::n] for r in own]) for i in range(n)]
        joined = torch.cat(images)
        out = View.cat([self(joined[r]) for r in rows])
        back = torch.argsort(torch.cat(rows))
        whole = View({k: v[back] for k, v in out.items()}, out.f[back], None if out.map is None else out.map[back])
        return whole.split(sizes)


class running_statistics_kept:
    """Inside, batch norms normalise by their batch as in training, but their running statistics do not move."""

    def __init__(self, net: nn.Module):
        self.norms = [m for m in net.modules() if isinstance(m, nn.modules.batchnorm._NormBase)]

    def __enter__(self):
        self.momenta = [m.momentum for m in self.norms]
        for m in self.norms:
            m.momentum = 0.0

    def __exit__(self, *error):
        for m, momentum in zip(self.norms, self.momenta, strict=True):
            m.momentum = momentum
