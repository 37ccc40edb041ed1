"""A study on the disk, its votes, and what they say."""

import json
import sqlite3
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from huggingface_hub.errors import HfHubHTTPError
from PIL import Image, PngImagePlugin

from styleforge import ResnetGenerator, StylePipeline, survey
from styleforge.errors import ConfigError, CorruptFileError, DataError, PushRefused
from styleforge.models import AdaINGenerator
from styleforge.survey import Mirror, Vote, Votes, read_csv, write_csv
from styleforge.survey.votes import new_token


def paint(path, size=(48, 32), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng([seed, *path.stem.encode()]).integers(0, 256, (*size[::-1], 3), np.uint8)
    told = PngImagePlugin.PngInfo()
    told.add_text("Software", "the secret method")
    Image.fromarray(noise).save(path, pnginfo=told)
    return path


@pytest.fixture
def photos(tmp_path):
    for name in ("beach", "town/market", "cat", "dog"):
        paint(tmp_path / "photos" / f"{name}.png")
    return tmp_path / "photos"


@pytest.fixture
def ready(tmp_path, photos):
    """Folders of ready pictures: `ready("a", "b")` gives their paths."""

    def make(*methods, size=(48, 32)):
        for seed, method in enumerate(methods, 1):
            for file in photos.rglob("*.png"):
                paint(tmp_path / "made" / method / file.relative_to(photos), size, seed)
        return [tmp_path / "made" / method for method in methods]

    return make


@pytest.fixture
def study(photos, ready, tmp_path):
    return survey.prepare(ready("ours", "theirs"), photos, tmp_path / "study")


@pytest.fixture
def votes(study):
    with Votes(study, too_fast=0) as kept:
        yield kept


def pipeline(seed=0):
    torch.manual_seed(seed)
    return StylePipeline(ResnetGenerator(width=2, blocks=0))


def pixels(path):
    return np.asarray(Image.open(path)).tolist()


# ---------------------------------------------------------------------------------------------- study


def test_pictures_are_those_of_the_competitors_and_tell_nothing_else(photos, ready, tmp_path):
    pipe, (theirs,) = pipeline(), ready("theirs", size=(96, 64))
    study = survey.prepare({"ours": pipe, "theirs": theirs}, photos, tmp_path / "study", include_source=True)
    assert list(study.competitors) == ["ours", "theirs", "source"]
    assert [scene.name for scene in study.scenes] == ["beach", "cat", "dog", "town/market"]
    beach = study.scenes[0]
    assert pixels(study.picture(beach, "source")) == pixels(photos / "beach.png")
    assert pixels(study.picture(beach, "ours")) == np.asarray(pipe(photos / "beach.png")).tolist()
    shrunk = Image.open(theirs / "beach.png").resize((48, 32), Image.Resampling.LANCZOS)
    assert pixels(study.picture(beach, "theirs")) == np.asarray(shrunk).tolist()
    files = list((tmp_path / "study" / "pictures").iterdir())
    assert len(files) == 12
    for file in files:
        assert len(file.stem) == 20 and set(file.stem) <= set("0123456789abcdef") and file.suffix == ".png"
        with Image.open(file) as image:
            assert image.size == (48, 32) and not image.info
    assert survey.load(tmp_path / "study") == study


def test_large_pictures_are_shrunk_before_they_are_styled(tmp_path, monkeypatch):
    paint(tmp_path / "photos" / "wide.png", (200, 100))
    paint(tmp_path / "photos" / "small.png", (30, 20))
    a, b = pipeline(0), pipeline(1)
    study = survey.prepare({"a": a, "b": b}, tmp_path / "photos", tmp_path / "study", size=64)
    assert {scene.name: Image.open(study.picture(scene, "a")).size for scene in study.scenes} == {
        "small": (30, 20),
        "wide": (64, 32),
    }


def test_a_stopped_preparation_goes_on_where_it_was(photos, ready, tmp_path, monkeypatch):
    pipe, styled = pipeline(), []
    monkeypatch.setattr(StylePipeline, "__call__", lambda self, image: styled.append(image) or image.rotate(180))

    class Stopped(Exception): ...

    def stop(done, total):
        assert total == 4
        if done == 2:
            raise Stopped

    def prepare(**options):
        return survey.prepare({"ours": pipe, "theirs": theirs}, photos, tmp_path / "study", **options)

    (theirs,) = ready("theirs")
    with pytest.raises(Stopped):
        prepare(on_picture=stop)
    with pytest.raises(DataError, match="no finished study.*run again"):
        survey.load(tmp_path / "study")
    study = prepare()
    assert len(styled) == 4
    before = (tmp_path / "study" / "study.json").read_bytes()
    assert prepare() == study and len(styled) == 4
    assert (tmp_path / "study" / "study.json").read_bytes() == before
    assert prepare(pictures=1, seed=1).id != study.id
    assert len(list((tmp_path / "study" / "pictures").iterdir())) == 3, "what no study shows any more is removed"


def test_votes_are_never_mixed_with_those_of_another_study(study, votes, photos, ready):
    with pytest.raises(ConfigError, match="another study and its votes"):
        survey.prepare(ready("ours", "theirs"), photos, study.folder, seed=1)
    assert survey.load(study.folder) == study
    assert survey.prepare(ready("ours", "theirs"), photos, study.folder) == study


def test_damage_is_found(study, photos, ready):
    file = study.picture(study.scenes[0], "ours")
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + b"x")
    with pytest.raises(CorruptFileError, match=file.name):
        survey.load(study.folder)
    file.unlink()
    with pytest.raises(CorruptFileError, match=file.name):
        survey.load(study.folder)
    file.write_bytes(study.picture(study.scenes[0], "theirs").read_bytes())
    with pytest.raises(CorruptFileError, match=f"{file.name}.*Prepare the study again"):
        survey.load(study.folder)
    assert survey.prepare(ready("ours", "theirs"), photos, study.folder) == survey.load(study.folder) == study
    assert file.read_bytes() == whole
    manifest = study.folder / "study.json"
    table = json.loads(manifest.read_text())
    for damage in (
        lambda t: t.pop("question"),
        lambda t: t.update(format=2),
        lambda t: t["competitors"].update(new=""),
        lambda t: t["sha256"].update({"../votes.sqlite": ""}),
        lambda t: t["scenes"][0]["files"].update(ours="other.png"),
        lambda t: t.update(scenes=3),
        lambda t: t.update(scenes=[]),
        lambda t: t.update(way=3),
        lambda t: t.update(per_session=2.5),
        lambda t: t.update(per_session=10**9),
        lambda t: t.update(checks=-1),
        lambda t: t.update(size="512"),
    ):
        broken = json.loads(json.dumps(table))
        damage(broken)
        manifest.write_text(json.dumps(broken))
        with pytest.raises(CorruptFileError, match="cannot be read"):
            survey.load(study.folder)
    manifest.write_text("[" * 100_000)
    with pytest.raises(CorruptFileError, match="cannot be read"):
        survey.load(study.folder)


def test_names_come_from_where_things_are(photos, ready, tmp_path):
    pipeline().save_pretrained(tmp_path / "runs" / "monet" / "style")
    made = ready("theirs")[0]
    run, style = tmp_path / "runs" / "monet", tmp_path / "runs" / "monet" / "style"
    study = survey.prepare([run, f"his={style}", str(made)], photos, tmp_path / "study", pictures=1)
    assert list(study.competitors) == ["monet", "his", "theirs"]
    assert study.competitors["monet"] == study.competitors["his"] != study.competitors["theirs"]
    for same in ([style, run], [f"a|b={run}", made], [f"source={run}", made], [f"={run}", made]):
        with pytest.raises(ConfigError, match="cannot be told apart.*Name them"):
            survey.prepare(same, photos, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_networks_that_take_any_style_get_the_reference(photos, ready, tmp_path):
    torch.manual_seed(0)
    anything = StylePipeline(AdaINGenerator(backbone="vgg19-16x"))
    given = {"any": anything, "ready": ready("ready")[0]}
    with pytest.raises(ConfigError, match="takes any style"):
        survey.prepare(given, photos, tmp_path / "study", pictures=1)
    study = survey.prepare(given, photos, tmp_path / "study", pictures=1, reference=photos / "cat.png")
    (scene,) = study.scenes
    expected = anything(study.picture(scene, "source"), style=photos / "cat.png")
    assert pixels(study.picture(scene, "any")) == np.asarray(expected).tolist()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"size": 8}, "size cannot be used: found 8"),
        ({"way": 3}, "way cannot be used: found 3"),
        ({"pictures": 0}, "pictures cannot be used"),
        ({"pictures": 5}, "Not enough pictures.*found 4"),
        ({"per_session": 0}, "per_session cannot be used"),
        ({"checks": -1}, "checks cannot be used"),
    ],
)
def test_settings_that_cannot_be_used(photos, ready, tmp_path, options, words):
    with pytest.raises((ConfigError, DataError), match=words):
        survey.prepare(ready("a", "b"), photos, tmp_path / "study", **options)
    assert not (tmp_path / "study").exists()


def test_pictures_of_others_in_the_folder_of_a_study_stay(photos, ready, tmp_path):
    paint(tmp_path / "study" / "pictures" / "holiday.png")
    paint(tmp_path / "study" / "pictures" / "album" / "cat.png")
    survey.prepare(ready("a", "b"), photos, tmp_path / "study")
    assert len(list((tmp_path / "study" / "pictures").rglob("*.png"))) == 4 * 3 + 2


def test_a_study_is_not_made_among_the_pictures_that_it_shows(photos, ready, tmp_path):
    """Going on, it would take its own pictures for some of those to be styled."""
    competitors, before = ready("a", "b"), sorted(photos.rglob("*"))
    (tmp_path / "pictures").symlink_to(photos)
    for output in (photos, photos / "study", tmp_path):
        with pytest.raises(ConfigError, match="among those that it is made of.*Give another folder"):
            survey.prepare(competitors, photos, output)
    assert sorted(photos.rglob("*")) == before


def test_competitors_that_cannot_be_used(photos, ready, tmp_path):
    a, b = ready("a", "b")
    with pytest.raises(ConfigError, match="Competitors cannot be used: found 1"):
        survey.prepare([a], photos, tmp_path / "study")
    (b / "dog.png").unlink()
    with pytest.raises(DataError, match="A ready picture is missing.*'dog'"):
        survey.prepare([a, b], photos, tmp_path / "study")
    paint(b / "dog.png", (48, 40))
    with pytest.raises(DataError, match="another shape.*48 x 40"):
        survey.prepare([a, b], photos, tmp_path / "study")
    paint(b / "dog.jpg")
    with pytest.raises(DataError, match="one name"):
        survey.prepare([a, b], photos, tmp_path / "study")
    assert not (tmp_path / "study" / "study.json").exists()


# ----------------------------------------------------------------------------------------------- plan


def make_study(photos, ready, tmp_path, competitors, **options):
    return survey.prepare(ready(*competitors), photos, tmp_path / "study", **options)


def test_every_session_is_balanced_whatever_its_token(photos, ready, tmp_path):
    study = make_study(photos, ready, tmp_path, "abc")
    for token in map(str, range(50)):
        plan = study.plan(token)
        assert plan == study.plan(token)
        asked = Counter((question.scene.name, frozenset(question.shown)) for question in plan)
        assert len(asked) == 12 and set(asked.values()) == {1}, "each pair on each picture once"
        for end in range(1, 13):
            groups = Counter(frozenset(question.shown) for question in plan[:end])
            assert max(groups.values()) - min(groups[g] for g in map(frozenset, ("ab", "ac", "bc"))) <= 1
            for group in groups:
                lefts = Counter(q.shown[0] for q in plan[:end] if set(q.shown) == group)
                assert max(lefts.values()) - min(lefts[name] for name in group) <= 1
    assert study.plan("1") != study.plan("2")


def test_a_turn_of_all_pairs_shows_each_picture_once_at_most(photos, ready, tmp_path):
    study = make_study(photos, ready, tmp_path, "abc")
    for token in map(str, range(20)):
        names = [question.scene.name for question in study.plan(token)]
        assert all(len(set(names[turn : turn + 3])) == 3 for turn in range(0, 12, 3))


def test_sides_and_orders_are_fair_over_sessions(photos, ready, tmp_path):
    study = make_study(photos, ready, tmp_path, "ab", per_session=1)
    first = Counter((plan[0].scene.name, plan[0].shown) for plan in (study.plan(str(n)) for n in range(800)))
    assert len(first) == 8
    assert max(abs(count - 100) for count in first.values()) < 4.5 * (800 / 8 * 7 / 8) ** 0.5


def test_several_at_once_stand_at_every_place_equally_often(photos, ready, tmp_path):
    study = make_study(photos, ready, tmp_path, "abcd", way=4)
    plan = study.plan("token")
    assert len(plan) == 4
    assert all(sorted(place) == list("abcd") for place in zip(*(question.shown for question in plan), strict=True))


def test_attention_checks_lie_between_the_questions(photos, ready, tmp_path):
    study = make_study(photos, ready, tmp_path, "abc", per_session=9, checks=2)
    wanted = set()
    for token in map(str, range(40)):
        plan = study.plan(token)
        assert [question.number for question in plan] == list(range(11))
        places = [question.number for question in plan if question.expected]
        assert len(places) == 2 and places[0] >= 2 and places[1] - places[0] >= 2
        wanted |= {plan[place].shown.index(plan[place].expected) for place in places}
    assert wanted == {0, 1}


# ---------------------------------------------------------------------------------------------- votes


def test_a_vote_is_kept_with_what_was_shown_and_nothing_else(study, votes):
    token = new_token()
    question = votes.ask(token)
    assert votes.answer(token, 0, 1)
    second = votes.ask(token)
    assert (question.number, second.number) == (0, 1)
    assert votes.answer(token, 1, None)
    first, tie = votes.all()
    assert first == Vote(
        study.id, token, 0, question.scene.name, question.shown, None, question.shown[1], first.seconds
    )
    assert (tie.choice, tie.picture) == (None, second.scene.name)
    with sqlite3.connect(study.votes) as database:
        tables = dict(database.execute("SELECT name, sql FROM sqlite_master WHERE type = 'table'"))
        assert set(tables) == {"votes", "open_questions"}
        columns = [row[1] for row in database.execute("PRAGMA table_info(votes)")]
        assert columns == ["study", "token", "number", "picture", "shown", "expected", "choice", "seconds"]
        assert database.execute("SELECT count(*) FROM open_questions").fetchone() == (0,), "no time of day remains"


def test_seconds_are_those_between_question_and_answer(study, votes, monkeypatch):
    clock = iter([100.0, 100.0, 107.34, 200.0, 200.0, 150.0])
    monkeypatch.setattr("styleforge.survey.votes.time.time", lambda: next(clock))
    token = new_token()
    for number in (0, 1):
        votes.ask(token)
        votes.answer(token, number, 0)
    assert [vote.seconds for vote in votes.all()] == [7.3, 0.0], "a clock that is set back gives no negative time"


def test_a_second_answer_changes_nothing(votes):
    token = new_token()
    votes.ask(token)
    assert votes.answer(token, 0, 0)
    before = votes.all()
    assert not votes.answer(token, 0, 1) and not votes.answer(token, 0, None)
    votes.ask(token)
    assert not votes.answer(token, 0, 1)
    assert votes.all() == before


def test_the_second_half_of_a_double_click_meets_no_next_question(study, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("styleforge.survey.votes.time.time", lambda: now[0])
    with Votes(study) as votes:
        token = new_token()
        votes.ask(token)
        now[0] += 3
        assert votes.answer(token, 0, 0)
        votes.ask(token)
        now[0] += 0.2
        assert not votes.answer(token, 1, 0)
        now[0] += 0.5
        assert votes.answer(token, 1, 0), "the question is still open"
        assert len(votes.all()) == 2


def test_votes_on_what_was_not_shown_are_refused(votes):
    token, other = new_token(), new_token()
    votes.ask(token)
    for who, number in ((token, 1), (token, 99), (token, -1), (token, True), (token, "0"), (other, 0)):
        with pytest.raises(ConfigError, match="was not shown here.*Load the page again"):
            votes.answer(who, number, 0)
    for choice in (2, -1, "0", 0.0, True):
        with pytest.raises(ConfigError, match="no such picture"):
            votes.answer(token, 0, choice)
    for odd in ("", "x" * 32, "A" * 32, None, new_token() + "\n", "'; DROP TABLE votes; --"):
        with pytest.raises(ConfigError, match="no token"):
            votes.ask(odd)
    assert votes.all() == []


def test_a_session_goes_on_after_a_restart_and_ends(study):
    token = new_token()
    numbers = []
    while True:
        with Votes(study, too_fast=0) as votes:
            question = votes.ask(token)
            if question is None:
                break
            numbers.append(question.number)
            votes.answer(token, question.number, 0)
    assert numbers == [0, 1, 2, 3]


def test_what_nobody_answered_is_forgotten_after_a_day(study, votes, monkeypatch):
    now = [1000.0]
    monkeypatch.setattr("styleforge.survey.votes.time.time", lambda: now[0])
    token = new_token()
    votes.ask(token)
    now[0] += 90_000
    votes.ask(new_token())
    with pytest.raises(ConfigError, match="was not shown"):
        votes.answer(token, 0, 0)
    with sqlite3.connect(study.votes) as database:
        assert database.execute("SELECT count(*) FROM open_questions").fetchone() == (1,)


def test_many_open_a_new_database_at_once(study):
    for attempt in range(10):
        with ThreadPoolExecutor(8) as pool:
            opened = list(pool.map(lambda _: Votes(study, study.folder / f"{attempt}.sqlite"), range(8)))  # noqa: B023
        assert len({votes.number for votes in opened}) == 1
        for votes in opened:
            assert votes.all() == []
            votes.close()


def test_fifty_voters_on_four_connections_lose_no_vote(study):
    """Each connection stands for a process: SQLite's locks are the same; no vote is lost or counted twice."""
    with ThreadPoolExecutor(4) as pool:
        workers = list(pool.map(lambda _: Votes(study, too_fast=0), range(4)))
    gate, sent = threading.Barrier(50), []

    def voter(number):
        token, chance = new_token(), np.random.default_rng(number)
        gate.wait()
        while question := workers[chance.integers(4)].ask(token):
            choice = int(chance.integers(2))
            double = [workers[chance.integers(4)].answer(token, question.number, c) for c in (choice, 1 - choice)]
            assert double == [True, False]
            sent.append((token, question.number, question.scene.name, question.shown[choice]))

    with ThreadPoolExecutor(50) as pool:
        list(pool.map(voter, range(50)))
    kept = [(vote.token, vote.number, vote.picture, vote.choice) for vote in workers[0].all()]
    assert len(kept) == 200 and sorted(kept) == sorted(sent)
    assert len({worker.number for worker in workers}) == 1
    for worker in workers:
        worker.close()


def test_votes_outlive_a_process_that_was_killed(study):
    abandoned, token = Votes(study, too_fast=0), new_token()
    abandoned.ask(token)
    abandoned.answer(token, 0, 0)
    copy = study.folder / "copy.sqlite"  # the files as they lie there while nobody has closed anything
    for end in ("", "-wal"):
        (study.folder / f"copy.sqlite{end}").write_bytes((study.folder / f"votes.sqlite{end}").read_bytes())
    with Votes(study, copy) as votes:
        assert votes.all() == abandoned.all() != []
    abandoned.close()


def test_a_database_that_cannot_be_used(study, tmp_path):
    (tmp_path / "text").write_text("no database, but a letter to the editor\n" * 30)
    for path in (tmp_path / "text", tmp_path, tmp_path / "text" / "below"):
        with pytest.raises(CorruptFileError, match="The votes cannot be kept"):
            Votes(study, path)
    with Votes(study) as votes:
        votes._db.execute("PRAGMA query_only = 1")  # as a full disk: reading works, writing does not
        with pytest.raises(CorruptFileError, match="Check the free space"):
            votes.ask(new_token())
        assert votes.all() == []


def test_looking_at_votes_makes_and_changes_nothing(study, tmp_path):
    assert survey.results(study).votes == 0 and not study.votes.exists()
    (tmp_path / "text").write_text("no database, but a letter to the editor\n" * 30)
    sqlite3.connect(tmp_path / "other.sqlite").execute("CREATE TABLE recipes (cake)")
    for path in ("typo.sqlite", "no/typo.sqlite", "text", "other.sqlite", "study"):
        with pytest.raises(DataError, match="The votes cannot be read"):
            survey.read_database(study, tmp_path / path)
    assert not (tmp_path / "typo.sqlite").exists() and not (tmp_path / "no").exists()
    path = tmp_path / "100% of them?.sqlite"
    with Votes(study, path, too_fast=0) as votes:
        votes.ask(token := new_token())
        votes.answer(token, 0, 1)
        assert survey.read_database(study, path) == votes.all() != []  # while it is served
    before = path.read_bytes()
    assert len(survey.read_database(study, path)) == 1 and path.read_bytes() == before


def test_csv_there_and_back(study, votes, tmp_path):
    for choice in (0, None):
        token = new_token()
        votes.ask(token)
        votes.answer(token, 0, choice)
    text = write_csv(votes.all())
    assert text.splitlines()[0] == "study,token,number,picture,shown,expected,choice,seconds"
    path = tmp_path / "votes.csv"
    path.write_text(text)
    assert read_csv(path) == votes.all()
    assert survey.results(study, read_csv(path) + votes.all()) == survey.results(study)
    path.write_text(text, encoding="utf-8-sig")  # as a spreadsheet saves it
    assert read_csv(path) == votes.all()
    line = text.splitlines()[1].rpartition(",")[0]
    times = [text.replace(line, f"{line},{time}\n{line}") for time in ("nan", "inf", "-5")]
    others = text.replace("ours|theirs", "his|hers").replace("theirs|ours", "his|hers")
    for broken in ("no,table\n1,2\n", others, "\0", *times):
        path.write_text(broken + "x,y\n" * (broken == "\0"))
        with pytest.raises(DataError, match="The votes cannot be read"):
            read_csv(path)


def test_votes_are_mirrored_to_the_hub_and_survive_its_failures(study, votes, hub, tmp_path):
    def uploaded():
        (file,) = [f for f in hub.repos["dataset", "org/votes"].find("main").tree if f.startswith("votes-")]
        (tmp_path / "got.csv").write_bytes(hub.repos["dataset", "org/votes"].find("main").tree[file].data)
        return read_csv(tmp_path / "got.csv")

    def vote():
        token = new_token()
        votes.ask(token)
        votes.answer(token, 0, 0)

    vote()
    mirror = Mirror(votes, "org/votes", every=1000)
    try:
        mirror.trigger().result()
        assert hub.repos["dataset", "org/votes"].private
        assert uploaded() == votes.all() and len(votes.all()) == 1
        assert mirror.trigger().result() is None, "nothing new, no commit"
        hub.expired.add("hf_of_the_tests")
        vote()
        with pytest.raises(HfHubHTTPError, match="401"):
            mirror.trigger().result()
        hub.expired.clear()
        vote()
        assert len(votes.all()) == 3
        mirror.trigger().result()
        assert uploaded() == votes.all()
    finally:
        mirror.stop()
        hub.expired.clear()
    with pytest.raises(PushRefused, match="somebody/votes.*HF_TOKEN"):
        Mirror(votes, "somebody/votes")
