"""Names of the files of a transform, apart from the code that reads them, which is heavy to import."""

INFO_FILE = "transform.json"
VOCABULARY_FILE = "vocabulary.arrow"
