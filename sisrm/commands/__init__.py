"""The subcommands of `python -m sisrm`: for each one `add_..._arguments(parser)` and a function that runs it."""
