"""The small world of the quickstart: its tables (*.toml) and the files generated from them."""
