"""Commands that bring styles in, show them and send them out, and those about this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from .options import JSON, output_option, progress_bar


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@output_option("Folder for the style; new, or empty.")
@click.option("--name", help="Title of the style.")
@click.option("--license", help="Of the weights, as the Hub names it: say it if you know it.")
@click.option("--family", help="The only one that it may be, where several would do.")
@click.option("--network", help="The only network to take, by its name in the file.")
@click.option(
    "--norm-statistics",
    type=click.Choice(["running", "batch"]),
    help="Of batch norms in use: those of the training, or of each picture; as the project does it by default.",
)
@click.option("--raw", is_flag=True, help="Weights as they were trained last, where averaged ones are there too.")
def convert(file: Path, output: Path, raw: bool, **options: Any) -> None:
    """Make a style of another project's checkpoint FILE, or of a folder of such files.

    The architecture is found from the names and shapes of the tensors; nothing in the file is run.
    """
    from ..convert import convert_checkpoint

    made = convert_checkpoint(file, output, ema=not raw, **options)
    for note in made.notes:
        _note(note)
    click.echo(f"{output}  ({made.family}: {', '.join(made.networks)})")


@click.command()
@click.argument("place", type=click.Path(path_type=Path))
@click.option(
    "--check", "only_check", is_flag=True, help="Change nothing; find what is wrong. PLACE may be a file, too."
)
@click.option("--license", help="Of the weights, as the Hub names it, for example cc-by-4.0.")
@click.option("--license-name", help="Of a license that is 'other'.")
@click.option("--license-link", help="Where to read that.")
@click.option("--name", help="Title of the style.")
@click.option("--repo", help="ORGANISATION/NAME where it will live.")
@click.option("--summary", help="A sentence or two on what it does.")
@click.option("--data", help="What it was trained on, from where, and under which licenses.")
@click.option("--dataset", "datasets", multiple=True, help="Data set on the Hub; may be given several times.")
@click.option("--limits", help="What it does badly.")
@click.option("--base-model", help="Style on the Hub that it was adapted from.")
@click.option("--picture", type=click.Path(path_type=Path), help="Photograph for the strip of before and after.")
@click.option("--reference", type=click.Path(path_type=Path), help="Picture of a style, for networks that take any.")
@click.option("--credit", help="Who made the photograph, and its license.")
@JSON
def card(place: Path, only_check: bool, as_json: bool, datasets: tuple[str, ...], **options: Any) -> None:
    """Write the model card of PLACE, a run or a style, or bring it up to date; what you wrote into it stays."""
    from .. import cards

    if not only_check:
        click.echo(cards.write_card(place, datasets=list(datasets) or None, say=_note, **options))
        return
    found = cards.check(place)
    if as_json:
        click.echo(json.dumps([asdict(problem) for problem in found], indent=2))
    else:
        for problem in found:
            click.echo(problem)
    if any(problem.severity == "error" for problem in found):
        raise SystemExit(1)


@click.command()
@click.argument("style", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--license", help="Of the weights, as the Hub names it; that of the card by default.")
@click.option("--private/--public", default=None, help="Who sees it; as it is, or everybody, by default.")
@click.option("--revision", help="Branch to push to.")
@click.option("--create-pr", is_flag=True, help="Propose it as a pull request.")
@click.option("--message", "commit_message", help="Message of the commit.")
@click.option("--onnx", is_flag=True, help="Export the style as ONNX, too.")
@click.option("--dry-run", is_flag=True, help="Say what would happen, and send nothing.")
@JSON
def push(style: Path, repo_id: str, as_json: bool, **options: Any) -> None:
    """Publish STYLE (a folder, or a run's folder) as REPO_ID on the Hub, for example me/my-style, in one commit."""
    from ..push import push as publish

    made = publish(style, repo_id, **options)
    if as_json:
        click.echo(json.dumps(made.as_json(), indent=2))
        return
    for note in made.notes:
        _note(note)
    if made.left_out:
        _note(f"Left here, as no part of a style: {', '.join(made.left_out)}")
    if made.dry_run:
        for change in made.changes:
            click.echo(f"{change.what:10} {change.bytes:>12,}  {change.path}")
        click.echo(f"{made.upload / 1e6:.1f} MB would go to {made.repo_id}")
    else:
        if all(change.what == "unchanged" for change in made.changes):
            _note("Nothing has changed since the last push, and nothing was sent.")
        click.echo(made.url)


@click.command()
@click.option("--hub", is_flag=True, help="Ask the Hub as well.")
@click.option("--search", help="Text that the name holds.")
@JSON
def styles(hub: bool, search: str | None, as_json: bool) -> None:
    """List styles: those that come with the package, those downloaded before, and with --hub all others."""
    from ..discover import styles as find

    found = find(search, hub=hub)
    for sentence in found.missing:
        _note(sentence)
    if as_json:
        click.echo(json.dumps([row.as_json() for row in found], indent=2))
        return
    for row in found:
        size = "" if row.bytes is None else f", {row.bytes / 1e6:.1f} MB"
        click.echo(f"{row.name:40} {row.where:8} {row.architecture or 'unknown'}{size}")


@click.command()
@click.argument("styles", nargs=-1)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", type=click.IntRange(1, 65535), help="The next free one by default.")
@click.option("--share", is_flag=True, help="Make an address that anybody can open, through gradio's servers.")
def demo(styles: tuple[str, ...], host: str, port: int | None, share: bool) -> None:
    """Open the page of the Space on this machine, with STYLES or all that are bundled (extra 'demo')."""
    from ..demo import launch

    launch(host=host, port=port, share=share, styles=list(styles) or None)


@click.group()
def survey() -> None:
    """Ask people which style they like better, without telling them which is which."""


@survey.command()
@click.argument("competitors", nargs=-1, required=True)
@click.option("--images", type=click.Path(path_type=Path), required=True, help="Folder of pictures to be styled.")
@output_option("Folder of the study.")
@click.option("--size", type=click.IntRange(64), default=512, show_default=True, help="Longest side of what is shown.")
@click.option("--pictures", type=click.IntRange(1), help="How many of them; all by default.")
@click.option("--seed", type=int, default=0, show_default=True, help="Of that choice and all orders.")
@click.option("--reference", help="Picture of a style, for networks that take any.")
@click.option("--include-source", is_flag=True, help="The unstyled picture competes, too.")
@click.option("--question", help="What voters are asked.")
@click.option("--way", type=click.IntRange(2, 6), default=2, show_default=True, help="How many are compared at once.")
@click.option("--per-session", type=click.IntRange(1), default=30, show_default=True, help="Most questions a voter.")
@click.option("--checks", type=click.IntRange(0), default=0, show_default=True, help="Attention checks a voter.")
def prepare(competitors: tuple[str, ...], output: Path, **options: Any) -> None:
    """Style pictures with two or more COMPETITORS: runs, styles, folders of ready pictures; NAME=PATH names one."""
    from ..survey import prepare as make

    with progress_bar("picture") as show:
        make(list(competitors), output=output, on_picture=show, **options)
    click.echo(f"{output}: now `styleforge survey serve {output}`")


@survey.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--host", "server_name", default="127.0.0.1", show_default=True, help="0.0.0.0 lets other machines in.")
@click.option("--port", "server_port", type=click.IntRange(1, 65535), help="The next free one by default.")
@click.option("--database", type=click.Path(path_type=Path), help="Of the votes; in the study's folder by default.")
@click.option("--dataset", help="On the Hub, to copy the votes to.")
def serve(study: Path, **options: Any) -> None:
    """Open the page on which people vote about STUDY (extra 'demo').

    With STYLE_SURVEY_KEY in the environment, /results shows the results to those who know it.
    """
    from ..survey import app

    app.serve(study, **options)


@survey.command()
@click.argument("study", type=click.Path(path_type=Path))
@click.option("--database", type=click.Path(path_type=Path), help="Of the votes; in the study's folder by default.")
@click.option("--votes", type=click.Path(path_type=Path), multiple=True, help="CSV of votes in place of a database.")
@click.option("--csv", "as_csv", is_flag=True, help="The votes, one a line.")
@JSON
def results(study: Path, database: Path | None, votes: tuple[Path, ...], as_csv: bool, as_json: bool) -> None:
    """Say who won in STUDY: win rates with exact intervals, and Bradley-Terry scores."""
    from .. import survey as surveys

    for one, other, both in (("--votes", "--database", votes and database), ("--csv", "--json", as_csv and as_json)):
        if both:
            raise click.UsageError(f"Give {one} or {other}, not both.")
    found = surveys.load(study)
    if votes:
        cast = [vote for file in votes for vote in surveys.read_csv(file)]
    else:
        cast = surveys.read_database(found, database)
    if as_csv:
        click.echo(surveys.write_csv(cast).encode(), nl=False)  # as --votes reads it, whatever the terminal has
        return
    made = surveys.results(found, cast)
    click.echo(json.dumps(made.json(), indent=2) if as_json else made.text())


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print what completes commands and options in SHELL: `eval "$(styleforge completion bash)"` in its start file."""
    from click.shell_completion import get_completion_class

    from . import cli

    click.echo(get_completion_class(shell)(cli, {}, "styleforge", "_STYLEFORGE_COMPLETE").source())


@click.command()
@JSON
def doctor(as_json: bool) -> None:
    """Look at this machine: versions, devices, cache, what extras are missing. Exit code 1 when something is wrong."""
    from ..doctor import as_text, examine

    found = examine()
    click.echo(json.dumps([asdict(finding) for finding in found], indent=2) if as_json else as_text(found))
    if any(finding.state == "wrong" for finding in found):
        raise SystemExit(1)


def _note(text: str) -> None:
    """To standard error, so that standard output is the result alone."""
    click.echo(f"Note: {text}", err=True)
