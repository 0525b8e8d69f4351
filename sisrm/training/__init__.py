"""Training: degradation, data, one module per stage, one loop. `sisrm.training.command` is the command line's `train`."""
