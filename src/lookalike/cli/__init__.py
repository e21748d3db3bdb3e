"""The command line: one sub-command per verb, one per method under `pretrain`. Only this package imports tyro.

Each verb imports the heavy libraries it needs, so that help and lists appear within half a second.
"""

from .dispatch import entry as entry
from .dispatch import main as main
