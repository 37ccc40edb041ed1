"""The survey's page: through its API as a client sees it, and in a browser as a voter does."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from urllib.request import urlopen

import numpy as np
import pytest
import yaml
from PIL import Image

from styleforge import survey
from styleforge.errors import ConfigError, DataError, MissingExtra
from styleforge.survey import Votes, read_csv

gradio = pytest.importorskip("gradio", reason="gradio is not installed: pip install '.[demo]'")
from styleforge.survey import app  # noqa: E402

ROOT = Path(__file__).parents[1]
KEY = "a key that nobody guesses"
METHODS = ("ours", "theirs")
CHROMIUM = os.environ.get("STYLEFORGE_CHROMIUM") or shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Where gradio copies what it shows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ours-or-theirs")
    for n, method in enumerate(("photos", *METHODS)):
        for m, name in enumerate(("beach", "cat", "dog")):
            (folder / method).mkdir(exist_ok=True)
            ramp = np.linspace(0, 255, 480 * 320 * 3).reshape(320, 480, 3) * (m + 1) / 3
            Image.fromarray(np.roll(ramp, n, 2).astype(np.uint8)).save(folder / method / f"{name}.png")
    return survey.prepare([folder / method for method in METHODS], folder / "photos", folder / "study", checks=1)


@pytest.fixture
def served(study, tmp_path):
    """The address of a page with a database of its own, and the votes in it."""
    path = tmp_path / "votes.sqlite"
    page = app.serve(study, database=path, key=KEY, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    with Votes(study, path) as votes:
        yield page.local_url, votes
    page.close()


def client_of(url):
    from gradio_client import Client

    return Client(url, verbose=False, download_files=False)


def ask(client, token=None):
    """Token, number, heading, and the addresses of the original and the pictures."""
    token, number, head, *pictures = client.predict(token, api_name="/start")
    return token, number, head, [picture and picture["url"] for picture in pictures]


# --------------------------------------------------------------------------------------------- the API


def test_a_client_sees_pictures_and_letters_and_no_names(served, study):
    url, votes = served
    config = urlopen(f"{url}config").read().decode()
    client = client_of(url)
    token, number, head, pictures = ask(client)
    assert number == 0 and "1 of 4" in head and study.question in head
    for told in (config, head, *pictures):
        assert not re.search("ours|theirs|votes.sqlite|study.json", told)
    question = study.plan(token)[0]
    files = [study.picture(question.scene, name) for name in ("source", *question.shown)]
    assert [urlopen(picture).read() for picture in pictures] == [file.read_bytes() for file in files]
    for file in (study.folder / "study.json", votes.path):
        with pytest.raises(OSError, match="403"):
            urlopen(f"{url}gradio_api/file={file}")


def test_votes_arrive_once_and_only_for_what_was_shown(served, study):
    url, votes = served
    client = client_of(url)
    token, number, _, _ = ask(client)
    time.sleep(votes.too_fast)
    after = client.predict(token, number, api_name="/choice-1")
    assert (after[0], after[1]) == (token, 1)
    assert client.predict(token, number, api_name="/choice-0")[1] == 1
    (vote,) = votes.all()
    assert (vote.choice, vote.shown) == (study.plan(token)[0].shown[1], study.plan(token)[0].shown)
    for who, what in ((token, 2), (token, None), ("somebody else", 0)):
        with pytest.raises(Exception, match="Load the page again"):
            client.predict(who, what, api_name="/choice-none")
    assert votes.all() == [vote]


def test_faults_tell_strangers_nothing(served, monkeypatch):
    url, _ = served
    client = client_of(url)
    monkeypatch.setattr(Votes, "ask", lambda self, token: 1 / 0)
    with pytest.raises(Exception, match="Something failed here") as caught:
        ask(client)
    assert "division" not in str(caught.value)


@pytest.mark.slow
def test_fifty_voters_at_once_lose_no_vote(served, study):
    url, votes = served

    def voter(number):
        client, chance, sent = client_of(url), np.random.default_rng(number), []
        token, question, *_ = ask(client)
        while question is not None:
            time.sleep(votes.too_fast)
            choice = int(chance.integers(2))
            sent.append((token, question, study.plan(token)[question].shown[choice]))
            question = client.predict(token, question, api_name=f"/choice-{choice}")[1]
        return sent

    with ThreadPoolExecutor(50) as pool:
        sent = [vote for session in pool.map(voter, range(50)) for vote in session]
    assert len(sent) == 200 and sorted(sent) == sorted((v.token, v.number, v.choice) for v in votes.all())


@pytest.mark.slow
def test_a_space_that_is_stopped_uploads_the_last_votes(study, tmp_path, hub):
    """As the Hub stops one: SIGTERM, long before the next upload is due. Its disk is gone afterwards."""
    environment = {"STYLE_SURVEY_STUDY": str(study.folder), "STYLE_SURVEY_DB": str(tmp_path / "votes.sqlite")}
    environment |= {"STYLE_SURVEY_DATASET": "org/kept", "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
    script = ROOT / "spaces" / "style-survey" / "app.py"
    space = subprocess.Popen(
        [sys.executable, str(script)], env=os.environ | environment, stdout=subprocess.PIPE, text=True, cwd=tmp_path
    )
    try:
        url = next(match[1] for line in space.stdout if (match := re.search(r"(http://\S+)", line))) + "/"
        client = client_of(url.replace("0.0.0.0", "127.0.0.1"))
        token, number, *_ = ask(client)
        time.sleep(0.5)
        client.predict(token, number, api_name="/choice-0")
        space.send_signal(signal.SIGTERM)
        assert space.wait(60) == 0
    finally:
        space.kill()
    ((name, blob),) = [
        (n, b) for n, b in hub.repos["dataset", "org/kept"].find("main").tree.items() if n[-4:] == ".csv"
    ]
    (tmp_path / name).write_bytes(blob.data)
    assert [vote.token for vote in read_csv(tmp_path / name)] == [token]


def test_settings_of_the_page(study, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match="too short"), Votes(study, tmp_path / "v.sqlite") as votes:
        app.build(study, votes, key="1234")
    with pytest.raises(DataError, match="no finished study"):
        app.serve(tmp_path)
    monkeypatch.setitem(sys.modules, "gradio", None)
    with pytest.raises(MissingExtra, match="styleforge\\[demo\\]"):
        app.serve(study)


def test_without_a_key_there_is_no_page_of_results(study, tmp_path):
    with Votes(study, tmp_path / "v.sqlite") as votes:
        assert [path for path, *_ in app.build(study, votes).pages] == [""]
        assert [path for path, *_ in app.build(study, votes, key=KEY).pages] == ["", "results"]


def test_the_space_is_described_as_spaces_are():
    folder = ROOT / "spaces" / "style-survey"
    header = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    assert (header["sdk"], header["app_file"]) == ("gradio", "app.py")
    assert int(header["sdk_version"].split(".")[0]) == 6
    assert "styleforge" in (folder / "requirements.txt").read_text()
    compile((folder / "app.py").read_text(), "app.py", "exec")


# ----------------------------------------------------------------------------------------- the browser


@pytest.fixture(scope="module")
def browser():
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if not CHROMIUM:
        pytest.skip("no chromium: install Debian's, or set STYLEFORGE_CHROMIUM to one")
    with sync_api.sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield running
        running.close()


class Voter:
    """A tab at the survey, and what it asked for from elsewhere."""

    def __init__(self, browser, url, width=1280, height=800):
        self.tab = browser.new_context(viewport={"width": width, "height": height}).new_page()
        self.url, self.foreign = url, []
        self.tab.on("request", lambda request: self.foreign.append(request.url))
        self.open()

    def open(self):
        self.tab.goto(self.url)
        self.tab.wait_for_selector("#head h1")

    @property
    def heading(self):
        return self.tab.locator("#head").inner_text()

    def wait(self, text):
        from playwright.sync_api import expect

        expect(self.tab.locator("#head")).to_contain_text(text)
        self.tab.wait_for_timeout(500)  # longer than the guard against double clicks

    def shot(self, name):
        if folder := os.environ.get("STYLEFORGE_SHOTS"):
            self.tab.screenshot(path=f"{folder}/{name}.png", full_page=True)


@pytest.mark.slow
def test_a_voter_clicks_presses_keys_reloads_and_is_thanked(browser, served, study):
    url, votes = served
    voter = Voter(browser, url)
    voter.wait("1 of 4")
    letters = {False: "choice-0", True: "choice-1"}

    def answer(do):
        """The choice to make: that of the attention check where it is one."""
        if match := re.search("please choose ([AB])", voter.heading):
            voter.tab.locator(f"#{letters[match[1] == 'B']}").click()
        else:
            do()

    assert voter.tab.locator("#pictures img").count() == 2
    voter.shot("survey-1280")
    assert voter.tab.locator("#original img").count() == 0
    voter.tab.keyboard.press("o")
    voter.tab.wait_for_selector("#original img")
    answer(lambda: voter.tab.locator("#choice-1").dblclick())
    voter.wait("2 of 4")
    assert len(votes.all()) == 1, "a double click is one vote"
    voter.open()
    voter.wait("2 of 4")
    answer(lambda: voter.tab.keyboard.press("ArrowLeft"))
    voter.wait("3 of 4")
    answer(lambda: voter.tab.keyboard.press("0"))
    voter.wait("4 of 4")
    answer(lambda: voter.tab.get_by_role("button", name="Cannot tell").click())
    voter.wait("Thank you")
    assert not voter.tab.locator("#choices").is_visible()
    voter.shot("survey-thanks")
    kept = {vote.number: vote for vote in votes.all()}
    (token,) = {vote.token for vote in kept.values()}
    for question, place in zip(study.plan(token), (1, 0, None, None), strict=True):
        wanted = question.expected or (None if place is None else question.shown[place])
        assert kept[question.number].choice == wanted
    assert all(address.startswith((url, "data:", "blob:")) for address in voter.foreign), "nothing from elsewhere"


@pytest.mark.slow
def test_on_a_phone_everything_is_in_reach(browser, served):
    url, votes = served
    voter = Voter(browser, url, 390, 844)
    voter.wait("1 of 4")
    voter.shot("survey-390")
    assert voter.tab.evaluate("document.documentElement.scrollWidth") <= 390
    a, b = (voter.tab.locator("#pictures img").nth(n).bounding_box() for n in (0, 1))
    assert a["width"] == b["width"] >= 300 and b["y"] > a["y"] + a["height"]
    for name in ("choice-0", "choice-none", "choice-1"):
        box = voter.tab.locator(f"#{name}").bounding_box()
        assert box["height"] >= 44 and box["y"] + box["height"] <= 844, "a finger's width, without scrolling"
    voter.tab.locator("#choice-0").click()
    voter.wait("2 of 4")
    assert len(votes.all()) == 1


@pytest.mark.slow
def test_several_at_once_have_their_buttons_in_reach_too(browser, study, tmp_path):
    folder = study.folder.parent
    methods = [folder / "ours", folder / "theirs", f"also={folder / 'photos'}"]
    many = survey.prepare(methods, folder / "photos", tmp_path / "study", include_source=True, way=4)
    page = app.serve(many, prevent_thread_lock=True, quiet=True, server_name="127.0.0.1")
    voter = Voter(browser, page.local_url, 390, 844)
    voter.wait("1 of 3")
    voter.shot("survey-four-390")
    assert voter.tab.locator("#pictures img").count() == 4
    boxes = [voter.tab.locator(f"#choices button >> nth={n}").bounding_box() for n in range(5)]
    assert all(box["y"] + box["height"] <= 844 for box in boxes), "they stay while the pictures scroll"
    assert all(a["x"] + a["width"] < b["x"] for a, b in pairwise(boxes)) and boxes[-1]["x"] + boxes[-1]["width"] <= 390
    fits = "[...document.querySelectorAll('#choices button')].every(b => b.scrollWidth <= b.clientWidth)"
    assert voter.tab.evaluate(fits)
    voter.tab.keyboard.press("4")
    voter.wait("2 of 3")
    page.close()
    with Votes(many) as votes:
        (vote,) = votes.all()
    assert vote.choice == vote.shown[3]


@pytest.mark.slow
def test_results_open_with_the_key_only(browser, served, study):
    url, votes = served
    client = client_of(url)
    token, question, *_ = ask(client)
    while question is not None:
        time.sleep(votes.too_fast)
        shown = study.plan(token)[question]
        place = shown.shown.index(shown.expected or "ours")
        question = client.predict(token, question, api_name=f"/choice-{place}")[1]
    voter = Voter(browser, url, 390, 844)
    voter.tab.goto(f"{url}results")
    voter.tab.get_by_label("Key").fill("a wrong one")
    voter.tab.get_by_role("button", name="Show the results").click()
    voter.tab.get_by_text("This is not the key").wait_for()
    assert "ours" not in voter.tab.content()
    voter.tab.get_by_label("Key").fill(KEY)
    voter.tab.keyboard.press("Enter")
    voter.tab.wait_for_selector("#results svg")
    voter.shot("survey-results")
    assert "3 votes of 1 voters" in voter.tab.locator("#results").inner_text()
    assert "the former won" in voter.tab.locator("#results").inner_text()
    assert voter.tab.evaluate("document.documentElement.scrollWidth") <= 390
    with voter.tab.expect_download() as download:
        voter.tab.get_by_text("All votes as CSV").click()
    assert read_csv(download.value.path()) == votes.all() and len(votes.all()) == 4
