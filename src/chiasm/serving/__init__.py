"""Models at work on a user's own pictures: their vectors on disk, an index to search, a page to look at it."""
