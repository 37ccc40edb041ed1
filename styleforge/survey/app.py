"""The page that voters see, and a page of results behind a key.

Voters get opaque pictures, letters, and the number of a question; who made what stays on the server, and every answer
is checked there against what the session was shown. Fonts come from the voter's machine, nothing is measured, and
nothing but the vote is kept: see :mod:`styleforge.survey.votes`.
"""

from __future__ import annotations

import base64
import hmac
import html
import logging
import os
import signal
import string
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from ..errors import ConfigError, MissingExtra, StyleforgeError
from .ranking import Results, results
from .study import SOURCE, Question, Study, load
from .votes import Mirror, Votes, is_token, new_token, write_csv

if TYPE_CHECKING:
    import gradio as gr

KEY_LENGTH = 12
PRIVACY = (
    "Kept are your answers, how long they took, and a random number in your browser that ties them together. "
    "Nothing about you is kept, and you may stop at any time."
)
_HELP = "Keys: {keys} choose, 0 cannot tell, O shows the original."
_CSS = """
.nav-holder { display: none; }  /* gr.Navbar(visible=False) is not heeded by gradio 6.31 */
.gradio-container { max-width: 1100px !important; margin: auto !important; overflow: clip !important; }
#head h1 { font-size: 1.4rem; margin: 0 0 .3rem; }
#head .bar { height: 6px; border-radius: 3px; background: var(--border-color-primary); margin-bottom: .2rem; }
#head .bar div { height: 100%; border-radius: 3px; background: var(--primary-500); }
#head .asked { color: #b3261e; font-weight: 600; } .dark #head .asked { color: #ff8a80; }
#pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 320px), 1fr)); }
#pictures img { max-height: 62vh; object-fit: contain; }
#choices { position: sticky; bottom: 0; z-index: 20; padding: .5rem 0; background: var(--body-background-fill);
    flex-wrap: nowrap; }
#choices button { min-height: 3rem; min-width: 0; padding: .25rem; white-space: nowrap; }
#choices #choice-none { min-width: max-content; padding: .25rem .5rem; }
#results .scroll { overflow-x: auto; max-width: calc(100vw - 6rem); }
#results table { border-collapse: collapse; margin: 1rem 0; white-space: nowrap; }
#results td, #results th { padding: .25rem .8rem; text-align: right; } #results td:first-child { text-align: left; }
@media (max-width: 640px) {
    .gradio-container { padding: .5rem !important; }
    #choices { gap: .5rem; } #choices button { font-size: .95rem; }
    #pictures.two img { max-height: 36vh; }
    #keys { display: none; } #head h1 { font-size: 1.15rem; }
}
"""
_KEYS = """<script>
addEventListener("keydown", event => {
    if (event.repeat || event.ctrlKey || event.metaKey || event.altKey) return;
    if (/^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName)) return;
    const key = event.key.toLowerCase();
    const place = ARROWS[key] ?? ("123456789".indexOf(key) + 1 || NaN) - 1;
    const id = key == "0" ? "choice-none" : key == "o" ? "original" : "choice-" + place;
    const button = document.querySelector(`button#${id}, #${id} button`);
    if (button) { event.preventDefault(); button.click(); }
});
</script>"""


def build(study: Study, votes: Votes, *, key: str | None = None) -> gr.Blocks:
    """The application: voting at `/`, and with a key the results at `/results`.

    Args:
        study: what is asked.
        votes: where answers go.
        key: what whoever wants to see results must type, so that voters do not; without one there is no such page.

    Raises:
        MissingExtra: gradio is not installed.
        ConfigError: a key that could be guessed.
    """
    gr = _gradio()
    if key is not None and len(key) < KEY_LENGTH:
        allowed, todo = f"{KEY_LENGTH} characters or more", "Take a longer one."
        raise ConfigError("The key for the results is too short", allowed=allowed, todo=todo)
    with gr.Blocks(title="Style survey", analytics_enabled=False) as page:
        _voting(gr, page, study, votes)
    if key is not None:
        with page.route("Results", "/results", show_in_navbar=False):
            _looking(gr, study, votes, key)
    return page.queue(default_concurrency_limit=32, max_size=1000)


def serve(
    study: Study | str | os.PathLike[str],
    *,
    database: str | os.PathLike[str] | None = None,
    dataset: str | None = None,
    key: str | None = None,
    **launch: Any,
) -> gr.Blocks:
    """Start the page and, unless `prevent_thread_lock=True`, stay with it.

    Args:
        study: a study, or its folder.
        database: of the votes; when None, the environment's STYLE_SURVEY_DB, or in the study's folder.
        dataset: on the Hub, to copy the votes to; when None, STYLE_SURVEY_DATASET, or none.
        key: for the page of results; when None, STYLE_SURVEY_KEY, or no such page.
        **launch: for `gradio.Blocks.launch`, as `server_name` and `server_port`.

    Raises:
        MissingExtra: gradio is not installed.
        DataError, CorruptFileError: no study there, a damaged one, or votes that cannot be kept.
        ConfigError: a key that could be guessed.
        PushRefused: the dataset cannot be used.
    """
    _gradio()
    study = study if isinstance(study, Study) else load(study)
    votes = Votes(study, database or os.environ.get("STYLE_SURVEY_DB"))
    page = build(study, votes, key=key or os.environ.get("STYLE_SURVEY_KEY") or None)
    if repo := dataset or os.environ.get("STYLE_SURVEY_DATASET"):
        Mirror(votes, repo)
        if not launch.get("prevent_thread_lock"):  # a Space stops with this; the last upload comes at exit
            signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    page.launch(**options(study), **launch)
    return page


def options(study: Study) -> dict[str, Any]:
    """What `gradio.Blocks.launch` needs for the page: looks, keys, and which files it may show."""
    gr = _gradio()
    return {
        "theme": gr.themes.Default(
            primary_hue="indigo", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
        ),
        "css": _CSS,
        "head": _KEYS.replace("ARROWS", "{arrowleft: 0, arrowright: 1}" if study.way == 2 else "{}"),
        "allowed_paths": [str((study.folder / "pictures").absolute())],
        "footer_links": [],
        "enable_monitoring": False,
        "ssr_mode": False,
    }


def _voting(gr: Any, page: Any, study: Study, votes: Votes) -> None:
    letters = string.ascii_uppercase[: study.way]
    session = gr.BrowserState(storage_key=f"style-survey-{study.id}", secret=study.id)
    number = gr.Number(visible=False)
    head = gr.HTML(elem_id="head")
    with gr.Column(visible=False) as voting:
        with gr.Row(elem_id="pictures", elem_classes="two" if study.way == 2 else "more"):
            pictures = [
                gr.Image(label=x, alt_text=f"Picture {x}", interactive=False, buttons=["fullscreen"]) for x in letters
            ]
        with gr.Row(elem_id="choices"):
            places: list[int | None] = list(range(study.way))
            places.insert((study.way + 1) // 2, None)
            buttons = [_button(gr, letters, place) for place in places]
        with gr.Accordion("The original", open=False, elem_id="original") as accordion:
            original = gr.Image(show_label=False, alt_text="The original", interactive=False, buttons=["fullscreen"])
        keys = "←, →" if study.way == 2 else f"1 to {study.way}"
        gr.HTML(f"<p>{_HELP.format(keys=keys)}</p>", elem_id="keys")
    gr.HTML(f"<p>{PRIVACY}</p>", elem_id="privacy")
    outputs = [session, number, head, voting, accordion, original, *pictures]

    def screen(token: str) -> list[Any]:
        question = votes.ask(token)
        total = len(study.plan(token))
        if question is None:
            thanks = f"<h1>Thank you!</h1><p>All {total} of your answers are saved. You may close this page.</p>"
            return [token, None, thanks, gr.Column(visible=False), gr.Accordion(open=False), *[None] * (1 + study.way)]
        shown = [str(study.picture(question.scene, name)) for name in (SOURCE, *question.shown)]
        header = _header(study, question, total)
        return [token, question.number, header, gr.Column(visible=True), gr.Accordion(open=False), *shown]

    def start(token: Any) -> list[Any]:
        return screen(token if is_token(token) else new_token())

    def choose(choice: int | None) -> Callable[[str, float], list[Any]]:
        def vote(token: str, number: float) -> list[Any]:
            votes.answer(token, int(number) if number is not None else -1, choice)
            return screen(token)

        return vote

    page.load(
        _polite(gr, start), session, outputs, api_name="start", api_visibility="undocumented", show_progress="hidden"
    )
    for place, button in zip(places, buttons, strict=True):
        button.click(
            _polite(gr, choose(place)),
            [session, number],
            outputs,
            api_name=button.elem_id,
            api_visibility="undocumented",
            show_progress="hidden",
        )


def _button(gr: Any, letters: str, place: int | None) -> Any:
    if place is None:
        return gr.Button("Cannot tell", elem_id="choice-none")
    return gr.Button(letters[place], variant="primary", elem_id=f"choice-{place}")


def _header(study: Study, question: Question, total: int) -> str:
    asked = html.escape(study.question)
    if question.expected is not None:
        letter = string.ascii_uppercase[question.shown.index(question.expected)]
        asked = f'<span class="asked">To show that you are reading this: please choose {letter} this time.</span>'
    done = question.number
    return (
        f'<h1>{asked}</h1><div class="bar"><div style="width:{done / total:.1%}"></div></div>'
        f"<small>{done + 1} of {total}</small>"
    )


def _looking(gr: Any, study: Study, votes: Votes, key: str) -> None:
    typed = gr.Textbox(label="Key", type="password")
    look = gr.Button("Show the results")
    shown = gr.HTML(elem_id="results")

    def show(given: str) -> str:
        if not hmac.compare_digest(str(given).encode(), key.encode()):
            raise ConfigError("This is not the key", todo="It is what STYLE_SURVEY_KEY was set to.")
        kept = votes.all()
        return _table(results(study, kept), write_csv(kept))

    gr.on([look.click, typed.submit], _polite(gr, show), typed, shown, api_visibility="private", concurrency_limit=1)


def _table(found: Results, table: str) -> str:
    rows = "".join(
        f"<tr><td>{html.escape(one.name)}</td><td>{one.wins}</td><td>{one.ties}</td>"
        + "".join(f"<td>{'' if x is None else f'{x:.2f}'}</td>" for x in (one.score, one.error, one.error_voters))
        + "</tr>"
        for one in found.competitors
    )
    pairs = "".join(
        f"<tr><td>{html.escape(a)} against {html.escape(b)}</td><td>{rate}</td><td>{ties}</td></tr>"
        for a, b, rate, ties in found.pairs
    )
    link = base64.b64encode(table.encode()).decode()
    left_out = f", {found.left_out} voters left out by attention checks" if found.left_out else ""
    return (
        f"<h2>{html.escape(found.question)}</h2><p>{found.votes} votes of {found.voters} voters{left_out}. "
        f"The first place was chosen: {found.first}. {html.escape(found.note or '')}</p>{found.svg()}"
        '<div class="scroll"><table><tr><th></th><th>chosen [95 %]</th><th>cannot tell</th><th>score</th>'
        f"<th>± votes</th><th>± voters</th></tr>{rows}</table>"
        f"<table><tr><th></th><th>the first [95 %]</th><th>cannot tell</th></tr>{pairs}</table></div>"
        f'<p><a download="votes.csv" href="data:text/csv;base64,{link}">All votes as CSV</a></p>'
    )


def _polite(gr: Any, function: Callable[..., Any]) -> Callable[..., Any]:
    """Our own errors as their sentence, everything else without details for strangers."""

    def call(*arguments: Any) -> Any:
        try:
            return function(*arguments)
        except StyleforgeError as error:
            raise gr.Error(str(error), duration=None, print_exception=False) from error
        except Exception as error:
            logging.getLogger(__name__).exception("The survey failed")
            raise gr.Error("Something failed here. Please load the page again.", print_exception=False) from error

    return call


def _gradio() -> Any:
    try:
        import gradio
    except ImportError as error:
        todo = "Install it with: pip install 'styleforge[demo]'"
        raise MissingExtra("The survey's page needs gradio", todo=todo) from error
    return gradio
