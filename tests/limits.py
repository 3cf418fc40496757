"""The one limit on time in the tests."""

# Whoever has not answered by then hangs. No test may come near it however busy the machine is.
HANG = 3600  # seconds
