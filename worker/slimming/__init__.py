"""The mathematics: tensors and modules in, tensors and modules out.

It knows only torch: no Redis, storage, files, settings, logging, clock or transformers, so that it runs wherever a
model runs. The questions stay apart, each in its own module:

- where are the units?            `architectures`: a table, one row a model family
- how important is each?          `criteria`: a table of functions
- what is its gradient taken of?  `objectives`: the scalar of an example
- how is it accumulated?          `attribution`: hooks and running sums over the data
- which stay?                     `selection`: scores and a ratio to kept indices
- how are the tensors cut?        `surgery`: kept indices to smaller modules
- what mends the rest?            `repair`: training-free corrections of what stays
"""
