"""The ``stemseg`` command, one module per subcommand."""
