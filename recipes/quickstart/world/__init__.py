"""The small world of the quickstart: its tables (*.toml) and what is made of them."""
