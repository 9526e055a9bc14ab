"""The published experiments as recipes: runner, models, data and report (``pip install 'nashsolve[experiments]'``)."""
