"""Where nashsolve meets other libraries; every room imports its own packages when it is used."""
