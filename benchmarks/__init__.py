"""Peers side by side on seeded instances; prints tables, writes JSON. Never imported by the package."""
