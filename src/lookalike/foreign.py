"""How a user's own class stands in files and messages: in angle brackets, with which no path and no name begins."""


def tag(name: str) -> str:
    """The tag of a class of that name."""
    return f"<{name}>"


def module_tag(module: object) -> str:
    """The tag of a user's own module, `<package.Class>`."""
    return tag(f"{type(module).__module__}.{type(module).__qualname__}")


def is_tag(text: str) -> bool:
    """Whether a text stands for something that a user made: nothing of that name can be found or fetched."""
    return text.startswith("<")


def class_of(text: str) -> str:
    """The name of the class in a tag."""
    return text.strip("<>")
