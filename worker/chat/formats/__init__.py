"""How model families write their thinking, their answers and their calls: one record each."""
