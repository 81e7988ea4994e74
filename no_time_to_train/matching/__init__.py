"""The matching core: memory bank, similarity, instances. Pure torch."""
