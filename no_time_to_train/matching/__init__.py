"""The matching core: memory bank, similarity, instances. Torch tensors or NumPy arrays, no files but its own bank."""

from no_time_to_train.matching.memory_bank import MemoryBank
from no_time_to_train.matching.scoring import Instances, match_masks

__all__ = ["Instances", "MemoryBank", "match_masks"]
