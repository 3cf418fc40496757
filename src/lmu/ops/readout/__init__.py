"""Read-outs of a linear memory at all steps: the algorithms, and their table in `dispatch`."""
