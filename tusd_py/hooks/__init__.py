"""What plugins can do, and how the server calls them."""
