"""Functions of the text primitives, stage by stage; taxonomy.py declares them."""
