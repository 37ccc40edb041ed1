"""The command line: what a person types, and what they read when it goes wrong."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest
import test_convert
import torch
from PIL import Image

from styleforge import ResnetGenerator, StylePipeline, bundled_styles, configs, images, methods, survey
from styleforge.adaptation import Adaptation
from styleforge.cli import cli, learn, main
from styleforge.cli.options import reference_of
from styleforge.control import find_region
from styleforge.models import AnimeGANGenerator
from styleforge.runs import TrainConfig


@pytest.fixture(scope="module")
def style(tmp_path_factory):
    return str(ResnetGenerator(width=4, blocks=1).save_pretrained(tmp_path_factory.mktemp("styles") / "tiny"))


@pytest.fixture
def photo(tmp_path):
    array = np.random.default_rng(0).integers(0, 255, (20, 31, 3), np.uint8)
    Image.fromarray(array).save(tmp_path / "photo.png")
    return tmp_path / "photo.png"


@pytest.fixture
def call(capsys, monkeypatch):
    """Run the command line in this process: (exit code, standard output, standard error)."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["styleforge", *map(str, arguments)])
        try:
            main()
            code = 0
        except SystemExit as error:
            code = error.code or 0
        out, err = capsys.readouterr()
        return code, out, err

    return run


def test_stylize_beside_the_picture(call, style, photo):
    code, out, _ = call("stylize", photo, "-s", style)
    assert code == 0
    result = photo.with_name("photo-styled.png")
    assert str(result) in out and " s)" in out
    expected = StylePipeline.from_pretrained(style)(photo)
    assert Image.open(result).tobytes() == expected.tobytes()


def test_stylize_to_a_file_or_a_folder(call, style, photo, tmp_path):
    assert call("stylize", photo, "-s", style, "-o", tmp_path / "new" / "x.webp")[0] == 0
    assert Image.open(tmp_path / "new" / "x.webp").format == "WEBP"
    assert call("stylize", photo, photo, "-s", style, "-o", tmp_path / "many")[0] == 0
    assert [p.name for p in (tmp_path / "many").glob("[!.]*")] == ["photo-styled.png"]


@pytest.mark.parametrize("more", [[], ["--stream"]])
def test_two_pictures_never_become_one_file_beside_them(call, style, photo, more):
    Image.open(photo).save(photo.with_suffix(".tif"))
    code, _, err = call("stylize", photo, photo.with_suffix(".tif"), "-s", style, *more)
    assert code == 1 and "Two pictures would become one file" in err
    assert not photo.with_name("photo-styled.png").exists()


@pytest.mark.parametrize(
    ("texts", "reference"),
    [
        ([], None),
        (["a.jpg"], "a.jpg"),
        (["width=512"], "width=512"),
        (["https://x/i.jpg?w=512"], "https://x/i.jpg?w=512"),
        (["2"], 2),
        (["0.7,0.3"], [0.7, 0.3]),
        (["a=b.jpg=0.7", "b.jpg"], [("a=b.jpg", 0.7), ("b.jpg", 1.0)]),
        (
            ["https://x/i?a=1&w=512", "https://x/i?w=512=0.7", "https://x/i.jpg=0.5"],
            [("https://x/i?a=1&w=512", 1.0), ("https://x/i?w=512", 0.7), ("https://x/i.jpg", 0.5)],
        ),
    ],
)
def test_references_and_their_shares(texts, reference):
    assert reference_of(texts) == reference


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are Unicode elsewhere")
def test_names_that_are_no_utf8_are_printed(style, photo, tmp_path):
    name = photo.rename(tmp_path / os.fsdecode(b"caf\xe9.png"))
    environment = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    command = [sys.executable, "-m", "styleforge", "stylize", name, "-s", style]
    for more in ([], ["-o", tmp_path / "out"]):
        out = subprocess.run([*command, *more], capture_output=True, text=True, env=environment, check=True).stdout
        assert r"caf\udce9-styled.png" in out


def test_strength_reaches_the_pipeline(call, style, photo, tmp_path):
    assert call("stylize", photo, "-s", style, "-o", tmp_path / "same.png", "--strength", "0")[0] == 0
    assert Image.open(tmp_path / "same.png").tobytes() == Image.open(photo).tobytes()


def test_one_broken_picture_does_not_stop_the_others(call, style, photo, tmp_path):
    (tmp_path / "rotten.jpg").write_bytes(b"no picture")
    code, out, err = call("stylize", tmp_path / "rotten.jpg", photo, "-s", style, "-o", tmp_path / "out")
    assert code == 1
    assert "photo-styled.png" in out
    assert "rotten.jpg" in err and "Traceback" not in err


def test_several_pictures_into_one_file(call, style, photo, tmp_path):
    for pictures in ([photo, photo], [tmp_path]):
        code, _, err = call("stylize", *pictures, "-s", style, "-o", tmp_path / "x.png")
        assert code == 1 and "One file" in err


def test_a_picture_is_not_replaced_by_its_own_result_unasked(call, style, photo):
    before = photo.read_bytes()
    code, _, err = call("stylize", photo, "-s", style, "-o", photo)
    assert code == 1 and "its own result" in err and photo.read_bytes() == before
    assert call("stylize", photo, "-s", style, "-o", photo, "--overwrite")[0] == 0 and photo.read_bytes() != before


def test_a_folder_may_have_a_dot_in_its_name(call, style, photo, tmp_path):
    (tmp_path / "there.v1").mkdir()
    for pictures, folder in (([photo, photo], "there.v1"), ([photo, photo], "new.v1"), ([tmp_path], "new.v2")):
        assert call("stylize", *pictures, "-s", style, "-o", tmp_path / folder)[0] == 0
        assert (tmp_path / folder / "photo-styled.png").exists()


@pytest.mark.skipif(not bundled_styles(), reason="no style is bundled yet")
def test_without_style_it_takes_the_bundled_one(call, photo):
    assert call("stylize", photo, "--offline")[0] == 0
    assert Image.open(photo.with_name("photo-styled.png")).size == (31, 20)


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["stylize", "PHOTO", "-s", "no-such-style"], 1, "No such style"),
        (["stylize", "PHOTO", "-s", "STYLE", "--strength", "2"], 1, "0 to 1"),
        (["stylize", "nowhere.png", "-s", "no-such-style", "-o", "x.gif"], 1, "Cannot save to this suffix"),
        (["stylize", "PHOTO", "-s", "STYLE", "--max-memory", "nan"], 1, "max_memory cannot be used"),
        (["stylize", "PHOTO", "-s", "STYLE", "--feather", "nan"], 1, "There is no mask"),
        (["stylize", "PHOTO", "-s", "STYLE", "--mask", "sky"], 1, "--segmenter"),
        (["stylize", "PHOTO", "-s", "STYLE", "--device", "gpu"], 1, "device cannot be used"),
        (["stylize"], 2, "PICTURES"),
        (["train", "cyclgan"], 2, "Did you mean 'cyclegan'"),
        (["train", "cyclegan"], 2, "--source"),
        (["train", "cyclegan", "--source", "x", "--target", "y", "--output", "z", "--blocks", "1000000"], 1, "0 to 64"),
        (["train", "cyclegan", "--source", "x", "--target", "y", "--output", "z", "--zoom", "a"], 2, "list of numbers"),
        (["train", "cyclegan", "--source", "x", "--target", "y", "--output", "z"], 1, "No such folder"),
        (["push", "nowhere", "me/x"], 1, "No such folder"),
        (["export", "STYLE", "-o", "x.txt"], 1, "ends in .onnx"),
        (["export", "STYLE", "-o", "PHOTO/x.onnx"], 1, "photo.png). Check the path"),
        (["explain", "PHOTO", "-s", "STYLE", "-o", "PHOTO"], 1, "Check the path"),
        (["nonsense"], 2, "nonsense"),
    ],
)
def test_mistakes_are_sentences(call, style, photo, tmp_path, monkeypatch, arguments, code, words):
    monkeypatch.chdir(tmp_path)
    given = [a.replace("PHOTO", str(photo)).replace("STYLE", str(style)) for a in arguments]
    got, _, err = call(*given)
    assert got == code
    assert words in err and "Traceback" not in err
    assert not (tmp_path / "z").exists()


@pytest.mark.parametrize(
    "command", ["batch a.png -o x", "video a.mp4 b.mp4", "generate -o x", "invert a.png -o x", "explain a.png -o x"]
)
def test_a_style_that_must_be_named_is_asked_for(call, command):
    code, _, err = call(*command.split())
    assert code == 2 and "Missing option '--style'" in err


def test_train_from_two_folders(call, tmp_path):
    for domain in "ab":
        (tmp_path / domain).mkdir()
        for i in range(3):
            Image.new("RGB", (40, 40), (i * 50, 100, 50)).save(tmp_path / domain / f"{i}.png")
    options = [
        "--size",
        "32",
        "--steps",
        "2",
        "--zoom",
        "1,1.5",
        "--no-flip",
        "--width",
        "4",
        "--blocks",
        "1",
        "--discriminator-width",
        "4",
        "--lr",
        "1e-3",
    ]
    folders = ["--source", tmp_path / "a", "--target", tmp_path / "b", "--output", tmp_path / "run"]
    code, out, _ = call("train", "cyclegan", *folders, *options)
    assert code == 0
    assert out.strip() == str(tmp_path / "run" / "style")
    config = json.loads((tmp_path / "run" / "train.json").read_text())
    assert config["flip"] is False and config["zoom"] == [1.0, 1.5] and config["steps"] == 2
    assert config["settings"] == {"width": 4, "blocks": 1, "discriminator_width": 4, "lr": 1e-3}
    assert call("stylize", tmp_path / "a" / "0.png", "-s", tmp_path / "run" / "style")[0] == 0


def test_list_options_reach_the_method(call, tmp_path):
    for domain in "ab":
        (tmp_path / domain).mkdir()
        Image.new("RGB", (40, 40), (100, 100, 50)).save(tmp_path / domain / "0.png")
    options = [
        "--size",
        "32",
        "--steps",
        "1",
        "--width",
        "4",
        "--blocks",
        "2",
        "--discriminator-width",
        "4",
        "--discriminator-layers",
        "1",
    ]
    folders = ["--source", tmp_path / "a", "--target", tmp_path / "b", "--output", tmp_path / "run"]
    assert call("train", "fastcut", *folders, *options, "--nce-blocks", "0,1", "--patches", "8")[0] == 0
    settings = json.loads((tmp_path / "run" / "train.json").read_text())["settings"]
    assert settings["nce_blocks"] == [0, 1]
    assert "nce" not in settings  # defaults of the method are not repeated


def test_every_setting_of_a_method_is_an_option(call):
    from styleforge import methods

    for method in methods.METHODS:
        code, out, _ = call("train", method, "--help")
        assert code == 0
        for key in methods.settings(method):
            assert f"--{key.replace('_', '-')}" in out
        assert ":class:" not in out and ":func:" not in out


def test_styles_lists_what_is_bundled(call):
    rows = json.loads(call("styles", "--json")[1])
    assert [row["name"] for row in rows] == bundled_styles()
    assert all(0 < row["bytes"] <= 12e6 for row in rows)
    text = call("styles")[1]
    assert all(row["name"] in text for row in rows)


def test_push_a_run_and_pull_it(call, style, hub, tmp_path):
    (tmp_path / "run").mkdir()
    shutil.copytree(style, tmp_path / "run" / "style")
    code, out, err = call("push", tmp_path / "run", "tester/from-cli", "--license", "mit")
    assert code == 0, err
    assert "tester/from-cli" in out and "Nothing has changed" not in err
    again = call("push", tmp_path / "run", "tester/from-cli", "--license", "mit")
    assert again[:2] == (0, out) and "Nothing has changed" in again[2]
    assert StylePipeline.from_pretrained("tester/from-cli").model.config["width"] == 4


def test_as_a_module_and_version():
    for arguments in (["--version"], ["--help"]):
        done = subprocess.run(
            [sys.executable, "-m", "styleforge", *arguments], capture_output=True, text=True, check=True
        )
        assert "styleforge" in done.stdout


def test_help_of_every_command_reads_well(call):
    for name, command in cli.commands.items():
        code, out, _ = call(name, "--help")
        assert code == 0 and len(out.splitlines()) >= 4
        assert command.help


@pytest.fixture
def trained(call, tmp_path):
    """A tiny run: its folder, and that of its pictures."""
    for domain in "ab":
        (tmp_path / domain).mkdir()
        for i in range(3):
            array = np.random.default_rng(i).integers(0, 255, (40, 40, 3), np.uint8)
            Image.fromarray(array).save(tmp_path / domain / f"{i}.png")
    small = [
        "--size",
        "32",
        "--steps",
        "2",
        "--width",
        "4",
        "--blocks",
        "1",
        "--discriminator-width",
        "4",
        "--discriminator-layers",
        "1",
    ]
    folders = ["--source", tmp_path / "a", "--target", tmp_path / "b", "--output", tmp_path / "run"]
    assert call("train", "cyclegan", *folders, *small)[0] == 0
    return tmp_path / "run", tmp_path / "a"


def test_the_folder_of_a_run_stands_for_its_style(call, trained, photo, tmp_path):
    run, _ = trained
    for place, subfolder in ((run, ""), (run, "reverse"), (run, "style"), (run / "style", "reverse")):
        assert call("stylize", photo, "-s", place, "--subfolder", subfolder)[0] == 0
        own = run / "style" / ("reverse" if subfolder == "reverse" else "")
        made = np.array(Image.open(photo.with_name("photo-styled.png")))
        assert np.array_equal(made, np.array(StylePipeline.from_pretrained(own)(photo)))
    code, out, err = call("explain", photo, "-s", run, "-o", tmp_path / "why")
    assert code == 0 and "real" in out, err


def test_a_configuration_file_repeats_a_run(call, trained, tmp_path):
    run, _ = trained
    for words in (["--config", run / "train.json"], [f"--config={run / 'train.json'}"]):
        code, out, _ = call("train", *words, "--output", tmp_path / f"{len(words)}", "--steps", "3", "--cycle", "5")
        assert code == 0 and out.strip() == str(tmp_path / f"{len(words)}" / "style")
        before, now = (json.loads((f / "train.json").read_text()) for f in (run, tmp_path / f"{len(words)}"))
        assert now["settings"] == {**before["settings"], "cycle": 5.0} and now["steps"] == 3
        same = set(before) - {"settings", "steps", "output"}
        assert {k: now[k] for k in same} == {k: before[k] for k in same}
    code, _, err = call("train", "--steps", "1", "--output", tmp_path / "last", "--config", run / "train.json")
    assert code == 0 and (tmp_path / "last" / "style").is_dir(), err
    code, _, err = call("train", "cut", "--config", run / "train.json", "--output", tmp_path / "other")
    assert code == 1 and "of another method" in err and "Leave out the word cut" in err
    code, _, err = call("train", "--config", tmp_path / "nowhere.json")
    assert code == 1 and "cannot be read" in err and "Traceback" not in err


def test_adapt_goes_on_from_a_run(call, trained, tmp_path):
    run, pictures = trained
    words = ["--source", pictures, "--target", pictures, "--output", tmp_path / "new", "--steps", "2"]
    code, _, err = call("adapt", run, *words, "--lora", "2", "--lr-scale", "0.5")
    assert code == 0, err
    told = json.loads((tmp_path / "new" / "train.json").read_text())
    assert told["method"] == "cyclegan" and told["settings"]["width"] == 4  # nobody had to say it again
    assert told["adapt"] == {"base": str(run), "revision": None, "lora": 2, "lr_scale": 0.5}
    assert (tmp_path / "new" / "style" / "adapter" / "adapter.safetensors").exists()
    assert (tmp_path / "new" / "style" / "training" / "networks.safetensors").exists()
    code, _, err = call("train", "--config", tmp_path / "new" / "train.json", "--output", tmp_path / "again")
    assert code == 0 and json.loads((tmp_path / "again" / "train.json").read_text())["adapt"] == told["adapt"]
    code, _, err = call("adapt", tmp_path / "nowhere", *words)
    assert code == 1 and "nowhere" in err and "Traceback" not in err


def test_data_check_says_what_is_wrong(call, trained, tmp_path):
    _, pictures = trained
    code, out, _ = call("data", "check", pictures, "--size", "32")
    assert code == 0 and "3 pictures" in out
    (pictures / "9.png").write_bytes(b"no picture")
    code, out, _ = call("data", "check", pictures, tmp_path / "b", "--json")
    found = json.loads(out)
    kinds = {row["kind"] for row in found["rows"]}
    assert code == 1 and not found["ok"] and {"rotten", "tiny"} <= kinds


def test_report_writes_the_page(call, trained):
    run, _ = trained
    (run / "report.html").unlink()
    code, out, _ = call("report", run)
    assert code == 0 and out.strip() == str(run / "report.html") and "cyclegan" in (run / "report.html").read_text()


@pytest.mark.slow
def test_fit_says_its_plan_and_trains(call, trained, tmp_path):
    run, _ = trained
    words = ["--config", run / "train.json", "--output", tmp_path / "fit", "--batch-size", "2", "--fit", "auto"]
    code, _, err = call("train", *words)
    assert code == 0 and "tried 1 at once, 32 px" in err and "Plan: 2 pictures of 32 px a step." in err
    assert json.loads((tmp_path / "fit" / "train.json").read_text())["accumulate"] == 1


@pytest.mark.parametrize("method", methods.METHODS)
def test_options_of_run_method_and_adaptation_have_different_names(method):
    run, settings = (set(configs.schema(c.__init__)) for c in (TrainConfig, methods.find(method)))
    assert run & settings <= {"size"}
    assert run & set(configs.schema(Adaptation.__init__)) == set()


def test_many_pictures_go_into_a_folder_and_are_done_once(call, style, trained, tmp_path):
    _, pictures = trained
    (pictures / "sub").mkdir()
    Image.new("RGB", (9, 9)).save(pictures / "sub" / "x.jpg")
    for command in (["stylize"], ["batch"]):
        out = tmp_path / command[0]
        code, _, err = call(*command, pictures, "-s", style, "-o", out, "--workers", "2")
        assert code == 0 and (out / "sub" / "x-styled.png").exists() and "4 styled, 0 done before" in err
        for again in ("stylize", "batch"):
            assert "0 styled, 4 done before" in call(again, pictures, "-s", style, "-o", out)[2]
    (pictures / "9.png").write_bytes(b"no picture")
    code, _, err = call("stylize", pictures, "-s", style, "-o", tmp_path / "stylize")
    assert code == 1 and "9.png" in err and "1 failed" in err and "Traceback" not in err
    code, _, err = call("stylize", pictures, "-s", style)
    assert code == 1 and "--output" in err


def test_what_a_full_disk_has_taken_is_listed(call, style, photo, tmp_path, monkeypatch):
    write = images.write_bytes

    def full(path, data):
        if "photo" in path.name:
            return write(path, data)
        raise OSError(errno.ENOSPC, "No space left on device")

    shutil.copy(photo, tmp_path / "second.png")
    monkeypatch.setattr(images, "write_bytes", full)
    code, out, err = call("batch", photo, tmp_path / "second.png", "-s", style, "-o", tmp_path / "out", "--json")
    assert code == 1 and "takes no more" in err
    assert [(item["source"], item["state"]) for item in json.loads(out)] == [(str(photo), "done")]


def test_control_from_the_command_line(call, style, photo, tmp_path):
    mask = np.zeros((20, 31), np.uint8)
    mask[:, 10:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    words = ["--mask", tmp_path / "mask.png", "--preserve-color", "luma", "--strength", "1.2", "-o", tmp_path / "x.png"]
    assert call("stylize", photo, "-s", style, *words)[0] == 0
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (photo, tmp_path / "x.png"))
    assert np.array_equal(before[mask == 0], after[mask == 0]) and not np.array_equal(before, after)


def test_regions_have_their_styles(call, style, photo, tmp_path):
    other = str(ResnetGenerator(width=4, blocks=0).save_pretrained(tmp_path / "other"))
    left, right = np.zeros((2, 20, 31), bool)
    left[:, :9], right[:, 20:] = True, True
    for name, mask in (("left", left), ("right", right)):
        Image.fromarray(mask).save(tmp_path / f"{name}.png")
    where = ["--region", f"{tmp_path / 'left.png'}={style}", "--region", f"{tmp_path / 'right.png'}={other}"]
    assert call("stylize", photo, *where, "-o", tmp_path / "both.png")[0] == 0
    for name, mask in (("left", style), ("right", other)):
        assert call("stylize", photo, "-s", mask, "-o", tmp_path / f"{name}-styled.png")[0] == 0
    before, both, a, b = (
        np.asarray(Image.open(tmp_path / name).convert("RGB"))
        for name in ("photo.png", "both.png", "left-styled.png", "right-styled.png")
    )
    assert np.array_equal(both, np.where(left[..., None], a, np.where(right[..., None], b, before)))
    assert not np.array_equal(a, before) and not np.array_equal(a, b)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--region", "sky"], "sky=STYLE or mask.png=STYLE"),
        (["--region", "sky=STYLE", "-s", "STYLE"], "Leave out --style"),
        (["--region", "no-mask.png=STYLE"], "no-mask.png"),
        (["--region", "sky=STYLE", "-o", "FOLDER"], "one picture"),
    ],
)
def test_regions_that_cannot_be(call, style, photo, tmp_path, arguments, words):
    given = [text.replace("STYLE", style).replace("FOLDER", str(tmp_path)) for text in arguments]
    code, _, err = call("stylize", photo, *given)
    assert code == 1 and words in err and "Traceback" not in err and len(list(tmp_path.iterdir())) == 1


@pytest.mark.slow
def test_regions_are_found_by_a_model_of_transformers(call, style, photo, tmp_path):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    names = {0: "sky", 1: "sea", 2: "sand"}
    sizes = {"hidden_sizes": [8] * 4, "depths": [1] * 4, "num_attention_heads": [1] * 4, "decoder_hidden_size": 8}
    config = transformers.SegformerConfig(id2label=names, label2id={v: k for k, v in names.items()}, **sizes)
    transformers.SegformerForSemanticSegmentation(config).save_pretrained(tmp_path / "segmenter")
    transformers.SegformerImageProcessor(size={"height": 32, "width": 32}).save_pretrained(tmp_path / "segmenter")
    given = ["--segmenter", tmp_path / "segmenter", "-o", tmp_path / "x.png"]
    code, _, err = call("stylize", photo, "--region", f"sea={style}", *given)
    assert code == 0, err
    sea = find_region(photo, "sea", str(tmp_path / "segmenter"))[0, 0].bool().numpy()
    assert 0 < sea.mean() < 1
    before, after = (np.asarray(Image.open(p).convert("RGB")) for p in (photo, tmp_path / "x.png"))
    assert np.array_equal((before != after).any(2) & ~sea, np.zeros_like(sea))
    assert (before != after).any(2)[sea].mean() > 0.9
    code, _, err = call("stylize", photo, "--region", f"see={style}", *given)
    assert code == 1 and "sky" in err and "background" in err


def test_explain_writes_maps(call, style, photo, tmp_path):
    code, out, _ = call("explain", photo, "-s", style, "-o", tmp_path / "why")
    assert code == 0 and "changed_color" in out and len(list((tmp_path / "why").iterdir())) >= 3


def test_what_was_begun_goes_when_the_process_is_stopped(call, style, photo, tmp_path, monkeypatch):
    pytest.importorskip("pyvips")
    monkeypatch.setattr(StylePipeline, "paint", lambda *_, **__: os.kill(os.getpid(), signal.SIGTERM))
    before = signal.signal(signal.SIGTERM, lambda *_: pytest.fail("nobody listens"))
    try:
        code, *_ = call("stylize", photo, "-s", style, "--stream", "-o", tmp_path / "out" / "x.png")
    finally:
        signal.signal(signal.SIGTERM, before)
    assert code == 143 and not list((tmp_path / "out").iterdir())


def test_export_writes_a_graph_or_says_what_is_missing(call, style, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    code, _, err = call("export", style, "-o", tmp_path / "x.onnx")
    assert code == 1 and "styleforge[export]" in err and not (tmp_path / "x.onnx").exists()


def test_a_strangers_checkpoint_becomes_a_style(call, photo, tmp_path):
    network = AnimeGANGenerator(width=4)
    config = {"width": 4}
    foreign = test_convert.foreign("animegan2", network, config)
    torch.save({f"module.{name}": tensor for name, tensor in foreign.items()}, tmp_path / "latest_net_G.pth")
    code, out, err = call("convert", tmp_path / "latest_net_G.pth", "-o", tmp_path / "style", "--license", "mit")
    assert code == 0 and "generator" in out, err
    assert call("stylize", photo, "-s", tmp_path / "style")[0] == 0
    code, _, err = call("convert", tmp_path / "latest_net_G.pth", "-o", tmp_path / "style")
    assert code == 1 and "Choose another" in err


def test_a_card_is_written_checked_and_needed_for_a_push(call, style, photo, hub, tmp_path):
    place = tmp_path / "mine"
    shutil.copytree(style, place)
    code, _, err = call("push", place, "tester/no-license")
    assert code == 1 and "license" in err and "tester/no-license" not in hub.repos
    code, out, _ = call("card", place, "--license", "cc0-1.0", "--picture", photo, "--limits", "Everything.")
    assert code == 0 and out.strip() == str(place / "README.md")
    assert "Everything." in (place / "README.md").read_text()
    assert call("card", place, "--check")[0] == 0
    code, out, _ = call("card", place, "--check", "--json")
    assert code == 0 and not [problem for problem in json.loads(out) if problem["severity"] == "error"]
    (place / "README.md").write_text("---\nlicense: [\n---\n# x\n")
    code, out, _ = call("card", place, "--check")
    assert code == 1 and "line" in out


def test_a_dry_push_says_what_would_happen(call, style, hub):
    code, out, _ = call("push", style, "tester/dry", "--license", "mit", "--dry-run")
    assert code == 0 and "created" in out and "model.safetensors" in out and "would go to tester/dry" in out
    code, out, _ = call("push", style, "tester/dry", "--license", "mit", "--dry-run", "--json")
    assert code == 0 and json.loads(out)["dry_run"] and "tester/dry" not in hub.repos


def test_a_push_says_what_it_leaves_here(call, style, hub, tmp_path):
    place = tmp_path / "mine"
    shutil.copytree(style, place)
    code, _, err = call("push", place, "tester/mine", "--license", "mit", "--dry-run")
    assert code == 0 and "Left here" not in err
    for name in ("samples/photo (1).png", "notes.txt"):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"x")
    for options in (["--dry-run"], []):
        code, _, err = call("push", place, "tester/mine", "--license", "mit", *options)
        assert code == 0 and "notes.txt, samples/photo (1).png" in err
    assert "notes.txt" not in hub.files("tester/mine")


def test_styles_can_be_searched(call):
    code, out, _ = call("styles", "--search", "MONET", "--json")
    assert code == 0 and [row["name"] for row in json.loads(out)] == ["fastcut-monet", "mini-monet"]
    assert call("styles", "--search", "nothing-like-it") == (0, "", "")


def test_evaluate_writes_figures_and_a_page(call, style, trained, tmp_path):
    _, pictures = trained
    words = ["--source", pictures, "--target", pictures, "-o", tmp_path / "out", "--size", "64"]
    other = shutil.copytree(style, tmp_path / "a-style-with-a-long-name")
    code, out, err = call("evaluate", style, *words, "--against", other)
    assert code == 0 and "edges" in out and "color transfer" in out, err
    assert other.name in out and len({len(line) for line in out.splitlines()[:-1]}) == 1, out  # in columns
    assert (tmp_path / "out" / "report.html").exists()
    assert call("evaluate", style, *words, "--size", "63")[0] == 2
    code, out, _ = call("evaluate", style, *words, "--json")
    assert code == 0 and json.loads(out)["protocol"]["n_source"] == 3


def test_figures_stand_in_columns_however_long_their_names_are():
    figure = {"ArtFID-type (squeezenet fire7 x fire9)": {"value": 729.4}}
    head, line = learn._table([("style", figure), ("fastcut-impressionist", {})])
    assert head.split() == ["style", "fastcut-impressionist"] and line.endswith("-") and " 729 " in line
    assert len(head) == len(line) and head.index("style") + len("style") == line.index("729") + len("729")


def test_evaluate_leaves_the_page_of_a_run_alone(call, trained):
    run, pictures = trained
    before = (run / "report.html").read_text()
    code, out, err = call("evaluate", run, "--source", pictures, "--target", pictures, "-o", run, "--size", "64")
    assert code == 0 and out.endswith(f"{run / 'evaluation.html'}\n"), err
    assert (run / "report.html").read_text() == before and "color transfer" in (run / "evaluation.html").read_text()


def test_a_survey_from_preparing_to_results(call, style, trained, tmp_path):
    _, pictures = trained
    study = tmp_path / "study"
    code, out, err = call("survey", "prepare", f"a={style}", "b=fastcut-monet", "--images", pictures, "-o", study)
    assert code == 0 and "survey serve" in out, err
    code, out, _ = call("survey", "results", study, "--json")
    assert code == 0 and json.loads(out)
    code, out, _ = call("survey", "results", study, "--csv")
    assert code == 0 and len(out.splitlines()) == 1
    for both in (("--csv", "--json"), ("--votes", study / "study.json", "--database", study / "votes.sqlite")):
        code, _, err = call("survey", "results", study, *both)
        assert code == 2 and "not both" in err
    code, _, err = call("survey", "results", study, "--database", tmp_path / "typo.sqlite")
    assert code == 1 and "The votes cannot be read" in err and not list(tmp_path.rglob("*.sqlite"))


def test_votes_are_written_as_they_are_read_whatever_the_terminal_has(call, monkeypatch, tmp_path):
    vote = survey.Vote("s", "t", 0, "Müller, 雪", ("a", "b"), None, "a", 1.0)
    monkeypatch.setattr(survey, "load", lambda folder: None)
    monkeypatch.setattr(survey, "read_database", lambda *given: [vote])
    with open(tmp_path / "votes.csv", "w", encoding="cp1252", newline="\r\n") as file:  # as Windows redirects it
        monkeypatch.setattr(sys, "stdout", file)
        assert call("survey", "results", tmp_path, "--csv")[0] == 0
    assert survey.read_csv(tmp_path / "votes.csv") == [vote]


@pytest.mark.parametrize("command", [("demo",), ("survey", "serve", "study")], ids=["demo", "survey"])
def test_a_port_that_no_machine_has(call, command):
    code, _, err = call(*command, "--port", "99999")
    assert code == 2 and "1<=x<=65535" in err


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_shells_complete(call, shell):
    code, out, _ = call("completion", shell)
    assert code == 0 and "_STYLEFORGE_COMPLETE" in out


def test_the_doctor_reports(call):
    code, out, _ = call("doctor", "--json")
    topics = {finding["topic"]: finding["state"] for finding in json.loads(out)}
    assert topics["torch"] in ("ok", "note") and code == int("wrong" in topics.values())
