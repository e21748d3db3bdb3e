"""The page about runs. `report` has `report`, for any runs at any time, and `write`, for the end of a training."""
