"""Files of rows: read, checked and counted, without torch."""
