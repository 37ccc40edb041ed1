"""The command line: what Python can do, from a terminal.

Nothing heavy is imported before a command runs, so that `--help` answers at once. One word for one thing: commands
about pictures take them as arguments and the style as `--style`; commands about a style take it as their argument.
Exit codes: 0 done, 1 something could not be done (a sentence on standard error says what), 2 the command was not
understood, 130 stopped by Ctrl-C, 143 by SIGTERM.
"""

from __future__ import annotations

import signal
import sys

import click

from .. import __version__
from ..errors import StyleforgeError
from . import learn, share, use

SECTIONS: dict[str, list[click.Command]] = {
    "Use styles": [use.stylize, use.batch, use.video, use.generate, use.invert, use.explain, use.export],
    "Make styles": [learn.data, learn.train, learn.adapt, learn.distill, learn.equalize, learn.report, learn.evaluate],
    "Share styles": [share.styles, share.convert, share.card, share.push, share.demo, share.survey],
    "This machine": [share.doctor, share.completion],
}


class Sections(click.Group):
    """Commands under headings, in the order in which a newcomer meets them."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All words, section by section."""
        return [str(command.name) for commands in SECTIONS.values() for command in commands]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """A heading each."""
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(str(c.name), c.get_short_help_str(200)) for c in commands])


@click.group(cls=Sections, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="styleforge")
def cli() -> None:
    """Image styles from GANs: use them, train them, share them."""


for _command in (command for commands in SECTIONS.values() for command in commands):
    cli.add_command(_command)


def main() -> None:
    """Run the command line; errors of ours and of the system become one sentence and exit code 1."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))  # temporary files go, as with Ctrl-C
    # As standard error has it: names of files need not be text, or of letters that the terminal knows.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
    try:
        cli(standalone_mode=False)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except StyleforgeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except OSError as error:  # of a full disk, or a place where nothing can be written
        told = StyleforgeError(error.strerror or str(error), where=error.filename, todo="Check the path and the disk.")
        click.echo(f"Error: {told}", err=True)
        sys.exit(1)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
