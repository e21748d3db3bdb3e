"""A run: its options (`Run`), its file `run.yaml`, its folder and its result (`Result`).

Lower packages, such as `encoders`, import only `runs.folder` and `runs.lookup`, which know no encoder and no method.
"""

from .environment import command_line, commit, made, version
from .folder import Folder, Row, features_made_by, features_name
from .mapping import (
    OF_MEMORY,
    check_keys,
    check_same_time,
    differences,
    dotted,
    flat,
    from_mapping,
    kinds_of,
    method_name,
    module_name,
    plain,
    read_run,
    run_text,
    structured,
    write_run,
)
from .old_names import renamed
from .options import Options, Precision, Resolved, Run
from .origins import Origin, by_user, is_stated, stated_of_method
from .result import Collapsed, Diverged, Result
from .yaml import LOCATIONS, directory_of, located, parse_yaml, read_whole_yaml, read_yaml, written_by

__all__ = [
    "LOCATIONS",
    "OF_MEMORY",
    "Collapsed",
    "Diverged",
    "Folder",
    "Options",
    "Origin",
    "Precision",
    "Resolved",
    "Result",
    "Row",
    "Run",
    "by_user",
    "check_keys",
    "check_same_time",
    "command_line",
    "commit",
    "differences",
    "directory_of",
    "dotted",
    "features_made_by",
    "features_name",
    "flat",
    "from_mapping",
    "is_stated",
    "kinds_of",
    "located",
    "made",
    "method_name",
    "module_name",
    "parse_yaml",
    "plain",
    "read_run",
    "read_whole_yaml",
    "read_yaml",
    "renamed",
    "run_text",
    "stated_of_method",
    "structured",
    "version",
    "write_run",
    "written_by",
]
