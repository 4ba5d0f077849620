"""HTML pages of one file each: one style sheet, one script and one content policy for all."""
