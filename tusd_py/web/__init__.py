"""HTTP: the only code that knows aiohttp."""
