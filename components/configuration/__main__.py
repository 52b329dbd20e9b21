"""`python -m components.configuration`: write the JSON Schema of a stack and the tables of the reference page anew from the model (`make schema`)."""

from pathlib import Path

from components.configuration import reference, schema

PROJECT = Path(__file__).parents[2]

page = PROJECT / reference.PAGE
page.write_text(reference.page(page.read_text()))
(PROJECT / schema.NAME).write_text(schema.text())
