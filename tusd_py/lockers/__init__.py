"""Who may work on an upload."""
