def group_of(room):
    """The group of a room, as `group` in routes.toml."""
    return f"room_{room}"
