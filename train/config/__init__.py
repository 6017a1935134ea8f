"""Run files: typed sections, and reading them from TOML."""
