"""The commands, a module or folder for each. Nothing below imports them; the command line does."""
