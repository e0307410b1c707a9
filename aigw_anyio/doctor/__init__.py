"""``aigw doctor``: looks at what a gateway would need, and says what is wrong, why, and what to do."""
