"""Arrays and records in, one HTML page out that needs nothing beside itself: no network, no other file."""
