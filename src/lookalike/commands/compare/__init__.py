"""Methods at equal cost: the question (`spec`), the work (`runner`), its costs, the order, and what is said of it."""
