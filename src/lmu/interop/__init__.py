"""Models of other libraries and formats, read and written."""
