"""Tables and pictures of README and docs from committed results."""
