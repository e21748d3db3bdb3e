"""Methods at equal cost: the question (`comparison`), the work (`working`), its costs, the order, and the words."""
