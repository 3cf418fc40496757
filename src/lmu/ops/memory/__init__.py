"""Linear memories: a naive reference, the fast algorithms, and their table in `dispatch`."""
