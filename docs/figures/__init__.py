"""Write the tables and draw the pictures of README and docs from committed results."""
