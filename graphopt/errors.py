"""The one error that users see: what is wrong, with which file, in a line."""


class GraphoptError(Exception):
    """Bad input. The command line prints its message as one line and exits with code 3."""
