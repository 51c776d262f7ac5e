"""The `hf-ssl` command, one file a subcommand."""
