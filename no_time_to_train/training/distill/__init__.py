"""Distillation: a frozen teacher, and the students that learn its features."""

from no_time_to_train.training.distill.teacher import DinoV3Config, DinoV3Teacher

__all__ = ["DinoV3Config", "DinoV3Teacher"]
