"""`python -m styleforge` is the command `styleforge`."""

from .cli import main

main()
