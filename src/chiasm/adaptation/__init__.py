"""What changes a built model: adapters that learn in its place, and weights of several made into those of one."""
