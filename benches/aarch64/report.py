"""How `run` and `mca` print: a table for people, then one JSON line a figure."""

import json


def table(columns, rows):
    """Columns are (heading, width, format, what gives the value of a row); text without a format stands left."""
    print()
    print("".join(f"{heading:>{width}}" if form else f"{heading:<{width}}" for heading, width, form, _ in columns))
    for row in rows:
        cells = ((width, form, value(row)) for _, width, form, value in columns)
        print("".join(f"{format(cell, form):>{width}}" if form else f"{cell:<{width}}" for width, form, cell in cells))


def figure(name, value, unit, **more):
    print(json.dumps({"figure": name, "value": round(value, 4), "unit": unit, **more}))
