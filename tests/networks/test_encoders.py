"""Pretrained encoders: where weights come from, what is refused before any work, and that the fast way is exact."""
import hashlib

import pytest
import torch
from kit import tiny_encoder

from semilib.data import rng
from semilib.errors import BadInput
from semilib.networks import encoders


def pictures(n: int, side: int = 32) -> torch.Tensor:
    words = rng.words(0, "pictures", 0, n, 3 * side * side)
    return (words >> 24).to(torch.uint8).view(n, 3, side, side)


@pytest.fixture(scope="module")
def lite0():
    return encoders.load("efficientnet-lite0", 64)


def test_lite0_is_read_from_its_package_by_the_known_bytes(lite0):
    path = encoders.packaged_weights("efficientnet-lite0")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == encoders.PACKAGED["efficientnet-lite0"].sha256
    assert path.stem.endswith(encoders.PACKAGED["efficientnet-lite0"].sha256[:8])
    assert lite0.features == 1280 and lite0.mean == lite0.std == (0.5, 0.5, 0.5) and lite0.interpolation == "bicubic"
    assert not lite0.net.training and not any(p.requires_grad for p in lite0.net.parameters())


def test_loading_an_encoder_moves_no_random_state():
    torch.manual_seed(5)
    want = torch.rand(3)
    torch.manual_seed(5)
    encoders._load.__wrapped__("efficientnet-lite0", 32, "", "")
    assert torch.equal(torch.rand(3), want)


def test_weights_with_another_checksum_are_refused(monkeypatch):
    known = encoders.PACKAGED["efficientnet-lite0"]
    monkeypatch.setitem(encoders.PACKAGED, "efficientnet-lite0", known._replace(sha256="0" * 64))
    with pytest.raises(BadInput, match="encoder='efficientnet-lite0': weights with SHA-256 0000.*install it again"):
        encoders.packaged_weights("efficientnet-lite0")


def test_weights_that_are_not_installed_name_what_brings_them(monkeypatch):
    known = encoders.PACKAGED["efficientnet-lite2"]
    monkeypatch.setitem(encoders.PACKAGED, "efficientnet-lite2", known._replace(package="no_such_package"))
    with pytest.raises(BadInput, match=r"extra \"encoders\""):
        encoders.packaged_weights("efficientnet-lite2")


@pytest.mark.parametrize("name, side, field", [
    ("efficientnet-lite9", 128, "encoder"), ("timm:", 128, "encoder"), ("hub:resnet18", 128, "encoder"),
    ("efficientnet-lite0", 112, "encoder_side")])
def test_an_unknown_encoder_and_a_side_off_the_stride_are_refused(name, side, field):
    with pytest.raises(BadInput) as error:
        encoders.check_encoder(name, side)
    assert error.value.field == field


def test_the_nearest_name_of_a_library_is_offered():
    with pytest.raises(BadInput, match="did you mean 'timm:resnet18"):
        encoders.load("timm:resnet_18", 64)
    with pytest.raises(BadInput, match="did you mean 'torchvision:resnet18'"):
        encoders.load("torchvision:resnet-18", 64)


@pytest.mark.parametrize("name", ["timm:resnet18", "torchvision:resnet18"])
def test_without_a_network_the_embedded_encoders_are_named(name, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))

    def refuse(*given, **more):
        raise OSError("no route to host")
    monkeypatch.setattr("torch.hub.download_url_to_file", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_hf", refuse)
    monkeypatch.setattr("timm.models._builder.load_state_dict_from_url", refuse)
    with pytest.raises(BadInput, match="without a network: efficientnet-lite0, .* or encoder_weights=FILE"):
        encoders._load.__wrapped__(name, 64, "", "")


def test_weights_can_be_given_as_a_file(tmp_path):
    from torchvision import models
    net = models.resnet18(weights=None).eval()
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    encoder = encoders.load("torchvision:resnet18", 64, str(tmp_path / "weights.pth"))
    x = pictures(2, 64)
    with torch.no_grad():
        want = net.avgpool(net.layer4(net.layer3(net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(
            encoder.prepare(x))))))))))
    assert encoder.features == 512 and torch.allclose(encoder.eager(x), want.flatten(1), atol=1e-5)
    name, side, file = tiny_encoder(tmp_path)
    assert encoders.load(name, side, file).features > 16
    with pytest.raises(BadInput, match="encoder_weights=.*a file with the network's weights"):
        encoders.load(name, side, str(tmp_path / "none.pth"))
    with pytest.raises(BadInput, match="not given with efficientnet-lite0"):
        encoders.load("efficientnet-lite0", 64, file)
    (tmp_path / "wrong.pth").write_bytes(b"no weights")
    with pytest.raises(BadInput, match="encoder_weights=.*wrong.pth'"):
        encoders.load(name, side, str(tmp_path / "wrong.pth"))


def test_a_weights_file_that_is_replaced_is_another_encoder(tmp_path):
    name, side, file = tiny_encoder(tmp_path)
    before = encoders.load(name, side, file)
    assert encoders.load(name, side, file) is before
    torch.save({key: -value for key, value in torch.load(file).items()}, file)
    assert encoders.load(name, side, file).weights != before.weights


def test_pictures_are_resized_as_pillow_does_and_normalised_once(lite0):
    import numpy as np
    from PIL import Image
    x = pictures(3)
    files = [Image.fromarray(one.permute(1, 2, 0).numpy()) for one in x]
    large = [np.asarray(file.resize((64, 64), Image.Resampling.BICUBIC)) for file in files]
    want = np.stack(large).transpose(0, 3, 1, 2)
    have = lite0.resize(x)
    assert have.dtype == torch.uint8 and np.abs(have.numpy().astype(int) - want).max() <= 1
    assert torch.allclose(lite0.prepare(x), have.float() / 127.5 - 1, atol=1e-6)
    assert lite0.resize(have) is have


def test_onnx_runtime_gives_eager_features_whatever_the_order_and_the_number(lite0, tmp_path):
    run = encoders.runner(lite0, torch.device("cpu"), tmp_path)
    x = pictures(70)
    have = run(x)
    assert have.shape == (70, 1280) and (have - lite0.eager(x)).abs().max() < 5e-5
    order = torch.randperm(70, generator=torch.Generator().manual_seed(0))
    assert torch.equal(run(x[order]), have[order]), "a feature hangs on its picture alone"
    assert torch.equal(run(x[3:4]), have[3:4])
    assert [path.suffix for path in tmp_path.iterdir()] == [".onnx"]


def test_bf16_on_a_cpu_gives_eager_features_up_to_its_rounding(lite0, tmp_path):
    pytest.importorskip("openvino", reason="needs the extra openvino")
    if not encoders.computes_in_bf16():
        pytest.skip("needs a CPU with bf16 units")
    x = pictures(70)
    run = encoders.runner(lite0, torch.device("cpu"), tmp_path, "bf16")
    have, want = run(x), lite0.eager(x)
    assert have.dtype == torch.float32 and have.shape == (70, 1280)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        usual = lite0.net(lite0.prepare(x)).float()
    assert 0 < (have - want).abs().mean() < 2.5 * (usual - want).abs().mean() < 0.15 * want.abs().mean()
    assert torch.equal(run(x[3:4]), have[3:4]), "a feature hangs on its picture alone"


@pytest.mark.parametrize("installed, remedy", [(False, r"comes with the extra \"openvino\""),
                                               (True, "without bf16 units")])
def test_bf16_where_a_cpu_cannot_compute_it_is_refused_before_any_work(monkeypatch, installed, remedy):
    monkeypatch.setattr(encoders.importlib.util, "find_spec", lambda name: installed or None)
    monkeypatch.setattr(encoders, "computes_in_bf16", lambda: False)
    with pytest.raises(BadInput, match=f"encoder_precision='bf16': auto or fp32 on a CPU .*{remedy}"):
        encoders.runner(None, torch.device("cpu"), None, "bf16")
    assert encoders.arithmetic(torch.device("cpu")) == encoders.arithmetic(torch.device("cuda"), "fp32") == "fp32"
    assert encoders.arithmetic(torch.device("cuda")) == "bf16"


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_cuda_in_bf16_is_within_a_twentieth_of_eager_features(tmp_path):
    encoder = encoders._load.__wrapped__("efficientnet-lite0", 64, "", "")
    x = pictures(70)
    want = encoder.eager(x)
    have = encoders.runner(encoder, torch.device("cuda"), tmp_path)(x).cpu()
    assert (have - want).abs().mean() < 0.05 * want.abs().mean()
