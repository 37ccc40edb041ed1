"""Commands that bring styles in, show them and send them out, and those about this machine."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click

from .options import JSON


@click.command()
@click.argument("style", type=click.Path(path_type=Path))
@click.argument("repo_id")
@click.option("--private/--public", default=None, help="For a repository that does not exist yet.")
@click.option("--revision", help="Branch to push to.")
@click.option("--create-pr", is_flag=True, help="Propose it as a pull request.")
@click.option("--message", help="Message of the commit.")
def push(
    style: Path,
    repo_id: str,
    private: bool | None,
    revision: str | None,
    create_pr: bool,
    message: str | None,
) -> None:
    """Upload STYLE (a folder, or a run's folder) to REPO_ID on the Hub, for example me/my-style."""
    from ..hub import push_folder

    folder = style / "style" if (style / "style").is_dir() else style
    url = push_folder(folder, repo_id, private=private, revision=revision, create_pr=create_pr, commit_message=message)
    click.echo(url)


@click.command()
@JSON
def styles(as_json: bool) -> None:
    """List the styles that come with the package."""
    from ..hub import BUNDLED, CONFIG_NAME, WEIGHTS_NAME, bundled_styles

    rows = [
        {
            "name": name,
            "architecture": json.loads((BUNDLED / name / CONFIG_NAME).read_text())["_class_name"],
            "bytes": (BUNDLED / name / WEIGHTS_NAME).stat().st_size,
        }
        for name in bundled_styles()
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    for row in rows:
        click.echo(f"{row['name']:24} {row['architecture']}, {row['bytes'] / 1e6:.1f} MB")


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
