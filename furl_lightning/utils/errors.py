"""Bad input: what a user gave and cannot be used. Every other error keeps its traceback."""


class BadInput(ValueError):
    """What the user gave cannot be used; the message is one line that says what would be right."""
