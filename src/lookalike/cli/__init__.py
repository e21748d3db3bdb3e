"""The command line: one sub-command per verb, one per method under `pretrain`. Nothing else imports tyro.

Heavy libraries are imported by the verb that needs them: help and lists answer within half a second.
"""

from .dispatch import entry as entry
from .dispatch import main as main
