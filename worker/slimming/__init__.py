"""The mathematics of slimming: functions of tensors and modules.

This package imports torch, and scipy and scikit-learn for `merging`: no Redis, storage, files, settings, logging, clock
or transformers. Each module answers one question:

- `architectures`: which modules hold the units? One row for each model family.
- `units.locating`: which units does a loaded model have? One module for each kind of unit.
- `scoring.criteria`: how important is a unit? One formula for each criterion.
- `scoring.objectives`: of which scalar is the gradient taken?
- `scoring.attribution`: how are the scores accumulated over data?
- `experts.routing`: what do the experts of a layer do with the tokens that a router sends them?
- `allocation`: how many units does each group keep?
- `selection`: which units are kept?
- `masking`: what does a model compute without the removed units, before it is cut?
- `surgery.slicing`: how are the tensors cut?
- `surgery.config_sizes`: which config fields and module attributes change with a cut?
- `surgery.shapes`: which shapes will the parameters have after a cut?
- `repair`: how are the kept weights changed to make up for the removed units, without training?
- `recovery.losses`: what is a slim model trained towards?
- `merging`: which experts are alike, and how do several become one?
"""
