"""The page and its API: what comes out is the pipeline's, whatever comes in gets an answer, and nothing stays."""

import ast
import io
import json
import logging
import os
import struct
import subprocess
import sys
import tempfile
import tomllib
import zipfile
import zlib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from PIL import Image

from styleforge import StylePipeline
from styleforge.errors import ConfigError, DataError, ImageFormatRefused, ImageTooLarge, MissingExtra, RepoError
from styleforge.models import MicroASTGenerator, ResnetGenerator, TransformerNet

ROOT = Path(__file__).parents[1]
SPACE = ROOT / "spaces" / "styleforge-demo"
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"

gradio = pytest.importorskip("gradio", reason="the page needs gradio: pip install '.[demo]'")
gradio_client = pytest.importorskip("gradio_client")
httpx = pytest.importorskip("httpx")

from gradio import processing_utils, route_utils  # noqa: E402

from styleforge import demo  # noqa: E402
from styleforge.demo import policy as rules  # noqa: E402
from styleforge.demo.face import Face  # noqa: E402
from styleforge.demo.scene import LIGHTS, draw_scene  # noqa: E402
from styleforge.demo.styles import Style, Styles  # noqa: E402

POLICY = demo.Policy(upload_bytes=2**20, batch=3)


@pytest.fixture(scope="module", autouse=True)
def uploads(tmp_path_factory):
    """Where the page keeps files, and nobody else."""
    folder = tmp_path_factory.mktemp("uploads")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(folder))
        yield folder


@pytest.fixture(scope="module")
def styles(tmp_path_factory):
    """Small ones, by what they take."""
    folder = tmp_path_factory.mktemp("styles")
    ResnetGenerator(width=2, blocks=0).save_pretrained(folder / "plain" / "style")
    MicroASTGenerator(width=4).save_pretrained(folder / "any")
    TransformerNet(width=2, blocks=0, styles=3).save_pretrained(folder / "three")
    return {"plain": folder / "plain" / "style", "any": folder / "any", "three": folder / "three"}


@pytest.fixture(scope="module")
def page(styles, uploads):
    served = demo.launch("127.0.0.1", styles=map(str, styles.values()), policy=POLICY, wait=False)
    yield served
    served.close()


@pytest.fixture(scope="module")
def client(page):
    with tempfile.TemporaryDirectory() as folder:
        client = gradio_client.Client(page.local_url, verbose=False, analytics_enabled=False, download_files=folder)
        yield client
        client.close()


@pytest.fixture
def photo(tmp_path):
    """With transparency, and of a size that no network takes as it is."""
    image = draw_scene("evening", (91, 66))
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    image.save(tmp_path / "my photo.png")
    return tmp_path / "my photo.png"


def give(path):
    return gradio_client.handle_file(str(path))


def pixels(path):
    with Image.open(path) as image:
        return np.array(image)


def call(page, name, data):
    """What the server answers to data as they are: the client would upload what looks like a file."""
    url = f"{page.local_url}gradio_api/call/{name}"
    answer = httpx.post(url, json={"data": data})
    if answer.status_code != 200:
        return answer.text
    events = httpx.get(f"{url}/{answer.json()['event_id']}", timeout=30).text.strip()
    return events.rpartition("event: ")[2].replace("\ndata", "")


def file(path, **more):
    return {"path": str(path), "meta": {"_type": "gradio.FileData"}, **more}


# -- what comes out --


def test_the_download_is_the_pipelines_output_bit_for_bit(client, styles, photo):
    (before, after), png = client.predict(give(photo), "plain", api_name="/stylize")
    expected = StylePipeline.from_pretrained(styles["plain"])(photo)
    assert Path(png).name == "my photo-plain.png"
    assert np.array_equal(pixels(png), np.array(expected)) and expected.mode == "RGBA"
    assert np.array_equal(pixels(before), pixels(photo)) and np.array_equal(pixels(after), pixels(png))


def test_a_turned_jpeg_comes_out_upright(client, styles, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    draw_scene("lake", (64, 40)).save(tmp_path / "phone.jpg", exif=exif)
    (before, _), png = client.predict(give(tmp_path / "phone.jpg"), "plain", api_name="/stylize")
    expected = StylePipeline.from_pretrained(styles["plain"])(tmp_path / "phone.jpg")
    assert np.array_equal(pixels(png), np.array(expected)) and expected.size == (40, 64)
    assert pixels(before).shape == (64, 40, 3)


def test_every_setting_reaches_the_pipeline(client, styles, photo, tmp_path):
    layer = np.zeros((33, 46, 4), np.uint8)  # half the size of the picture, as the brush's canvas may be
    layer[5:20, 8:30] = 255, 0, 90, 255
    Image.fromarray(layer).save(tmp_path / "layer.png")
    mask = {"background": None, "layers": [give(tmp_path / "layer.png")], "composite": None}
    settings = {"strength": 0.7, "preserve_color": "luma", "style_scale": 2, "feather": 3}
    _, png = client.predict(give(photo), "plain", mask=mask, **settings, api_name="/stylize")
    pipe = StylePipeline.from_pretrained(styles["plain"])
    expected = np.array(pipe(photo, mask=layer[..., 3], mask_fit=True, **settings))
    assert np.array_equal(pixels(png), expected)
    kept = (expected == pixels(photo)).all(2)
    assert kept[50:].all() and kept[15:30, 20:50].mean() < 0.1


def test_a_mask_has_one_layer_or_none(client, styles, photo):
    plain = np.array(StylePipeline.from_pretrained(styles["plain"])(photo))
    mask = {"background": None, "layers": [], "composite": None}
    _, png = client.predict(give(photo), "plain", mask=mask, api_name="/stylize")
    assert np.array_equal(pixels(png), plain)
    with pytest.raises(gradio_client.exceptions.AppError, match="several layers: found 2; allowed: 1"):
        client.predict(give(photo), "plain", mask=mask | {"layers": [give(photo)] * 2}, api_name="/stylize")


def test_styles_that_take_a_painting_and_styles_with_several(client, styles, photo):
    draw_scene("lake", (64, 64)).save(photo.with_name("painting.png"))
    _, png = client.predict(give(photo), "any", reference=give(photo.with_name("painting.png")), api_name="/stylize")
    expected = StylePipeline.from_pretrained(styles["any"])(photo, style=photo.with_name("painting.png"))
    assert np.array_equal(pixels(png), np.array(expected))
    _, png = client.predict(give(photo), "three", number=2, api_name="/stylize")
    assert np.array_equal(pixels(png), np.array(StylePipeline.from_pretrained(styles["three"])(photo, style=2)))


def test_a_batch_comes_back_as_a_zip_with_what_failed(client, styles, photo, uploads, tmp_path):
    (tmp_path / "broken.png").write_bytes(photo.read_bytes()[:200])
    with zipfile.ZipFile(tmp_path / "more.zip", "w") as zipped:
        zipped.write(photo, "../../deep/my photo.png")
        zipped.writestr("__MACOSX/._my photo.png", b"no picture")
        zipped.writestr("notes.txt", b"no picture either")
    given = [give(photo), give(tmp_path / "broken.png"), give(tmp_path / "more.zip")]
    result, told = client.predict(given, "plain", api_name="/stylize_batch")
    expected = np.array(StylePipeline.from_pretrained(styles["plain"])(photo))
    with zipfile.ZipFile(result) as zipped:
        assert sorted(zipped.namelist()) == ["my photo-2-styled.png", "my photo-styled.png"]
        for name in zipped.namelist():
            assert np.array_equal(np.array(Image.open(io.BytesIO(zipped.read(name)))), expected)
    assert told.startswith("2 painted") and "(broken.png)" in told and str(uploads) not in told


def test_a_film_comes_back_as_a_film(client, tmp_path):
    av = pytest.importorskip("av", reason="films need PyAV: pip install '.[video]'")
    frames = [np.array(draw_scene("lake", (64, 48)))] * 3
    with av.open(str(tmp_path / "in.mp4"), "w") as film:
        stream = film.add_stream("libx264", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in frames:
            film.mux(stream.encode(av.VideoFrame.from_ndarray(frame)))
        film.mux(stream.encode())
    result = client.predict(give(tmp_path / "in.mp4"), "plain", api_name="/stylize_film")
    with av.open(result) as film:
        assert [(frame.width, frame.height) for frame in film.decode(video=0)] == [(64, 48)] * 3
    with pytest.raises(ImageTooLarge, match="4 frames; allowed: 3"):
        rules.check_frames(4, demo.Policy(film_frames=3))


def test_maps_come_with_a_sentence_each(client, photo):
    maps = client.predict(give(photo), "plain", api_name="/explain")
    captions = [one["caption"] for one in maps]
    assert captions[0] == "How much each place changed" and len(captions) == 3
    assert pixels(maps[0]["image"]).shape == (66, 91, 3)


def test_the_api_says_what_there_is(client):
    assert client.predict(api_name="/list_styles") == ["plain", "any", "three"]
    named = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert sorted(named) == ["/explain", "/list_styles", "/stylize", "/stylize_batch", "/stylize_film"]
    for name in ("stylize", "stylize_batch", "stylize_film", "explain", "list_styles"):
        described, arguments, returned = gradio.utils.get_function_description(getattr(Face, name))
        assert described and returned
        assert all(text for argument, text in arguments.items() if argument not in ("self", "progress"))


# -- what is refused --


def test_no_address_is_ever_fetched(page, monkeypatch):
    def fetch(*arguments, **options):
        raise AssertionError(arguments)

    for name in ("async_ssrf_protected_download", "ssrf_protected_download", "save_url_to_cache"):
        monkeypatch.setattr(processing_utils, name, fetch)
    for address in (
        "http://127.0.0.1:9/a.png",
        "https://example.com/a.png",
        "ftp://a/b",
        "file:///etc/passwd",
        "data:,",
    ):
        for data in ([file(address), "plain"], [file("x"), "plain", 1, "off", 1, {"layers": [file(address)]}]):
            assert "Addresses are not read here" in call(page, "stylize", data)
        assert "Addresses are not read here" in call(page, "stylize_batch", [[file(address)], "plain"])
        assert "Addresses are not read here" in call(page, "stylize_film", [file(address), "plain"])


@pytest.mark.parametrize("path", ["/etc/passwd", "../../etc/passwd", str(ROOT / "README.md"), "C:\\a.png", ""])
def test_no_file_but_an_uploaded_one_is_read(page, path):
    answer = call(page, "stylize", [file(path), "plain"])
    assert answer.startswith("error: ") and "root:" not in answer
    assert "Upload it" in answer or "no picture yet" in answer or "not for a reason we know" in answer


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([None, "plain", 1, "off", 1, None, 0, None, 0], "There is no picture yet"),
        ([None], "not for a reason we know"),
        ([{}, "plain"], "error"),
        (["http://a/b.png", "plain"], "error"),
        ([[[[]]], "plain"], "error"),
        ([file("x") | {"path": 7}, "plain"], "error"),
        ([{"a": "b" * 1000}, {"a": 1}, [], {}, "x", 9, None], "error"),
        ("no list", "list"),
    ],
)
def test_odd_arguments_get_an_answer(page, data, said):
    answer = call(page, "stylize", data)
    assert said in answer and '"error": null' not in answer and "error: null" not in answer


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"strength": 2}, "strength cannot be used here: found 2; allowed: 0 to 1.5"),
        ({"strength": "full"}, "strength cannot be used here"),
        ({"strength": None}, "strength cannot be used here"),
        ({"style_scale": 0.25}, "style_scale cannot be used here: found 0.25; allowed: 1 to 4"),
        ({"feather": 1e9}, "feather cannot be used here"),
        ({"preserve_color": "pink"}, "pink"),
        ({"style": "three", "number": 3}, "number cannot be used here: found 3; allowed: 0 to 2"),
        ({"style": "any"}, "There is no painting to take the style from yet"),
        ({"style": "plane"}, "Did you mean 'plain'?"),
        ({"style": str(ROOT)}, "No such style"),
        ({"style": "tests/fixtures"}, "No such style"),
        ({"style": "https://huggingface.co/org/style"}, "No such style"),
        ({"style": "<img src=x>"}, "&lt;img"),
    ],
)
def test_settings_that_cannot_be_used_are_named(client, photo, settings, said, monkeypatch):
    monkeypatch.chdir(ROOT)
    with pytest.raises(gradio_client.exceptions.AppError) as error:
        client.predict(give(photo), **{"style": "plain"} | settings, api_name="/stylize")
    assert said in str(error.value)


def bomb(side):
    """A small PNG of many pixels."""

    def chunk(kind, body):
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("bomb.png", bomb(30_000), "too large"),
        ("wide.png", bomb(3_600), "found 3,600 x 3,600 pixels; allowed: 12.5 megapixels"),
        ("page.svg", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "Cannot read the picture"),
        ("cut.png", bomb(100)[:60], "Cannot read the picture"),
        ("lie.png", b"GIF89a" + bytes(40), "This format is not read"),
        ("empty.png", b"", "Cannot read the picture"),
    ],
)
def test_pictures_over_the_policy_are_refused_with_a_sentence(client, uploads, tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(gradio_client.exceptions.AppError, match=said) as error:
        client.predict(give(tmp_path / name), "plain", api_name="/stylize")
    assert str(uploads) not in str(error.value)


def test_requests_are_bounded(page, tmp_path):
    large = {"files": ("a.png", bytes(2**20 + 1))}
    assert httpx.post(f"{page.local_url}gradio_api/upload", files=large).status_code == 413
    assert "too large" in call(page, "stylize", ["x" * 2**18, "plain"])
    chunked = httpx.post(f"{page.local_url}gradio_api/queue/join", content=iter([b"x"] * 4))
    assert chunked.status_code == 413
    editor = next(number for number, block in page.blocks.items() if block.get_block_name() == "imageeditor")
    body = {"session_hash": "x", "component_id": editor, "fn_name": "accept_blobs", "data": {}}
    assert httpx.post(f"{page.local_url}gradio_api/component_server", json=body).status_code == 404


def test_uploads_end_before_the_disk_is_full(page, monkeypatch):
    monkeypatch.setattr(rules.shutil, "disk_usage", lambda path: SimpleNamespace(free=5))
    answer = httpx.post(f"{page.local_url}gradio_api/upload", files={"files": ("a.png", b"x")})
    assert answer.status_code == 507 and "no room" in answer.json()["detail"]


def test_what_nobody_foresaw_is_a_number_here_and_a_trace_in_the_log(client, photo, monkeypatch, caplog):
    def fail(*_):
        raise RuntimeError("a secret of the machine")

    monkeypatch.setattr(Styles, "get", fail)
    with caplog.at_level(logging.ERROR), pytest.raises(gradio_client.exceptions.AppError) as error:
        client.predict(give(photo), "plain", api_name="/stylize")
    number = str(error.value).rstrip(".").split()[-1]
    assert "secret" not in str(error.value)
    record = next(record for record in caplog.records if record.name == rules.__name__)
    assert record.getMessage() == number and "a secret of the machine" in str(record.exc_info[1])


def test_files_are_deleted(page, client, photo, uploads):
    client.predict(give(photo), "plain", api_name="/stylize")
    client.predict([give(photo)], "plain", api_name="/stylize_batch")
    assert list(uploads.rglob("my photo*")) and list(uploads.rglob("*.zip"))
    assert not list(uploads.rglob("work-*"))
    route_utils.delete_files_created_by_app(page, age=-1)
    left = {path.name for path in uploads.rglob("*") if path.is_file()}
    assert left <= {"image.png", *(f"{name}.png" for name in LIGHTS)}  # what the page itself shows
    assert page.delete_cache == (60, POLICY.keep)


# -- zips, films, time --


def pack(path, *members, **options):
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, **options) as zipped:
        for name, data in members:
            zipped.writestr(name, data)
    return path


def encrypted(path):
    data = bytearray(pack(path, ("a.png", b"x")).read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    return path


@pytest.mark.parametrize(
    ("members", "said", "kind"),
    [
        ([(f"{n}.png", b"x") for n in range(4)], "too many pictures.*found 4; allowed: 3", DataError),
        ([(f"{n}.txt", b"x") for n in range(151)], "too many entries", DataError),
        ([("a.png", bytes(3 * 2**20))], "a.png", ImageTooLarge),
        ([("a.png", bytes(2**20 - 9)), ("b.png", bytes(2**20 - 9)), ("c.png", bytes(2**20))], "c.png", ImageTooLarge),
        ([("a.txt", b"x"), (".hidden/a.png", b"x")], "no pictures", DataError),
    ],
)
def test_zips_are_bounded(tmp_path, members, said, kind):
    pictures = rules.ImagePolicy(max_bytes=2 * 2**20)
    bounded = demo.Policy(batch=3, batch_bytes=2 * 2**20 + 2**19, pictures=pictures)
    with pytest.raises(kind, match=said):
        rules.gather([pack(tmp_path / "a.zip", *members)], tmp_path, bounded)


def test_bounds_hold_for_all_files_together(tmp_path):
    zips = [pack(tmp_path / f"{n}.zip", ("a.png", bytes(2**20))) for n in range(3)]
    with pytest.raises(ImageTooLarge):
        rules.gather(zips, tmp_path, demo.Policy(batch_bytes=2**21 + 2**19))
    with pytest.raises(DataError, match="found 4; allowed: 3"):
        rules.gather([zips[0]] * 4, tmp_path, POLICY)


def test_what_a_phone_made_is_not_left_in_its_zip_in_silence(tmp_path):
    archive = pack(tmp_path / "a.zip", ("IMG_1.HEIC", b"\0\0\0\x18ftypheic"), ("notes.txt", b"no picture"))
    assert [file.name for file in rules.gather([archive], tmp_path, POLICY)] == ["IMG_1.HEIC"]


def test_zips_that_cannot_be_unpacked_are_named(tmp_path):
    with pytest.raises(DataError, match="Cannot unpack this zip .a.zip.*encrypted"):
        rules.gather([encrypted(tmp_path / "a.zip")], tmp_path, POLICY)
    broken = bytearray(pack(tmp_path / "b.zip", ("a.png", bytes(range(256)) * 9)).read_bytes())
    broken[60:80] = bytes(20)
    (tmp_path / "b.zip").write_bytes(broken)
    with pytest.raises(DataError, match="Cannot unpack this zip .b.zip"):
        rules.gather([tmp_path / "b.zip"], tmp_path, POLICY)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_of_any_compression_is_named(tmp_path, method):
    with zipfile.ZipFile(tmp_path / "c.zip", "w", method) as zipped:
        zipped.writestr("a.png", bytes(range(256)) * 9)
    whole = (tmp_path / "c.zip").read_bytes()
    for begin in (35, 45, 60):  # the header of the stream, and what follows it
        (tmp_path / "c.zip").write_bytes(whole[:begin] + bytes(9) + whole[begin + 9 :])
        with pytest.raises(DataError, match="Cannot unpack this zip .c.zip"):
            rules.gather([tmp_path / "c.zip"], tmp_path, POLICY)


def test_names_fit_into_the_bytes_that_systems_allow(tmp_path):
    given = pack(tmp_path / "a.zip", *[(f"{'🖼' * 90}{n}.png", b"x") for n in range(2)])
    first, second = rules.gather([given], tmp_path, POLICY)
    assert first.read_bytes() == second.read_bytes() == b"x" and second.stem == f"{first.stem}-2"


def test_gathered_names_differ_even_without_their_suffix(tmp_path):
    for folder, name in (("1", "a.png"), ("2", "A.jpg"), ("3", "a.png")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / name).write_bytes(folder.encode())
    (tmp_path / "out").mkdir()
    given = [tmp_path / "1" / "a.png", tmp_path / "2" / "A.jpg", tmp_path / "3" / "a.png"]
    found = rules.gather(given, tmp_path / "out", POLICY)
    assert [path.name for path in found] == ["a.png", "A-2.jpg", "a-3.png"]
    assert [path.read_bytes() for path in found] == [b"1", b"2", b"3"]


@pytest.mark.parametrize("begin", [b"#EXTM3U\nfile:///etc/passwd", b"ffconcat version 1.0", b"<MPD>", b"", b"RIFF"])
def test_only_what_begins_like_a_film_reaches_ffmpeg(tmp_path, begin):
    (tmp_path / "a.mp4").write_bytes(begin)
    with pytest.raises(ImageFormatRefused, match="a.mp4"):
        rules.check_film(tmp_path / "a.mp4")


def test_work_that_takes_too_long_ends_early(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(rules.time, "monotonic", lambda: clock[0])
    deadline = rules.Deadline(demo.Policy(seconds=100), "film")
    clock[0] = 20
    deadline.check(7, 1000)  # too early to tell
    deadline.check(8, 40)
    deadline.check(8, 0)  # nobody knows how many
    with pytest.raises(ImageTooLarge, match="This film takes too long: found about 250 seconds; allowed: 100"):
        deadline.check(8, 100)
    clock[0] = 101
    with pytest.raises(ImageTooLarge):
        deadline.check(1, 0)


# -- loaded styles --


def saved(folder, count, width=8):
    names = [f"style{number}" for number in range(count)]
    for name in names:
        ResnetGenerator(width=width, blocks=0).save_pretrained(folder / name)
    return [str(folder / name) for name in names]


def test_the_styles_used_last_stay_within_the_budget(tmp_path):
    sources = saved(tmp_path, 3)
    size = Styles(sources[:1], POLICY).get("style0").bytes
    assert size == (tmp_path / "style0" / "model.safetensors").stat().st_size - header(tmp_path / "style0")
    store = Styles(sources, demo.Policy(style_bytes=int(2.5 * size)))
    first = store.get("style0")
    store.get("style1")
    assert store.get("style0") is first
    store.get("style2")
    assert store.loaded == ["style0", "style2"] and store.bytes == 2 * size
    assert isinstance(store.get("style1"), Style) and store.loaded == ["style2", "style1"]
    with pytest.raises(ConfigError, match="too large for this page"):
        Styles(sources, demo.Policy(style_bytes=size - 1)).get("style0")


def header(folder):
    return 8 + struct.unpack("<Q", (folder / "model.safetensors").read_bytes()[:8])[0]


def test_visitors_styles_come_from_the_hub_without_our_token_and_go_with_their_files(hub, tmp_path):
    hub.reset()
    for name in ("one", "two"):
        ResnetGenerator(width=8, blocks=0).push_to_hub(f"tester/{name}")
    ResnetGenerator(width=8, blocks=0).push_to_hub("tester/mine", private=True)
    hub.log.clear()
    size = Styles(saved(tmp_path, 1), POLICY).get("style0").bytes
    store = Styles(saved(tmp_path, 1), demo.Policy(style_bytes=int(1.5 * size)))
    assert "tester/one" in store.get(" tester/one ").facts
    files = list(Path(store._folder.name).rglob("*.safetensors"))
    assert files
    store.get("tester/two")
    assert not any(file.exists() for file in files) and store.loaded == ["tester/two"]
    with pytest.raises(RepoError):
        store.get("tester/mine")
    assert [path.name for path in Path(store._folder.name).iterdir()] == ["tester--two"]
    assert not any(request.token for request in hub.log)
    with pytest.raises(RepoError, match="allowed: style0. Choose"):
        Styles(saved(tmp_path, 1), demo.Policy(hub=False)).get("tester/one")


def test_a_visitors_style_that_is_too_large_is_not_downloaded(hub, tmp_path):
    hub.reset()
    ResnetGenerator(width=8, blocks=0).push_to_hub("tester/large")
    store = Styles(saved(tmp_path, 1), demo.Policy(style_bytes=10_000))
    with pytest.raises(ConfigError, match="larger than is allowed"):
        store.get("tester/large")
    assert not list(Path(store._folder.name).rglob("*.safetensors"))


def test_two_styles_of_one_name_are_refused_and_so_are_none(tmp_path):
    with pytest.raises(ConfigError, match="no style to offer"):
        Styles([], POLICY)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with pytest.raises(ConfigError, match="Two styles have one name .style0."):
        Styles([*saved(tmp_path / "a", 1), *saved(tmp_path / "b", 1)], POLICY)


def test_a_new_style_joins_the_gallery_and_shows_what_it_needs(hub, styles):
    hub.reset()
    MicroASTGenerator(width=4).push_to_hub("tester/any")
    face = Face(Styles([str(styles["plain"])], POLICY), POLICY)
    facts, reference, number, gallery, seen = face.choose("tester/any", [])
    assert "any style from a picture of yours" in facts and reference["visible"] and not number["visible"]
    assert [name for _, name in gallery] == ["plain", "tester/any"] and seen == ["tester/any"]
    assert not face.choose("plain", seen)[1]["visible"]


# -- around it --


def test_scenes_are_the_same_every_time_and_of_any_size():
    for name in LIGHTS:
        one, two = draw_scene(name, (97, 61)), draw_scene(name, (97, 61))
        assert one.size == (97, 61) and one.tobytes() == two.tobytes()
        assert np.array(one).std() > 20
    assert draw_scene("lake", (97, 61)).tobytes() != draw_scene("evening", (97, 61)).tobytes()


def test_a_taken_port_is_said(page, styles):
    port = int(page.local_url.rstrip("/").rsplit(":", 1)[1])
    with pytest.raises(ConfigError, match="Cannot listen there"):
        demo.launch("127.0.0.1", port, styles=[str(styles["plain"])], wait=False)


def test_without_gradio_it_says_how_to_get_it():
    code = (
        "import sys; sys.modules['gradio'] = None\n"
        "try: import styleforge.demo\n"
        "except ImportError as error: print(type(error).__name__, error)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT).stdout
    assert said.startswith(MissingExtra.__name__) and "pip install 'styleforge[demo]'" in said


def test_the_space_is_complete():
    front = yaml.safe_load((SPACE / "README.md").read_text().split("---")[1])
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    colors = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}
    assert front["sdk"] == "gradio" and {front["colorFrom"], front["colorTo"]} <= colors
    assert front["sdk_version"] == gradio.__version__  # that which these tests ran with
    assert f">={front['python_version']}" >= project["requires-python"]
    assert (SPACE / front["app_file"]).is_file() and len(front["short_description"]) <= 60
    wanted = (SPACE / "requirements.txt").read_text()
    assert "styleforge[video]" in wanted and "gradio" not in wanted  # the Space brings its own
    (imported,) = [node for node in ast.walk(ast.parse((SPACE / "app.py").read_text())) if hasattr(node, "names")]
    assert imported.module == "styleforge.demo" and [name.name for name in imported.names] == ["launch"]


def test_the_readme_of_the_space_tells_the_limits_as_they_are():
    text, limits = " ".join((SPACE / "README.md").read_text().split()), demo.Policy()
    assert f"{limits.pictures.max_pixels / 1e6:g} megapixels and {limits.pictures.max_bytes // 2**20} MB" in text
    assert f"{limits.batch} pictures and {limits.film_frames} frames" in text
    assert f"{limits.seconds / 60:g} minutes of work; {limits.queue} requests" in text
    assert json.dumps(limits.keep) == "1800" and "half an hour" in text
