"""A trained model made into something that others use: an export that scores alone, a graph, a table's vectors."""
