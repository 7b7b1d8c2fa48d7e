"""Questions asked of a trace, one file each; `render` turns the answers into terminal text, HTML and JSON."""
