"""The answers of a study in SQLite, safe for many threads and processes.

What is kept of a vote: study, picture, what was shown in which order, the choice, the seconds it took, and a random
token that ties the votes of one session together. Nothing about the person is kept or looked at: no address, no
browser, no name, no time of day (the moment a question appears is stored while it is open, at most for a day). The
token lives in the voter's browser and says nothing outside the study; whoever clears it is somebody new, so nothing
here stops one person from voting twice.
"""

from __future__ import annotations

import csv
import io
import math
import os
import re
import secrets
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import astuple, dataclass, fields
from pathlib import Path
from typing import Any, Self

from huggingface_hub import CommitScheduler

from ..errors import ConfigError, CorruptFileError, DataError, PushRefused
from ..files import write_text
from .study import Question, Study

_TOKEN = re.compile(r"[0-9a-f]{32}")
_DAY = 86_400.0
_SCHEMA = """
CREATE TABLE IF NOT EXISTS votes (
    study TEXT, token TEXT, number INTEGER, picture TEXT, shown TEXT, expected TEXT, choice TEXT, seconds REAL,
    PRIMARY KEY (study, token, number)
) WITHOUT ROWID;  -- sorted by token: the table does not remember who came when
CREATE TABLE IF NOT EXISTS open_questions (
    study TEXT, token TEXT, number INTEGER, since REAL, PRIMARY KEY (study, token, number)
) WITHOUT ROWID;
"""


@dataclass(frozen=True)
class Vote:
    """One answer.

    Attributes:
        study: id of the study.
        token: random name of the session.
        number: place of the question in it.
        picture: name of the scene.
        shown: competitors from left to right.
        expected: of an attention check, what the page asked for; else None.
        choice: a competitor, or None for "cannot tell".
        seconds: from question to answer.
    """

    study: str
    token: str
    number: int
    picture: str
    shown: tuple[str, ...]
    expected: str | None
    choice: str | None
    seconds: float


COLUMNS = [field.name for field in fields(Vote)]


def new_token() -> str:
    """A random name for a session."""
    return secrets.token_hex(16)


def is_token(text: object) -> bool:
    """Whether a browser's token has the form of :func:`new_token`."""
    return isinstance(text, str) and _TOKEN.fullmatch(text) is not None


class Votes:
    """The votes of a study.

    Every vote is on the disk before :meth:`answer` returns. A second answer to a question, from a double click or
    another tab, changes nothing; an answer to a question that was not asked is refused.

    Args:
        study: what is voted on.
        path: the database, made when missing, on a local disk; `STUDY/votes.sqlite` when None.
        too_fast: seconds in which an answer is the second half of a double click that meets the next question.

    Attributes:
        number: random number of the database, so that the votes of several can be collected in one place.

    Raises:
        CorruptFileError: the file is no database, or cannot be written.
    """

    def __init__(self, study: Study, path: str | os.PathLike[str] | None = None, too_fast: float = 0.4) -> None:
        self.too_fast = too_fast
        self.study, self.path, self._lock = study, Path(path or study.votes), threading.Lock()
        with self._telling():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            # One connection for all threads, each statement under the lock; other processes wait up to a minute.
            self._db = sqlite3.connect(self.path, timeout=60, isolation_level=None, check_same_thread=False)
            self._write_ahead()
            self._db.execute("PRAGMA synchronous = FULL")
        with self._transaction() as db:
            for statement in _SCHEMA.split(";")[:2]:
                db.execute(statement)
            if db.execute("PRAGMA user_version").fetchone() == (0,):
                db.execute(f"PRAGMA user_version = {secrets.randbelow(2**31 - 1) + 1}")
            (self.number,) = db.execute("PRAGMA user_version").fetchone()

    def ask(self, token: str) -> Question | None:
        """The next question of a session, noted as shown; None when there is none left.

        Raises:
            ConfigError: no token of :func:`new_token`.
        """
        plan = self._plan(token)
        with self._transaction() as db:
            db.execute("DELETE FROM open_questions WHERE since < ?", (time.time() - _DAY,))
            done = db.execute("SELECT number FROM votes WHERE study = ? AND token = ?", (self.study.id, token))
            answered = {number for (number,) in done}
            question = next((question for question in plan if question.number not in answered), None)
            if question:
                row = self.study.id, token, question.number, time.time()
                db.execute("INSERT OR REPLACE INTO open_questions VALUES (?, ?, ?, ?)", row)
        return question

    def answer(self, token: str, number: int, choice: int | None) -> bool:
        """Count a vote.

        Args:
            token: of the session.
            number: of the question.
            choice: place of the chosen picture from the left, from 0; None for "cannot tell".

        Returns:
            Whether it was counted; False when the question has been answered before, or was asked a moment ago.

        Raises:
            ConfigError: the question is not open in this session, or has no such picture.
        """
        plan = self._plan(token)
        if type(number) is not int or not 0 <= number < len(plan):
            raise _not_asked(number)
        scene, shown, expected = plan[number].scene, plan[number].shown, plan[number].expected
        if choice is not None and (type(choice) is not int or not 0 <= choice < len(shown)):
            allowed = f"0 to {len(shown) - 1}, or None"
            raise ConfigError("There is no such picture to choose", found=choice, allowed=allowed, todo="Reload.")
        key = self.study.id, token, number
        where = "study = ? AND token = ? AND number = ?"
        with self._transaction() as db:
            asked = db.execute(f"SELECT since FROM open_questions WHERE {where}", key).fetchone()
            if db.execute(f"SELECT 1 FROM votes WHERE {where}", key).fetchone():
                return False
            if not asked:
                raise _not_asked(number)
            seconds = max(0.0, time.time() - asked[0])
            if seconds < self.too_fast:
                return False
            row = (
                *key,
                scene.name,
                "|".join(shown),
                expected,
                None if choice is None else shown[choice],
                round(seconds, 1),
            )
            db.execute("INSERT INTO votes VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
            db.execute(f"DELETE FROM open_questions WHERE {where}", key)
        return True

    def all(self) -> list[Vote]:
        """Every vote of the study, in the order of the tokens."""
        with self._lock, self._telling():
            return _all(self._db, self.study)

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _plan(self, token: str) -> list[Question]:
        if not is_token(token):
            todo = "Load the page again."
            raise ConfigError("This is no token of a session", found=repr(token)[:60], todo=todo)
        return self.study.plan(token)

    def _write_ahead(self) -> None:
        """Turn WAL on; of several who open a new database at once SQLite refuses some without waiting."""
        for attempt in range(200):
            try:
                self._db.execute("PRAGMA journal_mode = WAL")
                return
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or attempt == 199:
                    raise
                time.sleep(0.05)

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything or nothing, and nobody else in between."""
        with self._lock, self._telling():
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
                self._db.execute("COMMIT")
            finally:
                if self._db.in_transaction:
                    self._db.execute("ROLLBACK")

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            todo = "Check the free space and who may write there; another path can be given."
            raise CorruptFileError("The votes cannot be kept", where=self.path, found=error, todo=todo) from error


def read_database(study: Study, path: str | os.PathLike[str] | None = None) -> list[Vote]:
    """The votes of a study as :class:`Votes` keeps them, who may go on meanwhile; nothing is made or changed.

    Args:
        study: what is voted on.
        path: the database; when None, that in the folder of the study, where none means no votes yet.

    Raises:
        DataError: missing, or no such database.
    """
    if path is None and not study.votes.exists():
        return []
    path = Path(path or study.votes)
    address = f"{path.absolute().as_uri()}?mode=rw"  # makes no file
    try:
        with closing(sqlite3.connect(address, uri=True, timeout=60)) as db:
            return _all(db, study)
    except sqlite3.Error as error:
        todo = "Give the database that `styleforge survey serve` has made."
        raise DataError("The votes cannot be read", where=path, found=error, todo=todo) from error


def write_csv(votes: Iterable[Vote]) -> str:
    """One line for each vote, under the names of :class:`Vote`; `shown` is joined by `|`, None is empty."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows([*astuple(vote)[:4], "|".join(vote.shown), *astuple(vote)[5:]] for vote in votes)
    return text.getvalue()


def read_csv(path: str | os.PathLike[str]) -> list[Vote]:
    """The votes of :func:`write_csv`, for instance from the dataset that a :class:`Mirror` fills.

    Raises:
        DataError: missing, or no such table.
    """
    try:
        with open(path, newline="", encoding="utf-8-sig") as file:  # spreadsheets put a mark at the beginning
            reader = csv.DictReader(file, strict=True)
            if reader.fieldnames != COLUMNS:
                raise ValueError(f"the columns are {reader.fieldnames}, not {COLUMNS}")
            return [_vote(row) for row in reader]
    except (OSError, ValueError, KeyError, TypeError, AttributeError, csv.Error) as error:
        todo = "Give a table that `styleforge survey results --csv` or the dataset of the votes holds."
        raise DataError("The votes cannot be read", where=path, found=repr(error), todo=todo) from error


class Mirror(CommitScheduler):
    """Copies the votes to a dataset on the Hub every few minutes, as one CSV for each database.

    The database stays the only truth: each commit holds all votes so far, so an upload that fails is made up for by
    the next one. Stop it with `stop()`; what is left is uploaded when Python ends.

    Args:
        votes: what to copy.
        repo_id: dataset, made private when missing.
        every: minutes between commits.
        token: Hub token; the saved one when None.

    Raises:
        PushRefused: the dataset cannot be reached or made.
    """

    def __init__(self, votes: Votes, repo_id: str, *, every: float = 5, token: str | None = None) -> None:
        self.votes = votes
        folder = votes.path.with_suffix(".upload")
        self.file = folder / f"votes-{votes.study.id}-{votes.number}.csv"
        try:
            super().__init__(
                repo_id=repo_id, folder_path=folder, every=every, repo_type="dataset", private=True, token=token
            )
        except Exception as error:  # the client raises its own kinds and those of httpx
            found = str(error).strip().split("\n")[0]
            todo = "Check its name and that the token may write (HF_TOKEN), or run without a dataset."
            raise PushRefused(
                "The dataset for the votes cannot be used", where=repo_id, found=found, todo=todo
            ) from error

    def push_to_hub(self) -> Any:
        """Write down the votes so far and commit them when there are new ones."""
        text = write_csv(self.votes.all())
        if not self.file.exists() or self.file.read_text(encoding="utf-8") != text:
            write_text(self.file, text)
        return super().push_to_hub()


def _all(db: sqlite3.Connection, study: Study) -> list[Vote]:
    rows = db.execute("SELECT * FROM votes WHERE study = ?", (study.id,)).fetchall()
    return [Vote(*row[:4], tuple(row[4].split("|")), *row[5:]) for row in rows]


def _vote(row: dict[str, str]) -> Vote:
    shown = tuple(row["shown"].split("|"))
    expected, choice = row["expected"] or None, row["choice"] or None
    if not {expected, choice} <= {None, *shown}:
        raise ValueError(f"a choice that was not shown: {row}")
    seconds = float(row["seconds"])
    if not 0 <= seconds < math.inf:
        raise ValueError(f"no such time: {row}")
    return Vote(row["study"], row["token"], int(row["number"]), row["picture"], shown, expected, choice, seconds)


def _not_asked(number: object) -> ConfigError:
    return ConfigError(
        "This vote is for a picture that was not shown here", found=f"question {number}", todo="Load the page again."
    )
