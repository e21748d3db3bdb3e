"""Comparison of methods at equal cost: options (`spec`), training and evaluation (`runner`), costs, ranking, text."""
