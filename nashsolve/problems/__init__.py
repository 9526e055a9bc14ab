"""Families of bargaining problems beyond the ball; all are answered with the same Solution."""
