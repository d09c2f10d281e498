"""Embedded worlds: small places with a hidden gold utility, where the whole loop can be watched and measured."""
