"""What goes wrong with data on a disk or a network."""


class DataError(RuntimeError):
    """Data are missing, corrupt or too small; the message is one line and says what to do."""
