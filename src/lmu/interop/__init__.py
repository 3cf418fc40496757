"""Import and export of models in other libraries' formats."""
