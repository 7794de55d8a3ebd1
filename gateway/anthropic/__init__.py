"""Anthropic's APIs, one folder each; beside them what they share."""
