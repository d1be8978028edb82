"""`python -m hardprompts`: the command line, where scripts are not on the path."""

from hardprompts.cli import main

main()
