"""What keeps a server from being run here."""


class Missing(Exception):
    """Something is not there; the message says what."""
