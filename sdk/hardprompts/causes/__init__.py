"""Why something cannot be read or opened: what lies in a file's place, and what an error of a library means."""
