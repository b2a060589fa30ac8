"""Decide by numbers: the same questions under several settings, compared hit by hit or measured against judgements."""
