"""Pictures in any style, in one of several learnt ones, and out of noise: through the pipeline and the command line."""

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from styleforge import StylePipeline, cli, images
from styleforge.errors import ConfigError, ImageError
from styleforge.models import (
    AdaINGenerator,
    AttentionGenerator,
    DCGANGenerator,
    MicroASTGenerator,
    ResnetGenerator,
    StyleGAN2Generator,
    TransformerNet,
)
from styleforge.pipeline import style_regions
from styleforge.rng import generator


def picture(width, height, seed=0):
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8))


@pytest.fixture(scope="module")
def arbitrary():
    torch.manual_seed(0)
    network = AdaINGenerator(backbone="vgg19-16x")
    for module in network.modules():  # as they begin, the last of many layers would see nothing of the first
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    return StylePipeline(network)


@pytest.fixture(scope="module")
def several():
    torch.manual_seed(0)
    network = TransformerNet(width=4, blocks=1, styles=3)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return StylePipeline(network)


@pytest.fixture(scope="module")
def noisy():
    torch.manual_seed(0)
    return StylePipeline(DCGANGenerator(width=4, size=64))


def test_any_style_of_any_size_on_any_picture(arbitrary, tmp_path):
    content = picture(37, 50)
    styles = [picture(64, 40, 1), picture(17, 90, 2), picture(3, 5, 3)]
    results = [arbitrary(content, style=style) for style in styles]
    assert all(result.size == content.size for result in results)
    assert len({result.tobytes() for result in results}) == 3
    styles[0].save(tmp_path / "style.png")
    assert arbitrary(content, style=tmp_path / "style.png").tobytes() == results[0].tobytes()
    both = arbitrary([content, content], style=styles[0])
    assert [one.tobytes() for one in both] == [results[0].tobytes()] * 2


@pytest.mark.parametrize("make", [AdaINGenerator, AttentionGenerator, MicroASTGenerator])
def test_a_style_between_those_of_several_pictures(arbitrary, make):
    if make is AdaINGenerator:
        pipe = arbitrary
    else:
        torch.manual_seed(0)
        pipe = StylePipeline(make(width=4) if make is MicroASTGenerator else make(backbone="vgg19-16x"))
    content, (a, b) = picture(40, 48), [picture(48, 40, n) for n in (1, 2)]

    def styled(style):
        return pipe(content, style=style, output_type="pt")

    ends = [styled(a), styled(b)]
    for style, end in (([(a, 1), (b, 0)], ends[0]), ([(a, 0.0), (b, 3.0)], ends[1]), ([a], ends[0]), ([b, b], ends[1])):
        assert torch.allclose(styled(style), end, atol=2e-3), "bfloat16 where the processor has it"
    between = styled([(a, 1), (b, 3)])
    assert torch.equal(between, styled([(a, 0.25), (b, 0.75)]))
    if make is AdaINGenerator:  # whose weights here make the styles differ much
        assert min((between - end).abs().mean() for end in ends) > 0.003
        assert (between - ends[1]).abs().mean() < (between - ends[0]).abs().mean()


def test_several_references_in_tiles_are_those_of_the_whole(arbitrary):
    given = {"style": [(picture(32, 32, 1), 0.3), (picture(48, 32, 2), 0.7)], "output_type": "pt"}
    pipe = StylePipeline(arbitrary.model, fast=False)
    whole, tiles = pipe(picture(640, 560), **given), []
    in_tiles = pipe(picture(640, 560), **given, max_memory=0.05, progress=lambda *done: tiles.append(done))
    assert len(tiles) > 3
    assert (whole - in_tiles).abs().max() < 1e-4


@pytest.mark.parametrize("shares", [(1, -1), (0, 0), (float("nan"), 1), ("1", 1)])
def test_shares_that_are_none(arbitrary, shares):
    with pytest.raises(ConfigError, match="cannot share a style"):
        arbitrary(picture(16, 16), style=[(picture(16, 16, n), share) for n, share in enumerate(shares)])


def test_large_styles_are_reduced(arbitrary, monkeypatch):
    seen = []
    monkeypatch.setattr(
        arbitrary.model, "forward", lambda image, style, strength: seen.append(style[0][0].shape) or image
    )
    arbitrary(picture(16, 16), style=picture(1100, 900))
    ((_, _, height, width),) = seen
    assert (height, width) == (512, 624) and width / height == pytest.approx(1100 / 900, rel=0.01)


def test_without_strength_the_picture_is_painted_as_it_is(arbitrary):
    source = images.read(picture(40, 24))
    painted = np.zeros_like(source.rgb)
    arbitrary.paint(source, painted, style=picture(32, 32, 1), strength=0.0)
    assert np.array_equal(painted, source.rgb)


def test_strength_belongs_to_the_network_where_it_has_one(arbitrary):
    content, style = picture(32, 32), picture(32, 32, 1)
    none, half, full = (
        torch.from_numpy(arbitrary(content, style=style, strength=s, output_type="np")) for s in (0, 0.5, 1)
    )
    assert (none - torch.from_numpy(np.array(content) / 255)).abs().max() < 1e-6  # exactly the picture at 0
    assert not torch.allclose(half, (none + full) / 2, atol=1e-3)  # features are blended, not pixels


@pytest.mark.parametrize(("style", "error"), [(None, ConfigError), ("no-such-file.png", ImageError)])
def test_a_style_that_is_missing(arbitrary, style, error):
    with pytest.raises(error, match=r"--reference|no-such-file"):
        arbitrary(picture(16, 16), style=style)


def test_learnt_styles_are_chosen_by_number_or_weights(several):
    content = picture(20, 24)
    results = [several(content, style=n).tobytes() for n in range(3)]
    assert len(set(results)) == 3
    assert several(content).tobytes() == results[0]
    assert several(content, style=[0, 2.0, 0]).tobytes() == results[1]
    assert several(content, style=[1, 1, 0]).tobytes() not in results


@pytest.mark.parametrize("number", [np.int64(1), np.uint8(1), torch.tensor(1)])
def test_numbers_and_weights_of_numpy_and_torch(several, number):
    content, weights = picture(20, 24), [0.2, 0.5, 0.3]
    assert several(content, style=number).tobytes() == several(content, style=1).tobytes()
    expected = several(content, style=weights).tobytes()
    for given in (np.array(weights), torch.tensor(weights, dtype=torch.float64), [np.array(w) for w in weights]):
        assert several(content, style=given).tobytes() == expected


def test_only_those_regions_get_a_style_that_take_one(arbitrary, several):
    content, style, left = picture(40, 30), picture(32, 32, 1), np.zeros((30, 40), bool)
    left[:, :12] = True
    learnt = StylePipeline(ResnetGenerator(width=2, blocks=0))
    found = np.array(style_regions(content, [(learnt, left), (arbitrary, ~left)], style=style))
    assert np.array_equal(found[left], np.array(learnt(content))[left])
    assert np.array_equal(found[~left], np.array(arbitrary(content, style=style))[~left])
    for nowhere in (left, left & ~left):
        with pytest.raises(ConfigError, match="learnt one style"):
            style_regions(content, [(learnt, nowhere), (learnt, ~left)], style=style)


def test_a_style_from_a_file_object_is_read_once_for_all(arbitrary, tmp_path):
    content, style = picture(24, 24), picture(32, 32, 1)
    style.save(tmp_path / "style.png")
    with open(tmp_path / "style.png", "rb") as file:
        made = arbitrary([content, content], style=file)
    assert {one.tobytes() for one in made} == {arbitrary(content, style=style).tobytes()}


@pytest.mark.parametrize(
    "style", [3, -1, [1.0], [0, 0, 0], "monet.jpg", ["a", "b", "c"], [float("inf"), 1, 0], [float("nan"), 1, 1]]
)
def test_learnt_styles_that_are_not_there(several, style):
    with pytest.raises(ConfigError, match="a number below 3, or 3 weights"):
        several(picture(16, 16), style=style)


def test_a_style_for_a_network_that_has_one():
    for style in (picture(8, 8), torch.rand(3, 40, 40), np.random.rand(40, 40, 3)):
        with pytest.raises(ConfigError, match="learnt one style") as caught:
            StylePipeline(ResnetGenerator(width=2, blocks=0))(picture(16, 16), style=style)
        assert len(str(caught.value)) < 300


def test_pictures_from_noise_depend_on_the_seed_only(noisy):
    four, two, other = noisy.generate(4, seed=1), noisy.generate(2, seed=1), noisy.generate(2, seed=2)
    assert all(image.size == (64, 64) and image.mode == "RGB" for image in four)
    assert [i.tobytes() for i in four[:2]] == [i.tobytes() for i in two]
    assert len({i.tobytes() for i in four + other}) == 6
    (array,) = noisy.generate(1, seed=1, output_type="np")
    assert array.shape == (64, 64, 3) and np.abs(array * 255 - np.array(two[0])).max() <= 0.501


def test_grain_is_fresh_in_each_picture_or_the_one_that_the_network_keeps():
    torch.manual_seed(0)
    model = StyleGAN2Generator(size=16, width=2, noise_size=8, style_size=8, mapping_layers=2).eval()
    for conv in model.convs:
        torch.nn.init.ones_(conv.noise_weight)
    pipe = StylePipeline(model)
    fresh, kept = (pipe.generate(3, seed=1, grain=grain, output_type="pt") for grain in ("fresh", "kept"))
    noise = torch.randn(1, 8, generator=generator(1, "noise", 1))
    assert torch.allclose(kept[1] * 2 - 1, model(noise)[0], atol=1e-6)
    assert not torch.allclose(fresh[1], kept[1], atol=1e-2)
    assert torch.equal(fresh[1], pipe.generate(1, seed=1, first=1, output_type="pt")[0])
    with torch.inference_mode():
        grains = [model(noise, noises=model.fresh_noises(1, generator(1, "grain", n))) for n in (1, 2)]
    assert torch.allclose(fresh[1] * 2 - 1, grains[0][0], atol=1e-6) and not torch.allclose(*grains, atol=1e-2)
    with pytest.raises(ConfigError, match="'fresh', 'kept'"):
        pipe.generate(1, grain="none")


def test_each_network_says_how_it_is_used(noisy, several):
    with pytest.raises(ConfigError, match=r"pipe\.generate"):
        noisy(picture(8, 8))
    with pytest.raises(ConfigError, match=r"pipe\(image\)"):
        several.generate(1)
    with pytest.raises(ConfigError, match="'pil', 'np', 'pt'"):
        noisy.generate(1, output_type="jpg")


def test_the_command_line_takes_references_and_makes_pictures(arbitrary, several, noisy, tmp_path):
    for name, pipe in (("arbitrary", arbitrary), ("several", several), ("noisy", noisy)):
        pipe.save_pretrained(tmp_path / name)
    content, style = picture(30, 20), picture(40, 40, 1)
    content.save(tmp_path / "content.png")
    style.save(tmp_path / "style.png")

    def call(*arguments):
        return CliRunner().invoke(cli.cli, [str(a) for a in arguments], standalone_mode=True)

    base = ("stylize", tmp_path / "content.png", "--output", tmp_path / "out.png", "--device", "cpu")
    assert call(*base, "--style", tmp_path / "arbitrary", "--reference", tmp_path / "style.png").exit_code == 0
    assert Image.open(tmp_path / "out.png").tobytes() == arbitrary(content, style=style).tobytes()
    shares = ("--reference", f"{tmp_path / 'style.png'}=1", "--reference", f"{tmp_path / 'content.png'}=0.5")
    assert call(*base, "--style", tmp_path / "arbitrary", *shares).exit_code == 0
    between = arbitrary(content, style=[(style, 1), (content, 0.5)])
    assert Image.open(tmp_path / "out.png").tobytes() == between.tobytes()
    folder = ("batch", tmp_path / "content.png", "--output", tmp_path / "many", "--style", tmp_path / "arbitrary")
    assert call(*folder, *shares).exit_code == 0
    assert Image.open(tmp_path / "many" / "content-styled.png").tobytes() == between.tobytes()
    assert call(*base, "--style", tmp_path / "several", "--reference", "2").exit_code == 0
    assert Image.open(tmp_path / "out.png").tobytes() == several(content, style=2).tobytes()
    assert call(*base, "--style", tmp_path / "several", "--reference", "1,0,3").exit_code == 0
    assert Image.open(tmp_path / "out.png").tobytes() == several(content, style=[1, 0, 3]).tobytes()
    made = call("generate", "--style", tmp_path / "noisy", "-o", tmp_path / "made", "-n", 3, "--seed", 7)
    assert made.exit_code == 0
    files = sorted((tmp_path / "made").iterdir())
    assert made.output.split() == [str(f) for f in files] and len(files) == 3
    for file, expected in zip(files, noisy.generate(3, seed=7), strict=True):
        assert images.read(file).rgb.tobytes() == expected.tobytes()


def test_the_square_in_the_middle():
    array = np.zeros((8, 20, 3), np.uint8)
    array[:, 6:14] = 255
    square = images.square(images.read(array), 8)
    assert square.shape == (1, 3, 8, 8) and torch.equal(square, torch.ones(1, 3, 8, 8))
    smaller = images.square(images.read(np.array(picture(50, 30))), 16)
    assert smaller.shape == (1, 3, 16, 16) and smaller.abs().max() <= 1 and smaller.std() > 0.05


def test_two_pictures_are_inverted_and_mixed(tmp_path):
    torch.manual_seed(0)
    generator = StyleGAN2Generator(size=16, width=2, noise_size=8, style_size=8, mapping_layers=2).eval()
    generator.save_pretrained(tmp_path / "style")
    for name, seed in (("a", 1), ("b", 2)):
        StylePipeline(generator).generate(1, seed=seed, grain="kept")[0].save(tmp_path / f"{name}.png")
    pictures = [str(tmp_path / f"{name}.png") for name in "ab"]
    options = ["--style", str(tmp_path / "style"), "-o", str(tmp_path / "out"), "--steps", "40", "--device", "cpu"]
    result = CliRunner().invoke(cli.cli, ["invert", *pictures, *options, "--from-scale", "8", "--between", "3"])
    assert result.exit_code == 0, result.output
    names = ["0-a", "1-b", "between-0", "between-1", "between-2", "mixed"]
    assert sorted(f.name for f in (tmp_path / "out").iterdir()) == sorted(
        [*(f"{n}.png" for n in names), "codes.safetensors"]
    )
    made = {n: (tmp_path / "out" / f"{n}.png").read_bytes() for n in names}
    assert made["between-0"] == made["0-a"] and made["between-2"] == made["1-b"]
    assert len({made["mixed"], made["0-a"], made["1-b"], made["between-1"]}) == 4
    assert result.output.count("PSNR") == 2
    errors = [
        (["invert", pictures[0], *options, "--between", "3"], "of two pictures"),
        (["invert", *pictures, *options, "--from-scale", "5"], "no such scale"),
    ]
    for arguments, sentence in errors:
        with pytest.raises(ConfigError, match=sentence):
            CliRunner().invoke(cli.cli, arguments, catch_exceptions=False)
    StylePipeline(ResnetGenerator(width=2, blocks=0)).save_pretrained(tmp_path / "style")
    with pytest.raises(ConfigError, match="have codes"):
        CliRunner().invoke(cli.cli, ["invert", *pictures, *options], catch_exceptions=False)
