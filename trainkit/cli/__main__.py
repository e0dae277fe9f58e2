"""`python -m trainkit.cli`: the command line where no `trainkit` program is on the path."""

from trainkit.cli import main

main()
