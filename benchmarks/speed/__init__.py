"""Speed, measured against the floor: what the same work costs without this package."""
