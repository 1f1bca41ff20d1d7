"""`python -m hermes3`: the program, for launchers that start modules, as torchrun does."""

from hermes3.cli import main

main()
