"""A network that is trained from an encoder's weights: the same function at the start, a right gradient, rates of its
own, a restart at its weights, and what is refused."""
import pytest
import torch
from kit import source as toy
from kit import tiny_encoder

from semilib.data import augment
from semilib.errors import BadInput
from semilib.networks import encoders
from semilib.networks.backbones import Pretrained, Shortcut, initialise
from semilib.training import trained
from semilib.training.config import Run
from semilib.training.engine import Trainer
from semilib.training.train import train

LITE0 = "efficientnet-lite0"
MEAN, STD = (0.4, 0.5, 0.6), (0.2, 0.25, 0.3)


def run(**changes) -> Run:
    return Run.of("mnistm5k", **{"method": "fixmatch", "profile": "smoke", "network": LITE0, "encoder_side": 32,
                                 "steps": 2, "eval_every": 2, "batch": 4, "mu": 1, "n1": 14,
                                 "m1": 16, "gamma_l": 3.0, "gamma_u": 3.0, **changes})


@pytest.fixture(scope="module")
def backbone() -> Pretrained:
    return encoders.backbone_of(run(), 3, MEAN, STD)


def pictures(n: int = 2, side: int = 32) -> torch.Tensor:
    return torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_at_the_start_it_gives_the_encoder_s_features_of_the_same_pictures(backbone):
    x = augment.normalise(pictures(), MEAN, STD, torch.float32)
    want = encoders.load(LITE0, 32).eager(pictures())
    with torch.no_grad():
        have = backbone.eval()(x)
    assert have.shape == (2, 1280, 1, 1) and backbone.features == 1280
    torch.testing.assert_close(have.flatten(1), want, rtol=1e-3, atol=1e-3)


def test_larger_and_smaller_pictures_are_resized_to_the_encoder_s_side(backbone):
    with torch.no_grad():
        for side in (24, 48):
            assert backbone.eval()(torch.zeros(1, 3, side, side)).shape == (1, 1280, 1, 1)


def test_its_gradient_is_that_of_central_differences():
    net = encoders.backbone_of(run(), 3, MEAN, STD).double().eval()
    x = augment.normalise(pictures(4), MEAN, STD, torch.float64)
    target = torch.randn(4, 1280, 1, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

    def loss() -> torch.Tensor:
        return (net(x) * target).mean()
    loss().backward()
    for name in ("conv_stem.weight", "blocks.3.0.conv_dw.weight", "conv_head.weight"):
        weight = net.net.get_parameter(name)
        at = weight.grad.abs().flatten().argmax()
        with torch.no_grad():
            ends = []
            for step in (1e-6, -1e-6):
                weight.view(-1)[at] += step
                ends.append(float(loss()))
                weight.view(-1)[at] -= step
        assert (ends[0] - ends[1]) / 2e-6 == pytest.approx(float(weight.grad.flatten()[at]), rel=1e-4)


def test_initialising_keeps_its_weights_and_a_restart_returns_to_them():
    net = encoders.backbone_of(run(), 3, MEAN, STD)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    with torch.no_grad():
        for value in net.state_dict().values():
            value.add_(1)
    initialise(torch.nn.Sequential(net, torch.nn.Linear(4, 2)), 0)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    shared = encoders.load(LITE0, 32).net
    assert not any(p.requires_grad for p in shared.parameters()), "the encoder itself stays frozen"


def test_its_rate_and_decay_are_its_own():
    source = toy()
    weight = "blocks.0.0.conv_pw.weight"
    moved = {}
    for share in (0.0, 0.5):
        trainer = Trainer(run(encoder_lr=share, encoder_decay=0.0), source)
        net, head = trainer.net.backbone.net, trainer.net.heads["head"].weight.clone()
        before = net.get_parameter(weight).clone()
        rates = {float(group["weight_decay"]) for group in trainer.optimisers[0].param_groups}
        trainer.advance()
        assert not torch.equal(trainer.net.heads["head"].weight, head) and rates == {0.0, 5e-4}
        moved[share] = float((net.get_parameter(weight) - before).detach().abs().max())
        assert float(trainer.encoder_lr) == pytest.approx(share * float(trainer.lr))
    assert moved[0.0] == 0 < moved[0.5]


def test_a_smoke_run_trains_is_kept_and_predicts_again(tmp_path):
    source = toy()
    path = train(run(method="semi", options={"threshold": 0.3}), tmp_path, source=source)
    again = trained.load(path)
    assert again.probabilities(source.test_images[:3]).sum(1) == pytest.approx([1, 1, 1])
    assert isinstance(again.net.backbone, Pretrained)


def test_a_network_trained_from_a_weights_file_is_loaded_with_that_file_alone(tmp_path):
    name, side, weights = tiny_encoder(tmp_path)
    source = toy()
    path = train(run(network=name, encoder_side=side, encoder_weights=weights), tmp_path, source=source)
    for wrong in ("", encoders.packaged_weights(LITE0)):
        with pytest.raises(BadInput, match=f"encoder_weights=.*the file of {name} whose hash is"):
            trained.load(path, encoder_weights=str(wrong))
    assert trained.load(path, encoder_weights=weights).probabilities(source.test_images[:3]).sum(1) == pytest.approx(
        [1, 1, 1])


def test_strided_pointwise_convolutions_are_computed_as_in_the_other_networks():
    from torchvision.models import resnet18
    net = resnet18(weights=None).eval()
    net.fc = torch.nn.Identity()
    x = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        want = net(x)
        taken = Pretrained(net, 512, 32, "bilinear", torch.ones(3), torch.zeros(3)).eval()
        torch.testing.assert_close(taken(x).flatten(1), want, rtol=1e-4, atol=1e-5)
    assert sum(isinstance(m, Shortcut) for m in taken.modules()) == 3


@pytest.mark.parametrize("given, message", [
    (dict(network="efficientnet-lite9"), "network='efficientnet-lite9': wrn-DEPTH-WIDTH"),
    (dict(encoder_side=40), "encoder_side=40: a multiple of 32"),
    (dict(network="timm:"), "network='timm:': none, .*timm:NAME"),
    (dict(stored_strong=4), "stored_strong=4: 8 without an encoder"),
    (dict(network="wrn-10-0.5", encoder_side=128, encoder_lr=0.2), "encoder_lr=0.2: 0.1 unless the network is an"),
    (dict(method="metaexpert"), "wrn-DEPTH-WIDTH or resnet50 for metaexpert, which reads maps"),
    (dict(encoder=LITE0), "mlp-WIDTH .* with encoder"),
    (dict(ema_rule="decaying", encoder_decay=0.1), "encoder_decay=0.1: 0.0005, as weight_decay")])
def test_what_cannot_be_is_refused_before_any_work(given, message):
    with pytest.raises(BadInput, match=message):
        run(**given)
