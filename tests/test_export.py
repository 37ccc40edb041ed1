"""Every network as an ONNX graph that does the same, or no file at all."""

import sys

import numpy as np
import pytest
import torch
from variants import VARIANTS

from styleforge import StylePipeline
from styleforge.errors import ConfigError, MissingExtra
from styleforge.models import (
    AdaINGenerator,
    AttentionGenerator,
    PatchDiscriminator,
    ResnetGenerator,
    TransformerNet,
    attention,
)

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")

from styleforge import export  # noqa: E402
from styleforge.export import export_onnx  # noqa: E402

SIZE = (45, 70)  # fits no network's grid


def small(cls, config):
    """A variant that makes pictures, at the smallest width; None for others, and for whole VGGs."""
    backbone = config.get("backbone", "vgg19" if cls is AdaINGenerator else "")
    if "Discriminator" in cls.__name__ or backbone in ("vgg19", "vgg19-normalised"):
        return None
    if config.get("out_channels") == 2:
        config = {**config, "out_channels": 1}
    return config if "width" not in cls.__init__.__kwdefaults__ else {"width": 4, **config}


CASES = [(cls, config) for cls, given in VARIANTS if (config := small(cls, given)) is not None]
CASES.append((AttentionGenerator, {"backbone": "vgg19-16x", "attention": "sanet", "max_keys": 16}))


def run(file, **given):
    session = onnxruntime.InferenceSession(str(file), providers=["CPUExecutionProvider"])
    return session.run(["output"], given)[0]


def picture(height, width, seed=0):
    return np.random.default_rng(seed).random((height, width, 3), np.float32)


def planes(*pictures):
    return np.stack(pictures).transpose(0, 3, 1, 2)


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return ResnetGenerator(width=2, blocks=1)


@pytest.mark.parametrize(("cls", "config"), CASES, ids=[f"{n}-{cls.__name__}" for n, (cls, _) in enumerate(CASES)])
def test_a_graph_does_what_the_pipeline_does(cls, config, tmp_path):
    torch.manual_seed(0)
    pipe = StylePipeline(cls(**config), fast=False)
    report = export_onnx(pipe, tmp_path / "x.onnx", sizes=[(64, 32)])
    assert report.bytes == (tmp_path / "x.onnx").stat().st_size and report.seconds > 0 and report.latency_ratio > 0
    assert report.differences.keys() == {(64, 32)}
    can, image = pipe.model.capabilities, picture(*SIZE)
    if can.inputs == ("noise",):
        noise = torch.randn(3, pipe.model.config["noise_size"])
        expected = (pipe.model(noise).detach().expand(-1, 3, -1, -1).numpy() + 1) / 2
        assert np.abs(run(tmp_path / "x.onnx", noise=noise.numpy()) - expected).max() < 1e-4
        return
    given = {"image": planes(image)}
    style = None
    if "style" in can.inputs:
        style = picture(64, 96, seed=1)
        given["style"] = planes(style)
    elif can.styles > 1:
        style = [0.2, 0.0, 0.8]
        given["weights"] = np.array([style], np.float32)
    expected = pipe(image, style=style, output_type="np")
    assert np.abs(run(tmp_path / "x.onnx", **given)[0].transpose(1, 2, 0) - expected).max() < 1e-3


def test_batch_and_size_are_free(net, tmp_path):
    export_onnx(net, tmp_path / "x.onnx", sizes=[(16, 16)])
    pictures = [picture(9, 13, seed) for seed in range(3)]
    together = run(tmp_path / "x.onnx", image=planes(*pictures))
    assert together.shape == (3, 3, 9, 13) and together.min() >= 0 and together.max() <= 1
    for one, result in zip(pictures, together, strict=True):
        assert np.abs(run(tmp_path / "x.onnx", image=planes(one))[0] - result).max() < 1e-5
    assert run(tmp_path / "x.onnx", image=planes(picture(1, 1))).shape == (1, 3, 1, 1)


def test_attention_in_parts_is_recorded_whole(tmp_path, monkeypatch):
    """PyTorch looks at some places at a time, and how many times depends on the size."""
    torch.manual_seed(0)
    net = AttentionGenerator(backbone="vgg19-16x", attention="sanet", skip=False)
    monkeypatch.setattr(attention, "BLOCK", 100)
    assert export_onnx(net, tmp_path / "x.onnx", sizes=[(48, 64)]).differences[48, 64] < 1e-5


def test_the_file_says_what_it_is(tmp_path):
    export_onnx(TransformerNet(width=2, blocks=0, styles=2), tmp_path / "sea.onnx", license="mit", sizes=[(8, 8)])
    graph = onnx.load(tmp_path / "sea.onnx")
    onnx.checker.check_model(graph)
    facts = {entry.key: entry.value for entry in graph.metadata_props}
    assert facts["name"] == "sea" and facts["license"] == "mit" and facts["architecture"] == "TransformerNet"
    assert '"styles": 2' in facts["config"] and facts["styleforge"]
    assert [one.name for one in graph.graph.input] == ["image", "weights"]
    sides = [side.dim_param or side.dim_value for side in graph.graph.input[0].type.tensor_type.shape.dim]
    assert sides == ["batch", 3, "height", "width"]


def test_half_precision_is_exported_in_full_and_left_alone(net, tmp_path):
    half = ResnetGenerator(width=2, blocks=1).to(torch.bfloat16).train()
    export_onnx(half, tmp_path / "x.onnx", sizes=[(16, 16)])
    assert half.dtype == torch.bfloat16 and half.training
    assert run(tmp_path / "x.onnx", image=planes(picture(8, 8))).dtype == np.float32


def test_a_graph_that_differs_is_not_kept(net, tmp_path, monkeypatch):
    forward = export._Whole.forward
    monkeypatch.setattr(export._Whole, "forward", lambda self, image: forward(self, image) * 0.9)
    (tmp_path / "x.onnx").write_text("old")
    with pytest.raises(ConfigError, match=r"0\.\d+ at 24x16, 0\.\d+ at 9x13; allowed: differences up to 0\.001"):
        export_onnx(net, tmp_path / "x.onnx", sizes=[(16, 24), (13, 9)])
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"] and (tmp_path / "x.onnx").read_text() == "old"


def test_a_network_that_makes_nan_is_refused(tmp_path):
    net = ResnetGenerator(width=2, blocks=0)
    torch.nn.init.constant_(net.head.bias, torch.nan)
    with pytest.raises(ConfigError, match="nan at 8x8"):
        export_onnx(net, tmp_path / "x.onnx", sizes=[(8, 8)])
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_recorded_says_why(net, tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise RuntimeError("no operator for this\nand a long story")

    monkeypatch.setattr(torch.onnx, "export", refuse)
    usual = attention.thin
    with pytest.raises(ConfigError, match="no ONNX form.*ResnetGenerator.*no operator for this. Try"):
        export_onnx(net, tmp_path / "x.onnx")
    assert attention.thin is usual and not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("options", "message"),
    [({"sizes": []}, "0 sizes"), ({"tolerance": 0.0}, "0.0"), ({"tolerance": float("nan")}, "nan")],
)
def test_nothing_is_kept_uncompared(net, tmp_path, options, message):
    with pytest.raises(ConfigError, match=message):
        export_onnx(net, tmp_path / "x.onnx", **options)


def test_a_target_is_looked_at_before_the_work(net, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    (tmp_path / "x.onnx").mkdir()
    monkeypatch.setattr(export, "_record", lambda *_: pytest.fail("recorded"))
    for name, error in (("x.onnx", ConfigError), ("x.pt", ConfigError), ("x", ConfigError), ("file/x.onnx", OSError)):
        with pytest.raises(error):
            export_onnx(net, tmp_path / name)
    monkeypatch.undo()
    assert export_onnx(net, tmp_path / "y.ONNX", sizes=[(8, 8)]).file.exists()


def test_discriminators_make_no_pictures(tmp_path):
    with pytest.raises(ConfigError, match="makes no pictures"):
        export_onnx(PatchDiscriminator(width=2), tmp_path / "x.onnx")


@pytest.mark.parametrize("library", ["onnx", "onnxruntime"])
def test_without_the_extra(net, tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(MissingExtra, match=r"styleforge\[export\]"):
        export_onnx(net, tmp_path / "x.onnx")
