"""What a layer costs on this machine: time, memory, and the least that both can be."""
