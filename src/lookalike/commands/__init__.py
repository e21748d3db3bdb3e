"""The commands, one module or folder each. Only the command line imports them; lower layers do not."""
