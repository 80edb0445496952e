"""Gated networks: train them soft, run them hard. Import the parts you need; this file imports nothing."""
