"""Where the records of uploads are."""
