"""The page that a training ends with."""

from ..runs import Folder


def write_report(folder: str, workers: int) -> None:
    from ..commands.report.report import write

    write(folder, workers=workers, say=Folder(folder).say)
