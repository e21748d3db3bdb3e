"""Tags for a user's own classes in files and messages: in angle brackets, which start no path and no name."""


def tag(name: str) -> str:
    """The tag of a class, by its name."""
    return f"<{name}>"


def module_tag(module: object) -> str:
    """The tag of a user's own module, `<package.Class>`."""
    return tag(f"{type(module).__module__}.{type(module).__qualname__}")


def is_tag(text: str) -> bool:
    """Whether a text is a tag, the user's own object, which cannot be found or downloaded by name."""
    return text.startswith("<")


def class_of(text: str) -> str:
    """The name of the class in a tag."""
    return text.strip("<>")
