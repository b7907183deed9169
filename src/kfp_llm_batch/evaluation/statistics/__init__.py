"""The statistics of one run and of two, by scipy and statsmodels."""
