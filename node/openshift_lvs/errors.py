"""The two ways in which a command of this program fails."""


class Refused(Exception):
    """The command changed nothing that it could not take back. The text names the cause and the remedy."""


class TimedOut(Refused):
    """A condition was not met before its deadline. The text says what was awaited and what was seen last."""
