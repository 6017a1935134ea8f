"""The command line: one light module a command, and the modules with the work, imported when a command runs."""
