"""The report that a training writes at the end."""

from ..runs import Folder


def write_report(folder: str, workers: int) -> None:
    from ..commands.report.report import write

    write(folder, workers=workers, say=Folder(folder).say)
