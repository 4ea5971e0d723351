"""Tables, as Markdown that can be read as it is."""


def markdown(header, rows):
    rows = list(rows)
    widths = [max(map(len, cells)) for cells in zip(header, *rows)]
    rule = ["-" * width for width in widths]
    padded = [[cell.ljust(width) for cell, width in zip(cells, widths)] for cells in [header, rule, *rows]]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in padded)
