"""The published experiments as recipes: runner, models, data and the report (``pip install 'nashsolve[experiments]'``)."""
