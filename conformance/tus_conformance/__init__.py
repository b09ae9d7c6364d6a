"""Says rule by rule of tus 1.0 what holds for a server, given its URL."""
