"""Feature networks: where their weights come from, what is recognised, and that nobody trains them."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from styleforge import features, hub
from styleforge.errors import CorruptFileError, HubUnavailable, RevisionNotFound, UnknownName, WeightsMismatch

IMAGE = torch.rand(1, 3, 64, 48, generator=torch.Generator().manual_seed(0)) * 2 - 1


def foreign(preset, last="relu1_2"):
    """A file in the layout of `preset`, and the network whose weights it holds."""
    torch.manual_seed(1)
    network = features.build(preset) if preset.startswith("squeeze") else features.build(preset, last=last)
    names = features.PRESETS[preset][2]
    return network.eval(), {names[ours]: t.contiguous() for ours, t in network.state_dict().items()}


@pytest.mark.parametrize("preset", features.PRESETS)
def test_every_layout_is_recognised_by_its_keys(preset, tmp_path):
    network, tensors = foreign(preset)
    save_file({**tensors, "classifier.weight": torch.zeros(3)}, tmp_path / "weights.safetensors")
    found, _ = features.read(tmp_path / "weights.safetensors")
    assert found == preset
    frozen = features.load(tmp_path / "weights.safetensors")
    layers = list(network.channels)
    with torch.no_grad():
        ours, theirs = frozen(IMAGE, layers), network(IMAGE, layers)
    assert list(ours) == layers
    assert all(torch.equal(ours[name], theirs[name]) for name in layers)
    assert all(ours[name].shape[1] == network.channels[name] for name in layers)


def test_layers_are_those_of_a_plain_sequence():
    network = features.build("vgg19", last="relu3_2").double()
    x = IMAGE.double()
    mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    y = (((x + 1) / 2).permute(0, 2, 3, 1) - mean.double()).div(deviation.double()).permute(0, 3, 1, 2)
    expected = {}
    for block, count in ((1, 2), (2, 2), (3, 2)):
        y = nn.functional.max_pool2d(y, 2) if block > 1 else y
        for n in range(1, count + 1):
            y = nn.functional.conv2d(y, *network.convs[f"conv{block}_{n}"].parameters(), padding=1).relu()
            expected[f"relu{block}_{n}"] = y
    found = network(x, ["relu3_2", "relu1_1", "relu2_2"])
    assert list(found) == ["relu3_2", "relu1_1", "relu2_2"]
    assert all(torch.allclose(found[name], expected[name], atol=1e-6) for name in found)


def test_nothing_behind_the_deepest_layer_is_computed():
    network = features.build("vgg19-16x")
    network.convs["conv3_1"].register_forward_hook(lambda *_: pytest.fail("computed"))
    network(IMAGE, ["relu2_2"])


def test_a_frozen_network_is_no_part_of_what_holds_it():
    holder = nn.Module()
    holder.features = features.load("random-16x", last="relu3_1")
    assert not list(holder.parameters()) and not holder.state_dict()
    assert holder.double().features(IMAGE.double(), ["relu3_1"])["relu3_1"].dtype == torch.float64
    image = IMAGE.double().requires_grad_()
    holder.features(image, ["relu3_1"])["relu3_1"].sum().backward()
    assert image.grad.abs().sum() > 0
    holder.load_state_dict({}, strict=True)


def test_random_weights_are_the_same_every_time_and_disturb_no_other_draw():
    torch.manual_seed(5)
    first = features.load("random-16x", last="relu2_1")
    after = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(1), after)
    second = features.load("random-16x", last="relu2_1")
    assert torch.equal(first(IMAGE, ["relu2_1"])["relu2_1"], second(IMAGE, ["relu2_1"])["relu2_1"])


def test_unknown_names_and_layers():
    with pytest.raises(UnknownName, match=r"'vgg18'.*vgg19, random.*Did you mean 'vgg19'"):
        features.load("vgg18")
    with pytest.raises(UnknownName, match=r"'relu6_1'.*relu5_4"):
        features.build("vgg19", last="relu6_1")
    network = features.build("vgg19-16x", last="relu2_1")
    with pytest.raises(UnknownName, match=r"'relu4_1'.*relu1_1, relu1_2, relu2_1"):
        network(IMAGE, ["relu4_1"])
    with pytest.raises(UnknownName, match="Did you mean 'vgg19'"):
        features.build("vgg")


def test_a_file_that_is_none_of_these(tmp_path):
    save_file({"features.0.weight": torch.zeros(8, 3, 3, 3)}, tmp_path / "x.safetensors")
    with pytest.raises(WeightsMismatch, match=r"features\.0\.weight.*vgg19"):
        features.load(tmp_path / "x.safetensors")
    # The right keys with other shapes are another network.
    _, tensors = foreign("vgg19-16x")
    save_file({k: torch.zeros(2, *t.shape[1:]) for k, t in tensors.items()}, tmp_path / "y.safetensors")
    with pytest.raises(WeightsMismatch):
        features.load(tmp_path / "y.safetensors")


def test_a_file_that_ends_early(tmp_path):
    _, tensors = foreign("vgg19-16x", last="relu2_1")
    save_file(tensors, tmp_path / "x.safetensors")
    assert list(features.load(tmp_path / "x.safetensors").channels)[-1] == "relu2_1"
    with pytest.raises(WeightsMismatch, match=r"no convs\.conv2_2.*up to relu3_1"):
        features.load(tmp_path / "x.safetensors", last="relu3_1")


def test_an_encoder_is_filled_by_weights_of_its_own_kind_only(tmp_path):
    network, tensors = foreign("vgg19-16x", last="relu2_1")
    save_file(tensors, tmp_path / "x.safetensors")
    encoder = features.build("vgg19-16x", last="relu1_2")
    features.fill(encoder, tmp_path / "x.safetensors")
    assert torch.equal(encoder.convs["conv1_2"].weight, network.convs["conv1_2"].weight)
    for source in (tmp_path / "x.safetensors", "random-16x"):
        with pytest.raises(WeightsMismatch, match="found vgg19-16x.*backbone"):
            features.fill(features.build("vgg19", last="relu1_2"), source)
    features.fill(encoder, "random-16x")


def test_a_network_that_only_judges_is_none_to_train_through(tmp_path):
    _, tensors = foreign("squeezenet")
    save_file(tensors, tmp_path / "x.safetensors")
    for use in (
        lambda: features.load(tmp_path / "x.safetensors", last="relu4_1"),
        lambda: features.fill(features.build("vgg19-16x", last="relu1_2"), tmp_path / "x.safetensors"),
    ):
        with pytest.raises(WeightsMismatch, match="found squeezenet.*Give weights of VGG-19"):
            use()


@pytest.fixture
def published(hub, monkeypatch):
    """A VGG-19 that ends after its second convolution, on the Hub of the tests, in place of timm's."""
    from huggingface_hub import HfApi
    from safetensors.torch import save

    network, tensors = foreign("vgg19")
    data = save(tensors)
    api = HfApi()
    api.create_repo("org/vgg19.tests", exist_ok=True)
    commit = api.upload_file(path_or_fileobj=data, path_in_repo="model.safetensors", repo_id="org/vgg19.tests").oid
    entry = ("org/vgg19.tests", commit, hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(features, "PUBLISHED", {"vgg19": entry})
    return network, entry


def test_the_published_one_comes_from_the_hub_and_is_the_one_we_know(published, monkeypatch):
    network, (repo, commit, _) = published
    ours = features.load("vgg19")
    assert torch.equal(ours(IMAGE, ["relu1_2"])["relu1_2"], network.eval()(IMAGE, ["relu1_2"])["relu1_2"])
    monkeypatch.setattr(features, "PUBLISHED", {"vgg19": (repo, commit, "0" * 64)})
    with pytest.raises(CorruptFileError, match=r"model\.safetensors was damaged.*allowed: 00000000"):
        features.load("vgg19")


def test_without_the_hub_it_says_so_and_takes_no_random_weights(published, monkeypatch, tmp_path):
    repo, commit, digest = published[1]
    monkeypatch.setattr(features, "PUBLISHED", {"vgg19": (repo, "1" * 40, digest)})
    with pytest.raises(RevisionNotFound):
        features.load("vgg19")
    monkeypatch.setattr(features, "PUBLISHED", {"vgg19": (repo, commit, digest)})
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("huggingface_hub.file_download.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(HubUnavailable, match=r"org/vgg19\.tests.*local safetensors file: --features"):
        features.load("vgg19")


def test_the_pin_is_complete():
    repo, commit, digest = features.PUBLISHED["vgg19"]
    assert repo == "timm/vgg19.tv_in1k" and len(commit) == 40 and len(digest) == 64
    assert hub.WEIGHTS_NAME == "model.safetensors"


def test_real_weights_against_their_reference(shared):
    import sys

    sys.path.insert(0, str(shared / "weights"))
    import reference_nets

    network = features.load(shared / "weights" / "vgg19_16x_encoder5.safetensors")
    with torch.no_grad():
        assert torch.equal(network(IMAGE, ["relu5_1"])["relu5_1"], reference_nets.Enc16(5)((IMAGE + 1) / 2))
        squeeze = features.load(shared / "weights" / "squeezenet1_0_caffe.safetensors")
        names = ["conv1", "fire3", "fire4", "fire5", "fire7", "fire8", "fire9"]
        ours = squeeze(IMAGE, names)
        for name, theirs in zip(names, reference_nets.SqueezeNet()((IMAGE + 1) / 2, taps=True), strict=True):
            assert (ours[name] - theirs).abs().max() < 1e-4 * theirs.abs().max(), name
    sys.path.remove(str(shared / "weights"))
